"""STC connector v35 of VideoLLaMA2 (arXiv:2406.07476): space-time convolution between the image encoder and the LLM.

Residual blocks as in RegNet (arXiv:2003.13678): bottleneck ratio 1, depthwise 3x3, squeeze-and-excite, with LayerNorm over
channels in place of batch norm. Module names are those of its checkpoints. Letters: F frames, C channels, h x w pixels.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

_DEPTH = 4  # blocks before and after the sampler


class STCConnector(nn.Module):
    """Patch features [F, h*w, C_in] of a square grid, row-major -> video tokens [F//2, (h//2)*(w//2), C_out], row-major.

    An odd last frame, row or column is left out.
    """

    _no_split_modules = ["Block"]

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.s1 = _blocks(in_channels, channels)
        self.sampler = nn.Sequential(nn.Conv3d(channels, channels, 2, stride=2), nn.SiLU())
        self.s2 = _blocks(channels, channels)
        self.readout = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        side = round(features.shape[1] ** 0.5)
        x = self.s1(features.transpose(1, 2).unflatten(2, (side, side)))  # [F, C, h, w]
        x = self.sampler(x.transpose(0, 1)[None])[0].transpose(0, 1)  # [F//2, C, h//2, w//2]
        return self.readout(self.s2(x).flatten(2).transpose(1, 2))


def _blocks(in_channels: int, channels: int) -> nn.Sequential:
    widths = [in_channels, *[channels] * _DEPTH]
    return nn.Sequential(OrderedDict((f"b{i + 1}", Block(widths[i], widths[i + 1])) for i in range(_DEPTH)))


class Block(nn.Module):
    """[F, C_in, h, w] -> [F, C_out, h, w], each frame by itself."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, channels)
        self.conv2 = ConvNorm(channels, channels, kernel=3, groups=channels)
        self.se = SqueezeExcite(channels, round(in_channels / 4))
        self.conv3 = ConvNorm(channels, channels)
        self.downsample = ConvNorm(in_channels, channels) if in_channels != channels else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        main = self.conv3(self.se(F.silu(self.conv2(F.silu(self.conv1(x))))))
        return F.silu(main + (x if self.downsample is None else self.downsample(x)))


class ConvNorm(nn.Module):
    """Convolution of the same size, then LayerNorm over the channels of each pixel (in a checkpoint it is called bn)."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that sees the frame's mean of all channels."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.fc2 = nn.Conv2d(width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
