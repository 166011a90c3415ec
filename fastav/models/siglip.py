"""Frames as SigLIP wants them, the image tower of VideoLLaMA2.1 and video-SALMONN 2."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

SIZES = {  # google/siglip-so400m-patch14-384
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}


def resize(frame: np.ndarray, side: int) -> np.ndarray:
    """uint8 [h, w, 3] -> [side, side, 3], stretched, by PIL's antialiased bicubic filter, which both models were trained with."""
    if frame.shape[:2] == (side, side):
        return frame
    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))


def pixel_values(frames: np.ndarray) -> torch.Tensor:
    """uint8 [F, h, w, 3] -> float32 [F, 3, h, w] in -1..1."""
    return (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
