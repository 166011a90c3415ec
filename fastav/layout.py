"""TokenLayout: what each position of a prompt is. Pure: numpy only, no model, no method.

Index space: everything here is indexed by *original position* 0..N-1, the position in the prompt that enters layer 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fastav.errors import UserError

KINDS = ("text", "video", "audio", "pad")
TEXT, VIDEO, AUDIO, PAD = range(4)


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """What each of the N positions of one prompt is.

    kind       int8 [N]: TEXT, VIDEO, AUDIO or PAD (left padding of a batch).
    frame      int32 [N]: the video frame (or temporal step) a token belongs to, -1 where it belongs to none.
               In interleaved layouts audio tokens carry the frame they follow; newline and time tokens carry their
               frame and count as video.
    chunk      int32 [N]: the running number of an audio token among the audio tokens, -1 elsewhere.
    padding    bool [N]: audio tokens that encode zero padding and no sound.
    rule_keep  bool [N] or None: the media tokens that the model's own global rule keeps (set by its adapter).
    influence  float32 [N] or None: calibrated rollout value per token (set from a plan), for "informative" rules.
    request_id what identifies clip and question; seeds the random rules.
    model      name of the model whose adapter made it, "" where none did; a plan of another model is refused.
    """

    kind: np.ndarray
    frame: np.ndarray
    chunk: np.ndarray
    padding: np.ndarray
    rule_keep: np.ndarray | None = None
    influence: np.ndarray | None = None
    request_id: str = field(default="", compare=False)
    model: str = ""

    @classmethod
    def of(cls, *segments: tuple) -> TokenLayout:
        """A layout from consecutive segments: ("text", n), ("video", n_tokens, n_frames) or ("audio", n_tokens[, n_sounding]).

        `("video", 676, 4)` is 4 frames of 169 tokens; `n_sounding` marks the audio tokens from there on as padding.
        An interleaved layout repeats ("video", n, 1), ("audio", n): each audio segment then belongs to the frame before it.
        Raises UserError for an unknown kind or a count that the frames do not divide.
        """
        interleaved = sum(segment[0] == "video" for segment in segments) > 1
        kind, frame, chunk, padding = [], [], [], []
        n_frames = n_audio = 0
        for name, n, *rest in segments:
            if name not in KINDS:
                raise UserError(f"unknown token kind {name!r}; allowed: {', '.join(KINDS)}")
            kind += [KINDS.index(name)] * n
            frames, pads, chunks = [-1] * n, [False] * n, [-1] * n
            if name == "video":
                parts = rest[0] if rest else 1
                if n % parts:
                    raise UserError(f"{n} video tokens do not divide into {parts} frames")
                frames = [n_frames + i // (n // parts) for i in range(n)] if n else []
                n_frames += parts if n else 0
            elif name == "audio":
                chunks = list(range(n_audio, n_audio + n))
                n_audio += n
                pads = [i >= rest[0] for i in range(n)] if rest else pads
                frames = [n_frames - 1] * n if interleaved else frames
            frame, chunk, padding = frame + frames, chunk + chunks, padding + pads
        return cls(np.array(kind, np.int8), np.array(frame, np.int32), np.array(chunk, np.int32), np.array(padding, bool))

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
        """True when video tokens come after audio tokens: audio then goes with its frame."""
        audio = np.flatnonzero(self.kind == AUDIO)
        return bool(audio.size) and bool((np.flatnonzero(self.kind == VIDEO) > audio[0]).any())

    @property
    def media_offset(self) -> np.ndarray:
        """int64 [N]: the running number among the media tokens (per frame for interleaved layouts), -1 elsewhere.

        This is the index space of a calibrated curve: it does not depend on the length of the text before the media.
        """
        offset = self.frame.astype(np.int64) if self.interleaved else np.cumsum(self.media) - 1
        return np.where(self.media, offset, -1)

    def count(self, mask: np.ndarray | None = None) -> dict[str, int]:
        """Tokens of each kind, of all positions or of those in `mask` (bool [N])."""
        kind = self.kind if mask is None else self.kind[mask]
        return {name: int((kind == i).sum()) for i, name in enumerate(KINDS) if name != "pad" or (self.kind == PAD).any()}

    def with_facts(self, **facts) -> TokenLayout:
        """The same layout with rule_keep, influence, request_id or model filled in."""
        return replace(self, **facts)

    def subset(self, keep: np.ndarray) -> TokenLayout:
        """The layout of a shorter prompt that holds the positions in `keep` (bool [N]) alone, renumbered from 0."""
        arrays = {name: value[keep] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)

    def runs(self) -> list[list]:
        """The layout as [kind, frame, count] runs: short enough for a record, enough to draw it."""
        runs: list[list] = []
        for kind, frame in zip(self.kind.tolist(), self.frame.tolist(), strict=True):
            if runs and runs[-1][:2] == [KINDS[kind], frame]:
                runs[-1][2] += 1
            else:
                runs.append([KINDS[kind], frame, 1])
        return runs


def first_audio(layout: TokenLayout, n: int) -> np.ndarray:
    """Keep all video tokens and the first `n` audio tokens (VideoLLaMA2's rule in the paper: n = 10). bool [N]."""
    return (layout.kind == VIDEO) | ((layout.chunk >= 0) & (layout.chunk < n))


def first_frames(layout: TokenLayout, n: int) -> np.ndarray:
    """Keep audio and video tokens of the first `n` frames (video-SALMONN 2's rule in the paper: n = 4). bool [N]."""
    return layout.media & (layout.frame >= 0) & (layout.frame < n)


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
            "build the layout yourself: fastav.TokenLayout.of(('text', n), ('video', n, frames), ...)"
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
    chunk = np.where(kind == AUDIO, np.cumsum(kind == AUDIO) - 1, -1)
    return TokenLayout(kind, _frames(kind, inputs, config), chunk.astype(np.int32), np.zeros(len(kind), bool))


def _frames(kind: np.ndarray, inputs, config) -> np.ndarray:
    """int32 [N]: the temporal step of each video token, read from the grids; audio between steps goes with the step before."""
    video = kind == VIDEO
    frame = np.full(len(kind), -1, np.int32)
    sizes = []
    merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", 2) ** 2
    for name in ("image_grid_thw", "video_grid_thw"):
        grid = inputs.get(name)
        for t, h, w in [] if grid is None else grid[: len(grid) // len(inputs["input_ids"])].tolist():
            sizes += [h * w // merge] * t
    if sum(sizes) == video.sum():
        frame[video] = np.repeat(np.arange(len(sizes)), sizes)
    else:
        frame[video] = 0
    audio = np.flatnonzero(kind == AUDIO)
    if audio.size and video.any() and np.flatnonzero(video)[-1] > audio[0]:
        seen = np.maximum.accumulate(frame)
        frame[audio] = np.maximum(seen[audio], 0)
    return frame
