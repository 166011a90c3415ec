"""Result and Comparison: the one record of what was asked, answered and measured. Pure: no torch, no files.

Field names carry units. Multiply-adds are counted as one (fvcore's convention). MB = 10^6 bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from fastav.table import table


@dataclass(frozen=True)
class Result:
    """One question about one clip, answered once by one method."""

    answer: str
    question: str
    model: str  # registry name, e.g. "tiny"
    checkpoint: str  # folder or hub id the weights came from
    method: str  # text form with every setting, e.g. "fastav:start=4,p=20,..."; "vanilla" is the stock path
    clip_name: str
    clip_sha256: str
    clip_duration_sec: float
    has_video: bool
    has_audio: bool  # there was an audio stream; a silent one counts
    notes: tuple[str, ...]  # what the person should know: single-stream mode, a cut file, ...
    token_runs: tuple  # [kind, time step, count] runs over the N original positions, see TokenLayout.runs
    grids: tuple[tuple[int, int], ...]  # (rows, columns) of the video tokens of each time step, see TokenLayout
    layers_seen: tuple[int, ...]  # [N] how many layers computed on the token at each original position
    lengths: tuple[int, ...]  # [L] tokens that layer l computed on at prefill
    tokens_before: dict  # kind -> tokens that enter layer 0
    tokens_after: dict  # kind -> tokens that the last layer computed on
    flops: float  # prefill of the decoder, multiply-adds, closed GQA form (flops.gqa_flops)
    flops_paper: float  # the same by the paper's formula (flops.paper_flops)
    flops_fvcore: float | None  # the same counted by fvcore; None where it was not asked for
    flops_relative_percent: float  # flops, vanilla at the same prompt = 100
    flops_paper_relative_percent: float  # flops_paper, vanilla = 100
    n_new_tokens: int
    encode_sec: float  # media encoders only; done once for all runs on the clip
    prefill_sec: float  # until the first new token is chosen
    per_token_sec: float | None  # mean over the later tokens; None below 8 gaps
    total_sec: float  # from the start of prefill to the last token
    n_repeats: int  # 1 = a single run, otherwise medians over this many
    kv_bytes: int  # KV cache after prefill, from the cache's own tensors
    peak_bytes: int | None  # peak above what was allocated before the run, on the prompt's GPU; None where not measured
    total_bytes: int | None  # peak including weights (CUDA only)
    device: str
    dtype: str
    attn: str
    spread: dict = field(default_factory=dict)  # interquartile ranges of a measured run, by field name
    # Where it came from, see fastav/provenance.py:
    versions: dict = field(default_factory=dict)  # of Python, the libraries, and on a GPU of CUDA and the driver
    fastav: dict = field(default_factory=dict)  # version, commit, source_sha256
    checkpoint_commit: str | None = None  # of a hub snapshot; None for a folder of one's own
    weights_sha256: str = ""  # of the checkpoint's files
    solved: str = ""  # `method`, where it asks for FLOPs (seats@45) with the settings that it came to on this prompt
    plan_sha256: str | None = None  # of the file that the method names as plan

    def kept(self, layer: int) -> list[int]:
        """Original positions that layer `layer` (from 0) computed on."""
        return [i for i, seen in enumerate(self.layers_seen) if seen > layer]

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict) -> Result:
        tuples = {"notes", "layers_seen", "lengths"}
        made = {k: tuple(v) if k in tuples else v for k, v in record.items()}
        made |= {k: tuple(tuple(each) for each in record[k]) for k in ("token_runs", "grids")}
        return cls(**made)


@dataclass(frozen=True)
class Comparison:
    """Vanilla and one pruning method on the same clip and question."""

    vanilla: Result
    pruned: Result

    def to_dict(self) -> dict:
        return {"vanilla": self.vanilla.to_dict(), "pruned": self.pruned.to_dict()}

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, vanilla, pruned) as shown in the page, on the command line and in reports."""
        v, p = self.vanilla, self.pruned
        rows = [
            ("Prefill FLOPs, vanilla = 100", "100.0", f"{p.flops_relative_percent:.1f}"),
            ("Prefill FLOPs (paper's formula)", "100.0", f"{p.flops_paper_relative_percent:.1f}"),
            ("Prefill multiply-adds", _count(v.flops), _count(p.flops)),
        ]
        if v.flops_fvcore and p.flops_fvcore:
            rows.append(("Prefill multiply-adds (fvcore)", _count(v.flops_fvcore), _count(p.flops_fvcore)))
        rows += [
            ("Encoding the clip, once for both", _sec(v.encode_sec), ""),
            ("Time to first token", _sec(v.prefill_sec), _sec(p.prefill_sec)),
            ("Time per later token", _sec(v.per_token_sec), _sec(p.per_token_sec)),
            ("End to end, without encoding", _sec(v.total_sec), _sec(p.total_sec)),
            ("KV cache after prefill", _bytes(v.kv_bytes), _bytes(p.kv_bytes)),
            ("Peak memory above weights", _bytes(v.peak_bytes), _bytes(p.peak_bytes)),
        ]
        if v.total_bytes and p.total_bytes:
            rows.append(("Peak memory incl. weights", _bytes(v.total_bytes), _bytes(p.total_bytes)))
        for kind in v.tokens_before:
            before = v.tokens_before[kind]
            rows.append(
                (f"{kind.capitalize()} tokens, first > last layer", *(f"{before} > {r.tokens_after[kind]}" for r in (v, p)))
            )
        return rows

    def table(self) -> str:
        """The rows as plain text, columns aligned."""
        return table([("", "vanilla", "pruned"), *self.rows()])


def _count(value: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.2f} {name}"
    return f"{value:.0f}"


def _sec(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def _bytes(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e6:.2f} MB" if value < 1e9 else f"{value / 1e9:.2f} GB"
