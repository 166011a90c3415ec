"""Equal FLOPs: `seats@45` is SEATS with its one knob turned, prompt by prompt, until the prefill costs 45 % of vanilla's FLOPs.

Pure arithmetic on token counts: what a setting costs is known before the run. So methods are compared where they cost the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fastav.errors import UserError
from fastav.layout import TokenLayout
from fastav.methods.cut import Cut, Method, keys_again, lengths_of, written
from fastav.methods.pair import Pair
from fastav.methods.setting import setting
from fastav.methods.trim import Trim

GRID = 10_000  # a share is a multiple of 1 / GRID
TOLERANCE = 1.0  # points by which the FLOPs of the nearest setting may miss

# ([L] lengths, keys projected once more) -> FLOPs of the prefill in percent of vanilla's on the same prompt.
Relative = Callable[[Sequence[int], int], float]
# (how many settings there are, the i-th of them): the higher i, the more FLOPs.
Scale = tuple[int, Callable[[int], Method]]


@dataclass(frozen=True)
class Knob:
    """The settings that turn together, and the scales on which they do, for a method and a number of layers: the first scale that
    goes low enough is taken."""

    settings: tuple[str, ...]
    scales: Callable[[Method, int], list[Scale]]


def _shares(most: float = 1.0, **published: float) -> Knob:
    """One factor on the published shares, each at most `most`."""
    highest = max(most / share for share in published.values())

    def scales(method: Method, n_layers: int) -> list[Scale]:
        def at(i: int) -> Method:
            factor = highest * i / GRID
            return replace(method, **{name: min(most, round(factor * share, 4)) for name, share in published.items()})

        return [(GRID + 1, at)]

    return Knob(tuple(published), scales)


def _fastav(method: Method, n_layers: int) -> list[Scale]:
    """The share that global pruning keeps; where none is still too many, the same from an earlier layer on."""
    latest = method.fit(n_layers).start
    return [
        (GRID + 1, lambda i, start=start: replace(method, start=start, keep=round(i / GRID, 4))) for start in range(latest, 0, -1)
    ]


def _pyramid(method: Method, n_layers: int) -> list[Scale]:
    """lambda, lambda^2 and lambda^3, as in the paper."""

    def at(i: int) -> Method:
        return replace(method, **{name: round((i / GRID) ** n, 4) for n, name in enumerate(("first", "second", "third"), 1)})

    return [(GRID + 1, at)]


def _withdrawal(method: Method, n_layers: int) -> list[Scale]:
    return [(n_layers - 1, lambda i: replace(method, start=i + 1))]


KNOBS = {
    "fastav": Knob(("keep",), _fastav),
    "seats": _shares(0.7, keep_video=0.3, keep_audio=0.65),
    "omnizip": _shares(keep_video=0.4, keep_audio=0.7),
    "fastv": _shares(video=1, audio=1),
    "pyramiddrop": Knob(("first", "second", "third"), _pyramid),
    "vtw": Knob(("start",), _withdrawal),
    **dict.fromkeys(("diverse", "divprune", "stride", "random", "evs", "vidcom2"), _shares(keep=1)),
}


@dataclass(frozen=True)
class AtFlops(Method):
    """`inner` at a given cost: `percent` of the FLOPs of vanilla's prefill, in the form that counts grouped-query attention.

    `solved` makes a method with settings of it, for one prompt. `inner` has all settings but those that the knob turns.
    """

    percent: float = setting(100.0, "FLOPs of the prefill in percent of vanilla's", low=0, high=100)
    inner: Method | None = None

    @property
    def name(self) -> str:
        return f"{self.inner.name}@{written(self.percent)}"

    @property
    def title(self) -> str:
        return f"{self.inner.title} at {written(self.percent)} %"

    def fit(self, n_layers: int) -> AtFlops:
        return self if self.inner.name == "vtw" else replace(self, inner=self.inner.fit(n_layers))

    def __str__(self) -> str:
        turned = KNOBS[self.inner.name].settings
        given = str(self.inner).partition(":")[2].split(",")
        text = ",".join(item for item in given if item and item.partition("=")[0] not in turned)
        return f"{self.name}:{text}" if text else self.name

    def cuts(self, layout: TokenLayout, n_layers: int) -> dict[int, tuple[Cut, ...]]:
        return self.cuts_after(layout, n_layers, ())

    def cuts_after(self, layout: TokenLayout, n_layers: int, before: tuple[Cut, ...]) -> dict[int, tuple[Cut, ...]]:
        raise UserError(f"{self} has its settings from the model's FLOPs: give what fastav.methods.solved makes of it")


def at_flops(method: Method, percent: float, given: Sequence[str]) -> AtFlops:
    """The method at so many percent of vanilla's FLOPs; `given`: names of the settings that were typed.

    Raises UserError for a method without a knob, and where a setting is given that the knob turns.
    """
    if method.name not in KNOBS:
        raise UserError(f"{method.name} cannot be asked for by FLOPs; allowed: {', '.join(sorted(KNOBS))}")
    for name in given:
        if name in KNOBS[method.name].settings:
            raise UserError(f"{name} of {method.name} follows from @{written(percent)}; give one of the two")
    return AtFlops(percent, method)


def solved(method: Method, layout: TokenLayout, n_layers: int, relative: Relative) -> Method:
    """What a method that asks for FLOPs comes to on this prompt, to within a point; any other method as it is.

    Raises UserError where no setting comes so near, with the range that can be reached.
    """
    if isinstance(method, Trim):
        entering = layout.subset(method.enters(layout))
        return Trim(solved(method.inner, entering, n_layers, relative))

    def cost(candidate: Method) -> float:
        cuts, n_tokens = candidate.cuts(layout, n_layers), len(layout)
        return relative(lengths_of(cuts, n_tokens, n_layers), keys_again(cuts, n_tokens))

    if isinstance(method, Pair) and isinstance(method.second, AtFlops):
        return Pair(method.first, _nearest(method.second, lambda each: cost(Pair(method.first, each)), n_layers))
    return _nearest(method, cost, n_layers) if isinstance(method, AtFlops) else method


def _nearest(method: AtFlops, cost: Callable[[Method], float], n_layers: int) -> Method:
    """The setting that comes nearest; `cost`: percent of vanilla's FLOPs."""
    scales = KNOBS[method.inner.name].scales(method.inner, n_layers)
    n, at = next((scale for scale in scales if cost(scale[1](0)) <= method.percent), scales[-1])
    i = bisect_left(range(n), method.percent, key=lambda i: cost(at(i)))
    nearest = min((at(j) for j in (i - 1, i) if 0 <= j < n), key=lambda each: abs(cost(each) - method.percent))
    if abs(cost(nearest) - method.percent) > TOLERANCE:
        low, high = cost(scales[-1][1](0)), cost(scales[0][1](scales[0][0] - 1))
        raise UserError(
            f"{method} cannot be had on this prompt: it reaches {low:.1f} to {high:.1f} % of vanilla's FLOPs here, and {nearest} "
            f"comes nearest with {cost(nearest):.1f} %"
        )
    return nearest
