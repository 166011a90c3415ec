"""Arrays -> mp4 file, by moviepy, which is imported when first needed: the page must start quickly."""

from __future__ import annotations

import os
import tempfile

import numpy as np

from fastav.clip.clip import AUDIO_RATE, checked_audio, checked_frames


def write_clip(path, frames, fps: float, audio, rate: int = AUDIO_RATE) -> None:
    """Write uint8 [F, h, w, 3] frames and float [S] mono sound (None: no audio stream) as H.264 + AAC mp4.

    Width and height must be even: 4:2:0, the only subsampling that browsers play, needs that. Sound beyond
    0.99 of full scale is clipped. Raises ValueError on other shapes or types, OSError when writing fails.
    """
    from moviepy import AudioClip, VideoClip

    frames = checked_frames(frames)
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"width and height must be even, got {frames.shape[2]}x{frames.shape[1]}")

    # moviepy truncates duration * rate to a count: half a step more gives just that many frames and samples.
    video = VideoClip(lambda t: frames[round(t * fps)], duration=(len(frames) + 0.5) / fps)
    if audio is not None:
        # Not AudioArrayClip: with one channel it answers with two and writes the sound at half speed.
        sound = checked_audio(audio)[:, None]

        def samples_at(t_sec):
            return sound[np.rint(np.asarray(t_sec) * rate).astype(int)]

        video = video.with_audio(AudioClip(samples_at, duration=(len(sound) + 0.5) / rate, fps=rate))
    with tempfile.TemporaryDirectory() as scratch:  # moviepy's default is the current directory
        video.write_videofile(
            os.fspath(path),
            fps=fps,
            codec="libx264",
            audio_codec="aac",
            audio_fps=rate,
            audio_bitrate="48k",  # of one channel; without both limits a small clip is a third larger
            temp_audiofile_path=scratch,
            ffmpeg_params=["-crf", "26", "-pix_fmt", "yuv420p", "-movflags", "+faststart"],
            logger=None,
        )
