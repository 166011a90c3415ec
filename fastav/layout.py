"""TokenLayout: what each position of a prompt is. Pure: numpy only, no model, no method.

Index space: everything here is indexed by *original position* 0..N-1, the position in the prompt that enters layer 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fastav.errors import UserError

KINDS = ("text", "video", "audio", "pad")
TEXT, VIDEO, AUDIO, PAD = range(4)


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """What each of the N positions of one prompt is.

    kind           int8 [N]: TEXT, VIDEO, AUDIO or PAD (left padding of a batch).
    step           int32 [N]: the time step of a video token (one frame, or the few that the model takes together), -1 where
                   there is none. In interleaved layouts audio tokens carry the time step they follow; newline and time
                   tokens carry theirs and count as video.
    audio_index    int32 [N]: the running number of an audio token among the audio tokens, -1 elsewhere.
    audio_padding  bool [N]: audio tokens that encode zero padding and no sound.
    question       bool [N]: the text tokens of the question; none where whoever made the layout does not know them.
    time_sec       float32 [N]: the middle of what a media token sees or hears, in seconds of the clip; NaN for all others,
                   for audio padding, and where it is not known.
    grids          (rows, columns) of the video tokens of each time step, which come row by row; () where not known. Newline
                   tokens are the last column, time tokens come after the last row.
    importance     float32 [N] or None: the attention that a media token received in its encoder's last layer from the tokens of
                   its two time steps, or of its 2 s of sound; 0 for all others. None where the adapter does not say.
    importance_in_clip  the same of a sound, from all sounds of the clip.
    rule_keep      bool [N] or None: the media tokens that the model's own global rule keeps (set by its adapter).
    influence      float32 [N] or None: calibrated rollout value per token (set from a plan), for "informative" rules.
    request_id     what identifies clip and question; seeds the random rules.
    model          name of the model whose adapter made it, "" where none did; a plan of another model is refused.
    """

    kind: np.ndarray
    step: np.ndarray
    audio_index: np.ndarray
    audio_padding: np.ndarray
    question: np.ndarray
    time_sec: np.ndarray
    grids: tuple[tuple[int, int], ...] = ()
    importance: np.ndarray | None = None
    importance_in_clip: np.ndarray | None = None
    rule_keep: np.ndarray | None = None
    influence: np.ndarray | None = None
    request_id: str = field(default="", compare=False)
    model: str = ""

    @classmethod
    def of(cls, *segments: tuple) -> TokenLayout:
        """A layout from consecutive segments: ("text", n), ("question", n), ("video", n_tokens, n_steps) or
        ("audio", n_tokens[, n_sounding]).

        `("video", 676, 4)` is 4 time steps of 169 tokens; `n_sounding` marks the audio tokens from there on as padding.
        An interleaved layout repeats ("video", n, 1), ("audio", n): each audio segment then belongs to the time step before it.
        Raises UserError for an unknown kind or a count that the time steps do not divide.
        """
        interleaved = sum(segment[0] == "video" for segment in segments) > 1
        kind, step, audio_index, audio_padding, question = [], [], [], [], []
        n_steps = n_audio = 0
        for name, n, *rest in segments:
            if name not in (*KINDS, "question"):
                raise UserError(f"unknown token kind {name!r}; allowed: {', '.join(KINDS)}, question")
            kind += [TEXT if name == "question" else KINDS.index(name)] * n
            question += [name == "question"] * n
            steps, pads, indices = [-1] * n, [False] * n, [-1] * n
            if name == "video":
                parts = rest[0] if rest else 1
                if n % parts:
                    raise UserError(f"{n} video tokens do not divide into {parts} time steps")
                steps = [n_steps + i // (n // parts) for i in range(n)] if n else []
                n_steps += parts if n else 0
            elif name == "audio":
                indices = list(range(n_audio, n_audio + n))
                n_audio += n
                pads = [i >= rest[0] for i in range(n)] if rest else pads
                steps = [n_steps - 1] * n if interleaved else steps
            step, audio_index, audio_padding = step + steps, audio_index + indices, audio_padding + pads
        return cls(
            np.array(kind, np.int8),
            np.array(step, np.int32),
            np.array(audio_index, np.int32),
            np.array(audio_padding, bool),
            np.array(question, bool),
            np.full(len(kind), np.nan, np.float32),
        )

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def media(self) -> np.ndarray:
        """bool [N]: audio and video tokens, the candidates of global pruning."""
        return (self.kind == VIDEO) | (self.kind == AUDIO)

    @property
    def single_stream(self) -> bool:
        """True when only one of audio and video is there: the model's rule then keeps everything."""
        return not ((self.kind == VIDEO).any() and (self.kind == AUDIO).any())

    @property
    def interleaved(self) -> bool:
        """True when video tokens come after audio tokens: audio then goes with its time step."""
        audio = np.flatnonzero(self.kind == AUDIO)
        return bool(audio.size) and bool((np.flatnonzero(self.kind == VIDEO) > audio[0]).any())

    @property
    def media_offset(self) -> np.ndarray:
        """int64 [N]: the running number among the media tokens (the time step in interleaved layouts), -1 elsewhere.

        This is the index space of a calibrated curve: it does not depend on the length of the text before the media.
        """
        offset = self.step.astype(np.int64) if self.interleaved else np.cumsum(self.media) - 1
        return np.where(self.media, offset, -1)

    def count(self, mask: np.ndarray | None = None) -> dict[str, int]:
        """Tokens of each kind, of all positions or of those in `mask` (bool [N])."""
        kind = self.kind if mask is None else self.kind[mask]
        return {name: int((kind == i).sum()) for i, name in enumerate(KINDS) if name != "pad" or (self.kind == PAD).any()}

    def with_facts(self, **facts) -> TokenLayout:
        """The same layout with some of its fields filled in."""
        return replace(self, **facts)

    def timed(self, step_sec: Sequence[float] = (), audio_sec: Sequence[float] = ()) -> TokenLayout:
        """The layout with `time_sec`: step_sec[t] for the video tokens of time step t, audio_sec[i] for audio token i."""
        time_sec = np.full(len(self), np.nan, np.float32)
        video, audio = self.kind == VIDEO, (self.kind == AUDIO) & ~self.audio_padding
        if len(step_sec):
            time_sec[video] = np.asarray(step_sec)[self.step[video]]
        if len(audio_sec):
            time_sec[audio] = np.asarray(audio_sec)[self.audio_index[audio]]
        return replace(self, time_sec=time_sec)

    def subset(self, keep: np.ndarray) -> TokenLayout:
        """The layout of a shorter prompt that holds the positions in `keep` (bool [N]) alone, renumbered from 0."""
        arrays = {name: value[keep] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)

    def runs(self) -> list[list]:
        """The layout as [kind, time step, count] runs: short enough for a record, enough to draw it."""
        runs: list[list] = []
        for kind, step in zip(self.kind.tolist(), self.step.tolist(), strict=True):
            if runs and runs[-1][:2] == [KINDS[kind], step]:
                runs[-1][2] += 1
            else:
                runs.append([KINDS[kind], step, 1])
        return runs


def first_audio(layout: TokenLayout, n: int) -> np.ndarray:
    """Keep all video tokens and the first `n` audio tokens (VideoLLaMA2's rule in the paper: n = 10). bool [N]."""
    return (layout.kind == VIDEO) | ((layout.audio_index >= 0) & (layout.audio_index < n))


def first_steps(layout: TokenLayout, n: int) -> np.ndarray:
    """Keep audio and video tokens of the first `n` time steps (video-SALMONN 2's rule in the paper: 4 frames). bool [N]."""
    return layout.media & (layout.step >= 0) & (layout.step < n)


def first_positions(layout: TokenLayout, n: int) -> np.ndarray:
    """Keep media tokens at original position < n (the paper's general statement: n = 750). bool [N]."""
    return layout.media & (np.arange(len(layout)) < n)


def layout_of(inputs, config) -> TokenLayout:
    """The layout of a native transformers model's processor output.

    `inputs` is a mapping with `input_ids` [B, N], optionally `attention_mask` [B, N] and `video_grid_thw` / `image_grid_thw`;
    `config` is the model's config, whose media token ids are read. Every row must have the same layout.
    Raises UserError when the rows differ or the config names no media token id.
    """
    ids = np.asarray(inputs["input_ids"].cpu())
    kind = np.full(ids.shape, TEXT, np.int8)
    known = False
    for name, code in (("image_token", VIDEO), ("video_token", VIDEO), ("audio_token", AUDIO)):
        for token_id in {getattr(config, f"{name}_id", None), getattr(config, f"{name}_index", None)} - {None}:
            kind[ids == token_id] = code
            known = True
    if not known:
        raise UserError(
            f"{type(config).__name__} names no media token id (image_token_id, video_token_id, audio_token_id); "
            "build the layout yourself: fastav.TokenLayout.of(('text', n), ('video', n, steps), ...)"
        )
    mask = inputs.get("attention_mask")
    if mask is not None:
        kind[np.asarray(mask.cpu()) == 0] = PAD
    if (kind != kind[0]).any():
        raise UserError("the rows of this batch have different layouts; batch only rows with the same layout")
    kind = kind[0]
    pads = np.flatnonzero(kind == PAD)
    if pads.size and pads[-1] != pads.size - 1:
        raise UserError("padding must be on the left (tokenizer.padding_side = 'left')")
    audio_index = np.where(kind == AUDIO, np.cumsum(kind == AUDIO) - 1, -1).astype(np.int32)
    step, grids = _steps(kind, inputs, config)
    audio_padding, question = np.zeros((2, len(kind)), bool)
    return TokenLayout(kind, step, audio_index, audio_padding, question, np.full(len(kind), np.nan, np.float32), grids)


def _steps(kind: np.ndarray, inputs, config) -> tuple[np.ndarray, tuple]:
    """int32 [N], the time step of each video token, and the grid of each step, read from the processor's grids; audio between
    steps goes with the step before.
    """
    video = kind == VIDEO
    step = np.full(len(kind), -1, np.int32)
    grids = []
    merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", 2)
    for name in ("image_grid_thw", "video_grid_thw"):
        found = inputs.get(name)
        for t, h, w in [] if found is None else found[: len(found) // len(inputs["input_ids"])].tolist():
            grids += [(h // merge, w // merge)] * t
    sizes = [rows * columns for rows, columns in grids]
    if sum(sizes) == video.sum():
        step[video] = np.repeat(np.arange(len(sizes)), sizes)
    else:
        step[video], grids = 0, []
    audio = np.flatnonzero(kind == AUDIO)
    if audio.size and video.any() and np.flatnonzero(video)[-1] > audio[0]:
        seen = np.maximum.accumulate(step)
        step[audio] = np.maximum(seen[audio], 0)
    return step, tuple(grids)
