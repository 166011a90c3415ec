"""The speech side of video-SALMONN 2: Whisper, then a Q-Former over short windows.

The Q-Former is BLIP-2's (arXiv:2301.12597) without a text branch, applied per window as in SALMONN (arXiv:2310.13289).
transformers' own (Blip2QFormerModel) insists on float32 in some versions, so it is written out here; a test compares the two.

Letters: P pieces of sound (30 s each), W windows in a piece, k encoder positions in a window, C width of Whisper, Q width
of the Q-Former, D width of the LLM.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class Speech(nn.Module):
    """Log-mel pieces [P, mels, 3000] -> audio tokens [P, W, D], before their segment position is added.

    `window` and `stride` count encoder positions (20 ms each). A piece always gives all its W tokens, padding included.
    """

    def __init__(self, whisper: WhisperConfig, qformer: dict, width: int, window: int, stride: int):
        super().__init__()
        self.window, self.stride = window, stride
        self.encoder = WhisperEncoder(whisper)
        self.norm = nn.LayerNorm(whisper.d_model)
        self.query = nn.Parameter(torch.empty(1, 1, qformer["hidden_size"]))
        self.qformer = QFormer(encoder_width=whisper.d_model, **qformer)
        self.project = nn.Linear(qformer["hidden_size"], width)
        self.final = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        positions = self.norm(self.encoder(mels).last_hidden_state)  # [P, 1500, C]
        windows = positions.unfold(1, self.window, self.stride).transpose(2, 3).flatten(0, 1)  # [P W, k, C]
        tokens = self.qformer(self.query.expand(len(windows), -1, -1), windows)  # [P W, 1, Q]
        return self.final(self.project(tokens)).unflatten(0, (len(mels), -1)).squeeze(2)


class QFormer(nn.Module):
    """Queries [B, q, Q] that look at windows [B, k, C] -> [B, q, Q]. No mask: every window is full.

    Attributes are named as in the checkpoint.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        encoder_width: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        layer_norm_eps: float,
    ):
        super().__init__()
        sizes = (hidden_size, encoder_width, num_attention_heads, intermediate_size, layer_norm_eps)
        self.embeddings = nn.ModuleDict({"LayerNorm": nn.LayerNorm(hidden_size, layer_norm_eps)})
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(*sizes) for _ in range(num_hidden_layers))})

    def forward(self, queries: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings["LayerNorm"](queries)
        for layer in self.encoder["layer"]:
            hidden = layer(hidden, windows)
        return hidden


class _Layer(nn.Module):
    def __init__(self, width: int, encoder_width: int, n_heads: int, mlp_width: int, eps: float):
        super().__init__()
        self.attention = _Attention(width, width, n_heads, eps)
        self.crossattention = _Attention(width, encoder_width, n_heads, eps)
        self.intermediate_query = nn.ModuleDict({"dense": nn.Linear(width, mlp_width)})
        self.output_query = _AddAndNorm(mlp_width, width, eps)

    def forward(self, hidden: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        hidden = self.attention(hidden, hidden)
        hidden = self.crossattention(hidden, windows)
        return self.output_query(gelu(self.intermediate_query["dense"](hidden)), hidden)


class _Attention(nn.Module):
    def __init__(self, width: int, source_width: int, n_heads: int, eps: float):
        super().__init__()
        self.n_heads = n_heads
        sizes = {"query": width, "key": source_width, "value": source_width}
        self.self = nn.ModuleDict({name: nn.Linear(size, width) for name, size in sizes.items()})
        self.output = _AddAndNorm(width, width, eps)

    def forward(self, hidden: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        inputs = {"query": hidden, "key": source, "value": source}
        heads = [self.self[name](x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for name, x in inputs.items()]
        return self.output(scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2), hidden)


class _AddAndNorm(nn.Module):
    """BERT's end of a block: dense, add what went in, then norm."""

    def __init__(self, width_in: int, width: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + residual)


def segment_positions(n_pieces: int, width: int) -> torch.Tensor:
    """float32 [P, D]: what is added to all tokens of a piece. Zeros for the first, the sinusoid of position s - 1 for piece s,
    sines on even and cosines on odd channels.
    """
    position = torch.arange(n_pieces - 1)[:, None]
    angle = position * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    sinusoid = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    return torch.cat([torch.zeros(1, width), sinusoid])
