"""Plan: a calibrated rollout curve over media positions, its threshold, and the file that holds them. Pure: numpy and json."""

from __future__ import annotations

import json
import math
import os
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import numpy as np

from fastav.errors import UserError
from fastav.layout import TokenLayout

STATISTICS = ("visible-column", "column", "last-row")


@dataclass(frozen=True)
class Plan:
    """What `python -m fastav calibrate` found (section 2.3 of the paper: rollout on non-test samples, thresholded).

    model      the model that it was made with; it is refused for another.
    start      first layer that computes on the tokens that the plan keeps; it is refused for another start.
    curve      mean rollout value at each media offset (TokenLayout.media_offset: running number among the media tokens, or
               the time step in interleaved layouts), at the layer before `start`.
    threshold  a media token stays when the curve at its offset is at least this; beyond the curve it goes.
    keep       the fraction of media tokens that the threshold was chosen to keep on the calibration clips.
    uniform    the same curve for uniform causal attention, which needs no model: compare before reading meaning into `curve`.
    n_layers   of the model; it is refused for another number. None in a file that does not say: then `start` alone is compared.

    The rest says what the plan was made from, and nothing compares it: the checkpoint as it was given, the question ("" where
    each clip had its own), the sha256 of the clips' sorted sha256 (their hex digits, one a line), FastAV's version.
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
    n_layers: int | None = None
    checkpoint: str = ""
    question: str = ""
    clips_sha256: str = ""
    fastav_version: str = ""

    def __post_init__(self):
        numbers = (self.threshold, *self.curve, *self.uniform)
        if not all(type(v) in (int, float) and math.isfinite(v) for v in numbers) or not 0 < len(self.curve) == len(self.uniform):
            raise ValueError("threshold, curve and uniform must be finite numbers, as many of uniform as of curve")
        if not isinstance(self.model, str) or not all(type(n) is int and n > 0 for n in (self.start, self.n_layers or 1)):
            raise ValueError("model must be a name, start and n_layers whole numbers above 0")

    @classmethod
    def read(cls, path: str | Path, *, model: str = "", start: int | None = None, n_layers: int | None = None) -> Plan:
        """The plan of a file, for a run of `model` whose first pruned layer is `start` of `n_layers` ("", None: not known).

        Raises UserError naming the file when it is missing, no JSON, lacks a field, or was made for another run.
        """
        try:
            record = json.loads(Path(path).read_text())
            values = {f.name: record[f.name] for f in fields(cls) if f.name in record or f.default is MISSING}
            plan = cls(**{**values, "curve": tuple(values["curve"]), "uniform": tuple(values["uniform"])})
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(
                f"cannot use {path} as a plan ({type(error).__name__}: {error}); expected the JSON file of "
                "`python -m fastav calibrate`"
            ) from error
        pairs = {"model": (plan.model, model), "start": (plan.start, start), "layers": (plan.n_layers, n_layers)}
        unfit = [f"{what} {made}, not {run}" for what, (made, run) in pairs.items() if made and run and made != run]
        if unfit:
            raise UserError(
                f"{path} is a plan for {' and for '.join(unfit)}; allowed: a plan of the same model, start and number of layers, "
                "as `python -m fastav calibrate` makes it"
            )
        return plan

    def write(self, path: str | Path) -> None:
        """The file appears when it is complete. Raises UserError where it cannot be written."""
        path = Path(path)
        part = path.with_name(f".{os.getpid()}.plan")
        try:
            part.write_text(json.dumps(asdict(self), allow_nan=False) + "\n")
            os.replace(part, path)
        except (OSError, ValueError) as error:
            raise UserError(_unwritable(path, error)) from error
        finally:
            part.unlink(missing_ok=True)

    def influence(self, layout: TokenLayout) -> np.ndarray:
        """float32 [N]: the curve's value at each media token, 0 for text and below every value beyond the curve."""
        curve = np.append(np.asarray(self.curve, np.float32), np.float32(-1))
        offset = layout.media_offset
        return np.where(offset < 0, np.float32(0), curve[np.minimum(offset, len(self.curve))])

    def apply(self, layout: TokenLayout) -> TokenLayout:
        """The layout with this plan's rule and influence filled in."""
        influence = self.influence(layout)
        return layout.with_facts(rule_keep=layout.media & (influence >= np.float32(self.threshold)), influence=influence)


def check_settings(keep: float, alpha: float, statistic: str, n_clips: int = 1) -> None:
    """Raises UserError for settings that no calibration can have."""
    for name, value, what in (("keep", keep, "fraction of the audio and video tokens"), ("alpha", alpha, "weight of attention")):
        if not isinstance(value, int | float) or not 0 < value <= 1:  # nan fails every comparison
            raise UserError(f"{name} must be a {what} above 0 and at most 1, got {value}")
    if statistic not in STATISTICS:
        raise UserError(f"unknown statistic {statistic!r}; allowed: {', '.join(STATISTICS)}")
    if n_clips < 1:
        raise UserError(f"the number of clips must be at least 1, got {n_clips}")


def check_output(path: str | Path) -> None:
    """Raises UserError unless a new file can be made there. Nothing is written over: a plan may have taken hours to make."""
    try:
        open(path, "x").close()
        os.unlink(path)
    except FileExistsError as error:
        raise UserError(f"{path} is there already; give --output another name, or remove it first") from error
    except (OSError, ValueError) as error:
        raise UserError(_unwritable(path, error)) from error


def _unwritable(path: str | Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or error
    return f"cannot write {path} ({why}); give --output a new file in a folder that is there and may be written to"
