"""Plan: a calibrated rollout curve over media positions, its threshold, and the file that holds them. Pure: numpy and json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from fastav.errors import UserError
from fastav.layout import TokenLayout


@dataclass(frozen=True)
class Plan:
    """What `python -m fastav calibrate` found (section 2.3 of the paper: rollout on non-test samples, thresholded).

    curve      mean rollout value at each media offset (TokenLayout.media_offset: running number among the media tokens, or
               the frame for interleaved layouts), at the layer before `start`.
    threshold  a media token stays when the curve at its offset is at least this; beyond the curve it goes.
    keep       the fraction of media tokens that the threshold was chosen to keep on the calibration clips.
    uniform    the same curve for uniform causal attention, which needs no model: compare before reading meaning into `curve`.
    """

    model: str
    start: int
    statistic: str
    alpha: float
    n_clips: int
    keep: float
    threshold: float
    curve: tuple[float, ...]
    uniform: tuple[float, ...]

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Raises UserError naming the file when it is missing, no JSON, or lacks a field."""
        try:
            record = json.loads(Path(path).read_text())
            values = {f.name: record[f.name] for f in fields(cls)}
            return cls(**{**values, "curve": tuple(values["curve"]), "uniform": tuple(values["uniform"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"cannot use {path} as a plan ({type(error).__name__}: {error}); expected the JSON file of "
                "`python -m fastav calibrate`"
            ) from error

    def write(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(asdict(self)) + "\n")

    def influence(self, layout: TokenLayout) -> np.ndarray:
        """float32 [N]: the curve's value at each media token, 0 for text and below every value beyond the curve."""
        curve = np.append(np.asarray(self.curve, np.float32), np.float32(-1))
        offset = layout.media_offset
        return np.where(offset < 0, np.float32(0), curve[np.minimum(offset, len(self.curve))])

    def apply(self, layout: TokenLayout) -> TokenLayout:
        """The layout with this plan's rule and influence filled in."""
        influence = self.influence(layout)
        return layout.with_facts(rule_keep=layout.media & (influence >= np.float32(self.threshold)), influence=influence)
