"""What Qwen2.5-Omni is given: which frames and how large, patches, log-mels. No weights.

Sources: transformers' processor of this family, and the defaults of the publisher's own reader (QwenLM/Qwen2.5-Omni,
qwen-omni-utils) for which frames to take and how large.

Letters: F frames, T time steps of 2 frames, S samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from fastav.clip.clip import AUDIO_RATE, Clip
from fastav.errors import UserError

# The publisher's limits. 768 frames are 384 s at 2 per second, beyond which a step stands for more than its second; the total
# is 90 % of 128,000 tokens of 28 x 28 pixels in 2 frames and binds from 300 frames on. At least 4 frames: two temporal steps.
FPS, MIN_FRAMES, MAX_FRAMES = 2.0, 4, 768
MIN_PIXELS, MAX_PIXELS, TOTAL_PIXELS = 128 * 28 * 28, 768 * 28 * 28, int(0.9 * 128_000 * 28 * 28)
FRAMES_PER_STEP = 2
SECONDS_PER_STEP = FRAMES_PER_STEP / FPS  # the publisher's processor takes this for every clip, however far apart its frames are


def sample_frames(n_frames: int, fps: float, duration_sec: float = 0.0) -> list[int]:
    """Sampler: indices of an even number of frames, 2 per second from the first to the last; one frame alone is taken twice."""
    limit = min(MAX_FRAMES, n_frames)
    n = int(min(max(n_frames / fps * FPS, MIN_FRAMES), limit)) // FRAMES_PER_STEP * FRAMES_PER_STEP
    return torch.linspace(0, n_frames - 1, max(n, FRAMES_PER_STEP)).round().long().tolist()


def frame_size(height: int, width: int, n_frames: int, factor: int = 28) -> tuple[int, int]:
    """(height, width) that each of `n_frames` frames is resized to: multiples of `factor`, between the limits in pixels.

    Raises UserError for a picture more than 200 times as long as wide.
    """
    limit = max(min(MAX_PIXELS, TOTAL_PIXELS * FRAMES_PER_STEP // n_frames), int(1.05 * MIN_PIXELS))
    try:
        return smart_resize(height, width, factor, MIN_PIXELS, limit)
    except ValueError as error:
        raise UserError(f"a picture of {width} x {height} is too narrow for this model ({error})") from error


def left_out(clip: Clip, n_samples: int) -> tuple[str, ...]:
    """What a reader of the answer should know of the clip that the model is not given; n_samples: of sound at most."""
    notes = []
    if min(clip.n_source_frames, clip.n_source_frames / max(clip.fps, 1e-9) * FPS) > MAX_FRAMES:
        notes.append(f"the video is longer than {MAX_FRAMES / FPS:g} s: {MAX_FRAMES} frames, evenly over it, are taken")
    if len(clip.audio) > n_samples:
        notes.append(f"sound after {n_samples / AUDIO_RATE:g} s is left out")
    return tuple(notes)


def audio_tokens(n_mel: int) -> int:
    """Tokens of `n_mel` spectrogram frames of 10 ms: halved by a convolution, then pooled in pairs; 25 a second."""
    return max(((n_mel - 1) // 2 + 1) // 2, 0)


def resize(frame: np.ndarray, n_frames: int, factor: int = 28) -> np.ndarray:
    """uint8 [h, w, 3] -> the size that each of `n_frames` frames is given, see `frame_size`."""
    height, width = frame_size(*frame.shape[:2], n_frames, factor)
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def patches(frames: np.ndarray, settings, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [F, h, w, 3] -> what the vision encoder reads, float32 [patches, 3 * 2 * patch * patch], and its grid [1, 3].

    settings: of the checkpoint's image processor.
    """
    patch, merge, steps = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    if pad := -len(frames) % steps:
        frames = np.concatenate([frames, frames[-1:].repeat(pad, 0)])
    frames = np.stack([resize(frame, len(frames), patch * merge) for frame in frames])
    f, height, width = frames.shape[:3]
    t, gh, gw = f // steps, height // patch, width // patch
    mean, std = (torch.tensor(v, device=device) for v in (settings.image_mean, settings.image_std))
    pixels = (torch.from_numpy(frames).to(device) * settings.rescale_factor - mean) / std
    pixels = pixels.view(t, steps, gh // merge, merge, patch, gw // merge, merge, patch, 3)
    pixels = pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)  # step, block row and column, patch in the block, colour, frame, pixel
    return pixels.reshape(t * gh * gw, -1), torch.tensor([[t, gh, gw]])


def spectrogram(sound: np.ndarray, extractor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [S] at 16 kHz -> log-mel [1, 128, n] and which of its frames hold sound [1, n], 100 a second, 300 s at most.

    The publisher pads every sound to 300 s. A window of zeros behind the last sample gives the same frames in less time.
    """
    hop, window = extractor.hop_length, extractor.n_fft
    n_samples = min((math.ceil(len(sound) / hop) + math.ceil(window / hop)) * hop, extractor.n_samples)
    found = extractor(
        [sound],
        sampling_rate=AUDIO_RATE,
        padding="max_length",
        max_length=n_samples,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return found["input_features"], found["attention_mask"]
