"""Windows: the stretches of a clip in which methods share a budget between picture and sound. Pure: numpy only."""

from __future__ import annotations

import numpy as np

from fastav.layout import AUDIO, VIDEO, TokenLayout
from fastav.methods.cut import candidates


def windows(layout: TokenLayout) -> np.ndarray:
    """int64 [N]: the window of each audio and video token that may leave, counted from 0; -1 for all others.

    Window i is the i-th run of video and the i-th run of audio; runs that are left over are windows of their own. Qwen2.5-Omni
    takes turns every 2 s. A prompt with one run of each that shows more than two time steps (VideoLLaMA2, FastAV-tiny) has time
    windows instead, one for each time step of its video; a sound goes to the nearest.
    """
    number = runs(layout)
    steps = np.unique(layout.step[(layout.kind == VIDEO) & (number >= 0)])
    if number.max(initial=-1) == 0 and not layout.single_stream and len(steps) > 2:
        video, audio = (np.flatnonzero((layout.kind == kind) & (number >= 0)) for kind in (VIDEO, AUDIO))
        number[video] = np.searchsorted(steps, layout.step[video])
        firsts = video[np.searchsorted(number[video], range(len(steps)))]
        number[audio] = _nearest(layout.time_sec[audio], layout.time_sec[firsts])
    return number


def runs(layout: TokenLayout) -> np.ndarray:
    """int64 [N]: the number of the run to which a token that may leave belongs, among those of its kind; -1 for all others.

    A run is as many adjacent tokens of one kind as there are.
    """
    number = np.full(len(layout), -1)
    for kind in (VIDEO, AUDIO):
        here = candidates(layout) & (layout.kind == kind)
        number[here] = (np.cumsum(np.diff(here, prepend=False) & here) - 1)[here]
    return number


def _nearest(seconds: np.ndarray, step_sec: np.ndarray) -> np.ndarray:
    """int64 [A]: the time step nearest to each sound. One without a time (padding) goes with the sound before it. Where nothing
    has a time, sounds are shared out in equal parts.
    """
    timed = ~np.isnan(seconds)
    if np.isnan(step_sec).any() or not timed.any():
        return np.arange(len(seconds)) * len(step_sec) // len(seconds)
    step = np.searchsorted((step_sec[1:] + step_sec[:-1]) / 2, np.where(timed, seconds, -np.inf))
    return np.maximum.accumulate(step)
