"""VideoLLaMA2.1-7B-AV (arXiv:2406.07476): SigLIP and STC connector, BEATs, Qwen2."""
