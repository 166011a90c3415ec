"""BEATs audio encoder (arXiv:2212.09058, iter3+): log-mel patches -> features, with gated relative position bias.

Module names are those of its checkpoints. Letters: T frames, n tokens, D width, H heads, E head width, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.nn import functional as F

from fastav.models.videollama2.fbank import N_MELS

_MEAN, _STD = 15.41663, 6.55582  # of log-mel values in the training set


@dataclass(frozen=True)
class BeatsConfig:
    """Sizes of a tower, under the names of its config; the defaults are those of the published one."""

    input_patch_size: int = 16
    embed_dim: int = 512
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_layers: int = 12
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800

    def __post_init__(self):
        wrong = {name: value for name, value in vars(self).items() if type(value) is not int or value < 1}
        if wrong:
            raise ValueError(f"sizes of the audio tower must be whole numbers above 0, got {wrong}")

    @classmethod
    def of(cls, config: dict) -> BeatsConfig:
        """From a dict, which may hold more keys than these. Raises ValueError for a size that is none."""
        return cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})

    @property
    def n_bands(self) -> int:
        """Tokens per patch of time."""
        return N_MELS // self.input_patch_size

    def n_tokens(self, n_frames: int) -> int:
        """Tokens of so many log-mel frames; frames that fill no patch are left out."""
        return n_frames // self.input_patch_size * self.n_bands


class Beats(nn.Module):
    """Log-mel frames [T, 128] -> [n, D]; n = 8 (T // 16), time-major: of each 16 frames 8 bands, the lowest first."""

    _no_split_modules = ["Beats"]

    def __init__(self, config: BeatsConfig):
        super().__init__()
        patch, width = config.input_patch_size, config.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, stride=patch, bias=False)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = nn.Linear(config.embed_dim, width)
        self.encoder = BeatsEncoder(config)

    def forward(self, fbank: torch.Tensor) -> torch.Tensor:
        dtype = self.patch_embedding.weight.dtype
        x = self.patch_embedding(normalized(fbank).to(dtype)[None, None])  # [1, d, time, band]
        x = self.layer_norm(x.flatten(2).transpose(1, 2))
        return self.encoder(self.post_extract_proj(x))[0]


class BeatsEncoder(nn.Module):
    """[1, n, D] -> [1, n, D]: convolutional positions, a norm, then post-norm layers that share one table of distances."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.n_buckets, self.max_distance = config.num_buckets, config.max_distance
        self.pos_conv = nn.Sequential(PositionConv(config), nn.GELU())
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.relative_attention_bias = nn.Embedding(config.num_buckets, config.encoder_attention_heads)
        self.layers = nn.ModuleList(BeatsLayer(config) for _ in range(config.encoder_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer_norm(x + self.pos_conv(x))
        bias = self.position_bias(x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def position_bias(self, n: int, device) -> torch.Tensor:
        """[H, n, n]: what the table says of the distance from each query (row) to each key (column), not yet gated."""
        place = torch.arange(n, device=device)
        buckets = relative_buckets(place[None] - place[:, None], self.n_buckets, self.max_distance)
        return self.relative_attention_bias(buckets).permute(2, 0, 1)


class PositionConv(nn.Module):
    """Grouped convolution over the tokens, [1, n, D] -> [1, n, D], weights normalised per tap of the kernel.

    Not torch's weight_norm: here the norm runs over the dims 0 and 1 and has 1e-6 under its root.
    """

    def __init__(self, config: BeatsConfig):
        super().__init__()
        width, self.groups = config.encoder_embed_dim, config.conv_pos_groups
        self.weight_g = nn.Parameter(torch.empty(1, 1, config.conv_pos))
        self.weight_v = nn.Parameter(torch.empty(width, width // self.groups, config.conv_pos))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.weight_v.to(torch.promote_types(x.dtype, torch.float32))  # many thousand squares are summed
        weight = (self.weight_g * v / (v.square().sum((0, 1), keepdim=True) + 1e-6).sqrt()).to(x.dtype)
        out = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=weight.shape[-1] // 2, groups=self.groups)
        return out[..., : x.shape[1]].transpose(1, 2)  # an even kernel gives one too many


class BeatsLayer(nn.Module):
    """Post-norm layer with the deep norm: the residual counts alpha = (2 L)^(1/4) times."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        width = config.encoder_embed_dim
        self.alpha = math.pow(2 * config.encoder_layers, 0.25)
        self.self_attn = GatedAttention(width, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = self.self_attn_layer_norm(self.alpha * x + self.self_attn(x, bias))
        return self.final_layer_norm(self.alpha * x + self.fc2(F.gelu(self.fc1(x))))


class GatedAttention(nn.Module):
    """Self-attention with a position bias [H, n, n] that each query scales by a gate of its own.

    Logits and weights are float32 or wider: logits reach the range where 16 bits are coarse or overflow.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.grep_linear = nn.Linear(width // n_heads, 8)
        self.grep_a = nn.Parameter(torch.empty(1, n_heads, 1, 1))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # [1, H, n, E]
        wide = torch.promote_types(x.dtype, torch.float32)
        a, b = self.grep_linear(q).to(wide).unflatten(-1, (2, 4)).sum(-1).sigmoid().split(1, -1)  # [1, H, n, 1]
        gate = a * (b * self.grep_a - 1) + 2  # wide, and so is its product with a bias of 16 bits
        logits = q.to(wide) @ k.to(wide).transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = (logits + gate * bias).softmax(-1)
        # Written as V^T W^T: half of the tokens are the same padding, and summed as W V their rounding errors add up on a CPU.
        out = (v.to(wide).transpose(-1, -2) @ weights.transpose(-1, -2)).flatten(1, 2).transpose(1, 2)  # [1, n, D]
        return self.out_proj(out.to(x.dtype))


def normalized(fbank: torch.Tensor) -> torch.Tensor:
    """Log-mel values by the statistics of the training set, in float32."""
    return (fbank.float() - _MEAN) / (2 * _STD)


def relative_buckets(distance: torch.Tensor, n_buckets: int, max_distance: int) -> torch.Tensor:
    """Row of the bias table for each distance (key minus query), LongTensor of the same shape.

    Half of the table is for keys after the query. In each half, small distances have a row each, larger ones share rows in
    logarithmic steps up to `max_distance`, and the last row is for all beyond.
    """
    half = n_buckets // 2
    exact = half // 2
    size = distance.abs()
    steps = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)
    coarse = (exact + steps.long()).clamp(max=half - 1)
    return half * (distance > 0) + torch.where(size < exact, size, coarse)
