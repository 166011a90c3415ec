"""`python tests/browser/stub_app.py`: the page on a small random decoder, for work on the page where no weights are at hand.

Layout and token counts are FastAV-tiny's; the answers are words drawn by a random model and mean nothing.
"""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

WORDS = "a red bell and blue car are visible yes no left right siren is heard drum bird".split()


class StubAdapter:
    """128 video tokens of 8 frames, 200 audio tokens, 16 of text, eight layers."""

    name, checkpoint, n_new_tokens = "tiny", "random", 12
    about = "A random model behind the page: its answers mean nothing."

    def __init__(self):
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        from fastav.media import uniform

        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=97, hidden_size=48, intermediate_size=96, num_hidden_layers=8, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.2, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        self.model = Qwen2ForCausalLM(config).eval()
        self.read_options = {"sampler": uniform(8), "size": (112, 112)}

    def encode(self, clip):
        import torch

        return torch.randn(344, 48, generator=torch.Generator().manual_seed(int(clip.sha256[:8], 16)))

    def prepare(self, features, clip, question):
        from fastav.layout import TokenLayout, first_audio
        from fastav.models.adapter import Inputs

        video = [("video", 128, 8)] if clip.has_video else []
        audio = [("audio", 200)] if clip.has_audio else []
        layout = TokenLayout.of(("text", 2), *video, *audio, ("text", 14))
        return Inputs(features[None, : len(layout)], layout.with_facts(rule_keep=first_audio(layout, 40)))

    def decode(self, ids):
        return " ".join(WORDS[i % len(WORDS)] for i in ids)


if __name__ == "__main__":
    import fastav.models

    fastav.models.load_model = lambda name, checkpoint=None, **settings: StubAdapter()
    runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
