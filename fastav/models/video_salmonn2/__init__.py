"""video-SALMONN 2 (arXiv:2506.15220; not 2+): SigLIP, Whisper and a Q-Former, Qwen2."""
