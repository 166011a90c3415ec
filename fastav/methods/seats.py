"""SEATS: diverse tokens enter, the last query chooses window by window, and late layers see text alone (arXiv:2605.20035)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastav.layout import AUDIO, PAD, VIDEO, TokenLayout
from fastav.methods.cut import BEFORE, Cut, Method, candidates
from fastav.methods.scores import BestOfGroups, FromFeatures, Known, LastQuery, Score, best_of_groups
from fastav.methods.setting import setting
from fastav.methods.windows import windows

ENTERING = 1.4  # share that enters the decoder, of the share averaged over the layers
DROPS, LATE = (16, 18, 20), 24  # of 28 layers, counted from 1: pruned after these; the first that sees text alone
AUDIO_WINDOW = 50  # tokens; a window of video is two time steps
TEMPERATURE = 0.1


@dataclass(frozen=True)
class SEATS(Method):
    """Diverse tokens enter, then the last query chooses window by window, and late layers see text alone.

    r is a stream's share, averaged over the layers; e = 1.4 r of it enter.
    1. Before layer 0, in windows of two time steps of video and of 50 audio tokens, round(e w) of w tokens stay, at least one:
       first argmax_j a_j min_{i != j} d_ij, then again and again argmax_j a_j min_{i kept} d_ij, with d = 1 - cosine of the
       embeddings and a the attention that the token received in its encoder.
    2. After layers 16, 18 and 20 of 28, counted from 1, a share q of each stream stays, chosen as `Budgets` says. The levels are
       e (1 - t cumsum w) with w ~ (1, exp 1, exp 2), and t such that their mean over the layers is r: q = .9298, .7949, .2986.
    3. From layer 24 on, all audio and video has left.
    With L layers, layer l becomes round(l L / 28). Steps of 2 that then fall together, or on 3, are one, and t is found anew.

    Positions stay original. Each layer's cache holds what that layer computed on; the reference code narrows the caches of all
    earlier layers too, so that from its second new token on no layer sees any media. The FLOPs of the prefill are the same.
    Other deviations: a is 1 where the layout has no `importance`, as the reference code has it too; windows of models with one
    run of each stream are time windows (see windows.py); where fewer tokens are to stay than one of each stream in each window,
    the best of each stream stay, since the reference code then keeps more than it says.
    Choosing costs the distances inside each window and, in 2, one more projection of all keys in each of the three layers.
    Written from the rules; the reference code has an MIT text whose README asks for contact on commercial use, and nothing of it
    is used.
    """

    name = "seats"

    keep_video: float = setting(0.3, "share of the video tokens that stays, mean over the layers", low=0, high=0.7)
    keep_audio: float = setting(0.65, "share of the audio tokens that stays, mean over the layers", low=0, high=0.7)

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        free, pads = candidates(layout), layout.kind == PAD
        if not free.any():
            return {}
        last = Known(np.zeros(len(layout), np.float32))
        entering = self._entering(layout)
        n = [sum(len(at) * k for at, k, kind in entering if kind == stream) for stream in (VIDEO, AUDIO)]
        cuts = {BEFORE: [Cut(int(free.sum()) - sum(n), free, _diverse(entering)), Cut(int(pads.sum()), pads, last)]}
        drops, late = schedule_layers(n_layers)
        for layer, share in zip(drops, ratios(drops, late, n_layers), strict=True):
            kept = [min(each, max(1, round(share * each))) for each in n]
            cuts[layer - 1] = [Cut(sum(n) - sum(kept), free, _by_window(layout, *kept))]
            n = kept
        cuts[late - 2] = [Cut(sum(n), free, last)]
        found = {layer: tuple(cut for cut in stages if cut.n_removed) for layer, stages in cuts.items()}
        return {layer: stages for layer, stages in found.items() if stages}

    def _entering(self, layout: TokenLayout) -> list[tuple[np.ndarray, int, int]]:
        """(original positions [W, w], how many of each w stay, their kind) of all windows of the first stage."""
        video = layout.step[layout.kind == VIDEO]
        sizes = {VIDEO: 2 * int((video == video[:1]).sum()), AUDIO: AUDIO_WINDOW}
        found = []
        for kind, share in ((VIDEO, self.keep_video), (AUDIO, self.keep_audio)):
            at = np.flatnonzero(candidates(layout) & (layout.kind == kind))
            found += [(part, n_kept, kind) for part, n_kept in token_windows(at, sizes[kind], ENTERING * share)]
        return found


def token_windows(at: np.ndarray, size: int, share: float) -> list[tuple[np.ndarray, int]]:
    """([W, w], how many of each w stay): positions `at` in windows of `size`, and what is left over as one shorter window."""
    if not len(at):
        return []
    whole = len(at) // size * size
    parts = (at[:whole].reshape(-1, size), at[whole:][None])
    return [(part, max(1, min(part.shape[1], round(share * part.shape[1])))) for part in parts if part.size]


def _diverse(entering: list[tuple[np.ndarray, int, int]]) -> FromFeatures:
    def compute(layout, features):
        import torch

        values = torch.zeros(len(features), device=features.device)
        for at, n_kept, _ in entering:
            weight = np.ones(at.shape, np.float32) if layout.importance is None else layout.importance[at]
            index, weight = (torch.from_numpy(each).to(features.device) for each in (at, weight))
            values[index] = farthest_weighted(features[index], weight, n_kept)
        return values, None

    return FromFeatures(compute)


def farthest_weighted(features, weight, n_kept: int):
    """[W, w]: 1 for the n_kept tokens of each window that are picked, 0 for the others; features [W, w, D], weight [W, w]."""
    import torch

    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    unit = wide / (wide.norm(dim=-1, keepdim=True) + 1e-8)
    distance = 1 - unit @ unit.mT
    distance.diagonal(0, -2, -1).fill_(torch.inf)
    nearest, picked = distance.min(-1).values, torch.zeros_like(weight)
    for i in range(n_kept):
        pick = torch.where(picked > 0, -torch.inf, weight * nearest).argmax(-1, keepdim=True)
        from_pick = torch.take_along_dim(distance, pick[..., None], 1)[:, 0]
        nearest = torch.minimum(nearest, from_pick) if i else from_pick
        picked = picked.scatter(-1, pick, 1)
    return picked


def schedule_layers(n_layers: int) -> tuple[list[int], int]:
    """(the layers after which tokens leave, the first layer that sees text alone), counted from 1, of a decoder of n_layers."""
    late = max(2, round(LATE * n_layers / 28))
    return sorted({round(drop * n_layers / 28) for drop in DROPS} - {*range(late - 1, n_layers + 1)}), late


def ratios(drops: Sequence[int], late: int, n_layers: int) -> list[float]:
    """Share of what is left that stays at each drop, to 4 decimals, so that the mean over the layers is the target. 1 where even
    that leaves the mean below it.
    """
    lengths = np.diff([0, *drops, late - 1])
    weights = np.exp(np.arange(len(drops)))
    removed = np.concatenate([[0.0], np.cumsum(weights / weights.sum())])
    low, high = 0.0, 1.0
    for _ in range(50):
        t = (low + high) / 2
        too_many = ENTERING * (lengths * (1 - t * removed)).sum() > n_layers
        low, high = (t, high) if too_many else (low, t)
    levels = 1 - t * removed
    return [round(float(ratio), 4) for ratio in levels[1:] / levels[:-1]]


def _by_window(layout: TokenLayout, n_video: int, n_audio: int) -> Score:
    window = windows(layout)
    n_groups = len({*zip(window[window >= 0], layout.kind[window >= 0], strict=True)})
    if layout.single_stream or window.max() == 0 or n_video + n_audio < n_groups:
        kind = np.where(window >= 0, layout.kind, PAD).astype(np.int64)
        return BestOfGroups(LastQuery("again"), kind, np.array([0, n_video, n_audio, 0]))
    return budgets(layout, window, n_video, n_audio)


def budgets(layout: TokenLayout, window: np.ndarray, n_video: int, n_audio: int) -> Budgets:
    """The score by which n_video and n_audio tokens stay in windows int64 [N], -1 for tokens in none."""
    n_windows = int(window.max()) + 1
    group = np.where(window >= 0, 2 * window + (layout.kind == AUDIO), 2 * n_windows)
    largest = int(np.bincount(window[window >= 0]).max())
    return Budgets(LastQuery("again"), group, n_windows, largest, n_video, n_audio)


@dataclass(frozen=True, eq=False)
class Budgets:
    """The best of each window and stream, as many as the window's budget allows.

    m_v, m_a are the means of a window's scores, W_v = softmax(m_v / .1) over the windows, W_a alike, and K = K_v + K_a. A
    window's budget B is round(K (W_v + W_a) / 2), at least 1 and at most its size; then the largest give one each or the
    smallest get one each until they add up to K. Of B, round(B W_v K_v / (W_v K_v + W_a K_a)) is for video, as far as there is
    so much, the rest for audio, and at least one for each stream that is there.

    group    int64 [N]: 2 * window for video, 2 * window + 1 for audio, 2 * n_windows for all others.
    largest  tokens of the largest window.
    """

    score: Score
    group: np.ndarray
    n_windows: int
    largest: int
    n_video: int
    n_audio: int

    def values(self, seen):
        """1 more than its score for what is chosen: where at least one of each stream makes more than K, the lowest leave."""
        score = self.score.values(seen)
        group = Known(self.group).values(seen).expand(score.shape)
        return best_of_groups(score, group, self.per_group(score, group)) + score

    def per_group(self, score, group):
        """int64 [B, 2 * n_windows + 1]: how many of each group are chosen; score and group [B, n]."""
        import torch

        member = group[:, None] == torch.arange(2 * self.n_windows, device=group.device)[:, None]  # [B, G, n]
        there = member.sum(-1)
        mean = (member.to(score.dtype) @ score[..., None])[..., 0] / there.clamp(min=1)
        weight = (mean.unflatten(-1, (-1, 2)) / TEMPERATURE).softmax(-2)  # [B, windows, 2]
        n_video, n_audio = there[:, 0::2], there[:, 1::2]
        budget = self._level(((self.n_video + self.n_audio) * weight.sum(-1) / 2).round().long(), n_video + n_audio)
        share = weight * weight.new_tensor([self.n_video, self.n_audio])
        video = torch.minimum((budget * share[..., 0] / share.sum(-1)).round().long(), n_video)
        audio = torch.minimum(budget - video, n_audio)
        video = torch.minimum(budget - audio, n_video)  # what audio leaves over
        for mine, mine_there, other in ((video, n_video, audio), (audio, n_audio, video)):
            lacks = (mine == 0) & (mine_there > 0)
            other -= (lacks & (other > 1)).long()
            mine += lacks.long()
        return torch.cat([torch.stack([video, audio], -1).flatten(1), torch.zeros_like(video[:, :1])], -1)

    def _level(self, budget, size):
        """Budgets [B, windows] from 1 to the window's size that add up to K: one at a time from the largest, or for the smallest,
        of equals the first. Each such step is a cell of a table by height and window; the first ones are taken.
        """
        import torch

        budget = torch.minimum(budget.clamp(min=1), size)
        surplus = budget.sum(-1, keepdim=True) - (self.n_video + self.n_audio)
        height = torch.arange(self.largest + 1, device=budget.device)[:, None]
        budget, size = budget[:, None], size[:, None]
        takes = _first((height.flip(0) > 1) & (height.flip(0) <= budget), surplus)
        gives = _first((height >= budget) & (height < size), -surplus)
        return budget[:, 0] - takes + gives


def _first(cells, n):
    """int64 [B, windows]: how many of the first n [B, 1] marked cells [B, heights, windows] lie in each window."""
    flat = cells.flatten(1)
    return (flat & (flat.cumsum(-1) <= n)).view(cells.shape).sum(1)
