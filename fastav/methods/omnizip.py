"""OmniZip: sound says how much of each stretch of picture stays; unheard sound is merged into anchors (arXiv:2511.14582)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastav.layout import AUDIO, PAD, VIDEO, TokenLayout
from fastav.methods.cut import BEFORE, Cut, Method, candidates
from fastav.methods.scores import FromFeatures, Known, best_of_groups
from fastav.methods.setting import setting
from fastav.methods.windows import runs, windows

ANCHORS = 0.05  # of the audio tokens
LEAST, MOST = 0.35, 0.75  # share of a window's video that leaves
NEIGHBOURS = 5
_BLOCK = 64  # frames, or audio tokens, whose distances are held at a time


@dataclass(frozen=True)
class OmniZip(Method):
    """Sound says how much of each stretch of picture stays, and sound that leaves is merged into anchors, before the decoder.

    rho_a, rho_v are the shares that leave, 1 - keep_audio and 1 - keep_video: .3 and .6, or .4 and .7 in the paper.
    Audio: round((1 - rho_a) N_a) tokens stay, the most attended in their encoder. Of the others R, m = min(round(.05 N_a), |R|)
    anchors R[0], R[s], ... with s = floor(|R| / m) stay too. Each token left goes to its most similar anchor; of an anchor's, the
    `merge` that are most similar to any video token are averaged with weights softmax(similarity), and the anchor becomes the
    mean of itself and that average.
    Video: of window i leaves b_i = .75 - .4 S_i, S_i being the share of its audio that stays. With more than two such windows,
    all but the first smallest and the first largest b are scaled, then shifted, within .35 and .75, so that rho_v of their video
    leaves in all; rho_v leaves where there is no audio. Of a frame's n tokens, which are those of the smallest time step,
    floor(n (1 - b)) stay. In a run's frames 0, 2, ... the density peaks: highest delta rho, with d = 1 - cosine, rho = exp(-mean
    d to the 5 nearest others) and delta the distance to the nearest token of higher rho, or the frame's greatest distance. In
    frames 1, 3, ... those least similar to the same place one frame before. Tokens beyond the last whole frame leave; a run
    shorter than a frame stays.

    Positions stay original. This is the reference code's `omnizip_core`; the paper squares distances, pairs sound with the same
    window alone and meets its budget strictly. It acts only where there are both picture and sound.
    Deviations: where the layout has no `importance_in_clip`, all audio counts the same and tokens at equal distances stay, as
    in `stride`; the first ones would leave the end of a clip unheard. Windows of models with one run of each stream are time
    windows (see windows.py), for there rho_v would do nothing; frames go on alternating through the whole run.
    Choosing costs the distances inside every second frame, those of half the frames to their neighbours, and those of the audio
    tokens that leave to all video tokens.
    Written from the rules; the reference code has no licence, and nothing of it is used.
    """

    name = "omnizip"

    keep_audio: float = setting(0.7, "share of the audio tokens that stays, apart from anchors (.05 of all)", low=0, high=1)
    keep_video: float = setting(0.4, "share of the video tokens that stays", low=0, high=1)
    merge: int = setting(3, "audio tokens merged into each anchor; 0: there are no anchors", low=0)

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        free, window, pads = candidates(layout), windows(layout), layout.kind == PAD
        if len({*layout.kind[window >= 0]}) < 2:
            return {}
        chosen = self.choose(layout, window)
        stages = (
            Cut(int(free.sum()) - chosen.n_kept, free, FromFeatures(chosen.compute)),
            Cut(int(pads.sum()), pads, Known(np.zeros(len(layout), np.float32))),
        )
        stages = tuple(cut for cut in stages if cut.n_removed)
        return {BEFORE: stages} if stages else {}

    def choose(self, layout: TokenLayout, window: np.ndarray) -> Choice:
        """What follows from the layout and the window int64 [N] of each token, -1 for tokens that stay."""
        audio, video = (np.flatnonzero((window >= 0) & (layout.kind == kind)) for kind in (AUDIO, VIDEO))
        dominant = _dominant(audio, layout.importance_in_clip, round(self.keep_audio * len(audio)))
        others = np.setdiff1d(audio, dominant)
        n_anchors = min(round(ANCHORS * len(audio)), len(others)) if self.merge else 0
        anchors = others[: n_anchors * (len(others) // max(n_anchors, 1)) : len(others) // max(n_anchors, 1) or 1]
        known = np.zeros(len(layout), bool)
        known[dominant] = known[anchors] = True

        n_windows = int(window.max()) + 1
        n_audio, n_heard, n_video = (
            np.bincount(window[each], minlength=n_windows) for each in (audio, np.flatnonzero(known), video)
        )
        paired = (n_audio > 0) & (n_video > 0)
        leaving = np.full(n_windows, 1 - self.keep_video)
        budget = (1 - self.keep_video) * n_video[paired].sum()
        leaving[paired] = rates(n_heard[paired] / n_audio[paired], n_video[paired], budget)

        size = int(np.unique(layout.step[video], return_counts=True)[1].min())
        number, frames, times = runs(layout), [], []
        for run in range(int(number[video].max()) + 1):
            at = video[number[video] == run]
            if len(at) < size:
                known[at] = True
            frames += at[: len(at) // size * size].reshape(-1, size).tolist()
            times += range(len(at) // size)
        frames, times = np.array(frames, np.int64).reshape(-1, size), np.array(times, np.int64)
        n_kept = np.floor(size * (1 - leaving[window[frames[:, 0]]])).astype(np.int64)
        return Choice(known, anchors, np.setdiff1d(others, anchors), frames, times, n_kept, self.merge, leaving)


def _dominant(audio: np.ndarray, importance: np.ndarray | None, n: int) -> np.ndarray:
    """The n most important of the positions `audio`, of equals the first; at equal distances where no importance is known."""
    if importance is None:
        return audio[(2 * np.arange(n) + 1) * len(audio) // (2 * max(n, 1))]
    return np.sort(audio[np.argsort(-importance[audio], kind="stable")[:n]])


def rates(share: Sequence[float], size: Sequence[int], budget: float) -> np.ndarray:
    """float64 [windows]: the share of video that leaves each window, of which `share` of the audio stays and which has `size`
    video tokens; `budget` tokens are to leave in all.
    """
    rate, size = MOST - (MOST - LEAST) * np.asarray(share, float), np.asarray(size, float)
    if len(rate) > 2 and abs(rate @ size - budget) > 1e-3:
        others = np.ones(len(rate), bool)
        others[[rate.argmin(), rate.argmax()]] = False
        fixed = rate[~others] @ size[~others]
        rate[others] = np.clip(rate[others] * (budget - fixed) / (rate[others] @ size[others]), LEAST, MOST)
        if abs(lacking := budget - rate @ size) > 1e-3:
            rate[others] = np.clip(rate[others] + lacking / size[others].sum(), LEAST, MOST)
    return rate


@dataclass(frozen=True, eq=False)
class Choice:
    """What is known before the embeddings are.

    known    bool [N]: audio that stays, and video in runs shorter than a frame.
    anchors  int64 [m]: original positions; pool int64 [P]: of the audio that leaves.
    frames   int64 [F, n]: original positions; times int64 [F]: the frame's number in its run; kept int64 [F]: tokens that stay.
    merge    tokens merged into each anchor. rates float64 [windows]: share of the video that leaves.
    """

    known: np.ndarray
    anchors: np.ndarray
    pool: np.ndarray
    frames: np.ndarray
    times: np.ndarray
    kept: np.ndarray
    merge: int
    rates: np.ndarray

    @property
    def n_kept(self) -> int:
        return int(self.known.sum() + self.kept.sum())

    def compute(self, layout: TokenLayout, features):
        """See FromFeatures."""
        import torch

        def here(array):
            return torch.from_numpy(array).to(features.device)

        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        unit = wide / (wide.norm(dim=-1, keepdim=True) + 1e-6)
        values = here(self.known).to(unit.dtype)
        even = np.flatnonzero(self.times % 2 == 0)
        for block in np.split(even, range(_BLOCK, len(even), _BLOCK)):
            at = here(self.frames[block])
            values[at] = _best(peaks(unit[at]), here(self.kept[block]))
        odd = np.flatnonzero(self.times % 2)
        at, before = here(self.frames[odd]), here(self.frames[odd - 1])
        values[at] = _best(-(unit[at] * unit[before]).sum(-1), here(self.kept[odd]))
        rows = features.clone()
        if len(self.anchors):
            anchors, pool, video = here(self.anchors), here(self.pool), here(np.flatnonzero(layout.kind == VIDEO))
            merged = averaged(wide, unit, anchors, pool, video, self.merge)
            rows[anchors] = merged.to(rows.dtype)
        return values, rows


def _best(score, n_kept):
    """[F, n]: 1 for the n_kept [F] highest of each row, 0 for the others."""
    import torch

    return best_of_groups(score, torch.zeros_like(score, dtype=torch.long), n_kept[:, None])


def peaks(unit):
    """[F, n]: delta rho of each token among those of its frame; unit [F, n, D]."""
    import torch

    distance = 1 - unit @ unit.mT
    others = distance.clone()
    others.diagonal(0, -2, -1).fill_(torch.inf)
    nearest = others.topk(min(NEIGHBOURS, max(others.shape[-1] - 1, 1)), dim=-1, largest=False).values
    rho = (-nearest.mean(-1)).exp()
    higher = rho[:, None, :] > rho[..., None]
    delta = torch.where(higher, distance, torch.inf).min(-1).values
    return rho * torch.where(delta.isinf(), distance.flatten(1).max(-1, keepdim=True).values, delta)


def averaged(features, unit, anchors, pool, video, most: int):
    """[m, D]: the anchors after up to `most` of their tokens of the pool [P] are merged into each. features, unit [N, D]."""
    import torch

    owner = (unit[pool] @ unit[anchors].T).argmax(-1)
    relevance = torch.cat([(block @ unit[video].T).max(-1).values for block in unit[pool].split(_BLOCK)])
    each = torch.full((1, len(anchors)), most, device=owner.device)
    weight = best_of_groups(relevance[None], owner[None], each)[0] * relevance.exp()
    weight = weight * (owner == torch.arange(len(anchors), device=owner.device)[:, None])  # [m, P]
    total = weight.sum(-1, keepdim=True)
    return torch.where(total > 0, (features[anchors] + weight @ features[pool] / total) / 2, features[anchors])
