"""Diverse: tokens that are far from one another stay, some of them at equal distances. Ours, not the paper's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastav.layout import TokenLayout
from fastav.methods.cut import OneCut, candidates
from fastav.methods.divprune import farthest
from fastav.methods.scores import FromFeatures
from fastav.methods.setting import setting
from fastav.methods.stride import evenly

_BLOCK = 4096  # tokens that are compared with one another


@dataclass(frozen=True)
class Diverse(OneCut):
    """Of k tokens that stay, the share `mix` lies at equal distances in the prompt; the others are farthest from all that stay.

    Distances are 1 - cosine of the decoder's input embeddings; audio and video are one pool; neither question nor attention
    is looked at. With mix=0 and one block the rule is DivPrune's, at a layer of one's choice. A prompt of more than 4,096 audio
    and video tokens is cut into blocks of equal size, each with its share of k, so that time grows linearly with the prompt.
    Positions stay original. Cost, before layer 0: the products of all pairs in a block, and of a block with each pick.

    Outliers attract it: where clutter fills the frames they are what stays. `mix` is meant for that. Nothing was measured on a
    large model.
    """

    name = "diverse"

    mix: float = setting(0.0, "share of what stays that is taken at equal distances, for clips with clutter", low=0, high=1)

    def score(self, layout: TokenLayout) -> FromFeatures:
        media, n_kept = np.flatnonzero(candidates(layout)), self.n_kept(layout)

        def compute(layout, features):
            import torch

            values = torch.zeros(len(features), device=features.device)
            n, n_blocks = len(media), -(-len(media) // _BLOCK)
            for i in range(n_blocks):
                begin, end = n * i // n_blocks, n * (i + 1) // n_blocks
                n_here = n_kept * end // n - n_kept * begin // n
                at = torch.from_numpy(media[begin:end]).to(features.device)
                even = evenly(end - begin, round(self.mix * n_here))
                values[at[farthest(features[at], n_here - len(even), even)]] = 1
                values[at[torch.from_numpy(even).to(at.device)]] = 1
            return values, None

        return FromFeatures(compute)
