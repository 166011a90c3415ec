"""The numbers of a run: what summarise.py makes of the records, report.py prints, and summary.json holds (`asdict`). Pure.

Shares are in 0..1, differences are shares, too; *_percent, *_sec and *_mb carry their unit (MB = 10^6 bytes). Mappings and tuples
are in the order of the annotations and of the methods. A question without an answer (an error) is in no share. `None`: not
measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastav.stats import Difference, Share


@dataclass(frozen=True)
class TaskSummary(Share):
    """The share of one task, and what its scorer tells beside it (see scorers.scorer.Metrics)."""

    scorer: str
    not_scored: int  # answers without a verdict
    metrics: Mapping[str, object]  # Metrics.numbers; this and the next two are empty without any answer
    metric_columns: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Wordings:
    """Questions of one task in wordings that were seen in training, and in others."""

    seen: Share
    unseen: Share
    paired: Difference  # unseen - seen over the n facts that were asked in both


@dataclass(frozen=True)
class Clutter:
    """Questions about clips without clutter and with it (see fastav.question). What the set says nothing of is in neither."""

    clean: Share
    cluttered: Share


@dataclass(frozen=True)
class TaskDifference:
    """A pruning method minus vanilla over one task; `clean` and `cluttered` as in Clutter."""

    all: Difference
    clean: Difference
    cluttered: Difference


@dataclass(frozen=True)
class MethodSummary:
    label: str  # as it was typed
    method: str  # full text form
    plan_sha256: str | None
    errors: int
    columns: Mapping[str, Share]  # title -> share
    tasks: Mapping[str, TaskSummary]
    wordings: Mapping[str, Wordings]  # by task; this and the next two have only those of which the set says it
    columns_by_clutter: Mapping[str, Clutter]  # by title
    tasks_by_clutter: Mapping[str, Clutter]
    flops_relative_percent: float | None
    flops_paper_relative_percent: float | None
    fvcore_off_percent: float | None
    prefill_median_sec: float | None
    per_token_median_sec: float | None
    kv_mb: float | None
    peak_median_mb: float | None
    answers_without_sound: int
    answers_without_video: int
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """Of the accuracies of several methods."""

    mean: float
    lowest: float
    highest: float
    std: float  # of the sample


@dataclass(frozen=True)
class Seeds:
    """Methods that are the same but for their seed."""

    method: str  # text form without the seed
    labels: tuple[str, ...]  # as they were typed
    columns: Mapping[str, Spread]


@dataclass(frozen=True)
class NotCovered:
    """A method that has not been asked every question; it is in no table."""

    label: str
    method: str
    plan_sha256: str | None
    asked: int  # questions


@dataclass(frozen=True)
class Pair:
    """Pruning method a - pruning method b."""

    a: str
    b: str
    against_random: bool
    same_lengths: bool
    columns: Mapping[str, Difference]


@dataclass(frozen=True)
class Repeated:
    """Texts asked again of the same clip, and how many of them carry contradictory labels."""

    texts: int
    contradictory: int


@dataclass(frozen=True)
class Error:
    """A question without an answer."""

    method: str
    key: str
    clip_id: str
    text: str
    error: str
    error_kind: str


@dataclass(frozen=True)
class Unread:
    """An answer that its scorer could not read."""

    method: str
    key: str
    text: str
    answer: str
    unread: str  # what it is then, e.g. "neither yes nor no"


@dataclass(frozen=True)
class Header:
    """What names the answers of a run (see experiment.settings), and the libraries and the machine that it began with."""

    benchmark: str
    annotations_sha256: str
    scorers_sha256: str
    model: str
    checkpoint: str
    revision: str
    checkpoint_commit: str | None
    weights_sha256: str
    fastav: Mapping[str, str | None]
    device: str
    dtype: str
    attn: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Summary(Header):
    varies: Mapping[str, Mapping[str, int]]  # what was not the same for all answers: name -> value -> answers
    questions: int
    questions_in_set: int
    clips: int
    repeated: Repeated
    methods: tuple[MethodSummary, ...]  # vanilla first
    not_covered: tuple[NotCovered, ...]
    differences: Mapping[str, Mapping[str, Difference]]  # pruning method -> column -> it minus vanilla
    task_differences: Mapping[str, Mapping[str, TaskDifference]]  # pruning method -> task -> it minus vanilla
    pairs: tuple[Pair, ...]
    seeds: tuple[Seeds, ...]
    baselines: Mapping[str, Mapping[str, float]]  # baseline -> column -> share
    errors: tuple[Error, ...]
    unread_answers: tuple[Unread, ...]
