"""The Summary of a run -> the text a person reads. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from eval.experiment import named
from eval.scorers.scorer import percent
from eval.summary import Error, Summary
from fastav.stats import Difference, Share
from fastav.table import table

_LISTED, _LONGEST = 10, 160  # errors and unread answers printed, and characters of each; the JSON document has them all
_BASELINES = {"always_yes": "always yes", "text_majority": "majority per text", "text_only_prior": "text-only prior"}

Labels = Mapping[str, str]  # full text form of a method -> as it was typed


def report(summary: Summary) -> str:
    """All tables. A method is called as it was typed; its full text form stands once, at the top."""
    labels = {m.method: m.label for m in summary.methods}
    parts = [
        _title(summary, labels),
        _main(summary),
        _tasks(summary),
        _differences(summary, labels),
        _task_differences(summary, labels),
        _pairs(summary, labels),
        _seeds(summary),
        _baselines(summary),
        _wordings(summary),
        _clutter(summary),
        _errors(summary.errors, labels),
        *_unread(summary, labels),
    ]
    return "\n\n".join(part for part in parts if part)


def _title(summary: Summary, labels: Labels) -> str:
    n, n_in_set = summary.questions, summary.questions_in_set
    questions = f"{n} questions" if n == n_in_set else f"the first {n} of {n_in_set} questions,"
    lines = [f"{summary.benchmark}: {questions} about {summary.clips} clips, model {summary.model}"]
    if summary.benchmark.endswith("-mini"):
        lines.insert(0, "BUILT-IN MINI SET, not the benchmark itself: give --data-root DIR for that.")
    lines += [f"{label} = {method}" for method, label in labels.items() if label != method]
    lines += [f"{m.label}: plan with sha256 {m.plan_sha256[:12]}" for m in summary.methods if m.plan_sha256]
    lines += [
        f"not in the tables: {m.label}, which was asked {m.asked} of these questions; --method {m.label} asks the others"
        for m in summary.not_covered
    ]
    commit = f" of commit {summary.checkpoint_commit}" if summary.checkpoint_commit else ""
    lines.append(f"FastAV {named(summary.fastav)}; weights{commit} with sha256 {summary.weights_sha256[:12] or 'unknown'}")
    for what, values in summary.varies.items():
        found = ", ".join(f"{value} ({n} answers)" for value, n in values.items())
        lines.append(f"NOT THE SAME THROUGHOUT: {what}: {found}")
    lines += sorted({device for m in summary.methods for device in m.devices})
    again = summary.repeated
    if again.texts:
        lines.append(
            f"{again.texts} question texts come again for the same clip, {again.contradictory} of them with "
            "contradictory labels; each record counts"
        )
    without_sound = max(m.answers_without_sound for m in summary.methods)
    without_video = max(m.answers_without_video for m in summary.methods)
    for what, count in (("sound", without_sound), ("video", without_video)):
        if count:
            lines.append(f"{count} questions are about clips without {what}")
    return "\n".join(lines)


def _main(summary: Summary) -> str:
    titles = list(summary.methods[0].columns)
    rows = [["accuracy in %", *titles, "FLOPs", "paper's", "first token", "per token", "KV cache", "peak"]]
    for m in summary.methods:
        rows.append(
            [
                m.label,
                *(percent(share.accuracy) if share.n else "-" for share in m.columns.values()),
                _number(m.flops_relative_percent, "{:.1f}"),
                _number(m.flops_paper_relative_percent, "{:.1f}"),
                _number(m.prefill_median_sec, "{:.1f} ms", 1e3),
                _number(m.per_token_median_sec, "{:.1f} ms", 1e3),
                _number(m.kv_mb, "{:.2f} MB"),
                _number(m.peak_median_mb, "{:.2f} MB"),
            ]
        )
    checks = [f"{m.label} {m.fvcore_off_percent:+.3f} %" for m in summary.methods if m.fvcore_off_percent is not None]
    notes = (
        "FLOPs: prefill of the decoder, vanilla = 100, mean of the ratios per question (paper's: by the paper's formula). "
        "Times and peak: medians of single runs.\nClosed form against fvcore: " + (", ".join(checks) or "not checked")
    )
    return f"{table(rows)}\n{notes}"


def _tasks(summary: Summary) -> str:
    titles = list(dict.fromkeys(title for m in summary.methods for task in m.tasks.values() for title in task.metric_columns))
    rows = [["task", "method", "n", "accuracy", "95 %", *titles]]
    notes = ["95 %: Wilson's interval, widened where questions of one clip go together."]
    for name in summary.methods[0].tasks:
        for m in summary.methods:
            task = m.tasks[name]
            accuracy = [percent(task.accuracy), f"{percent(task.low)} to {percent(task.high)}"] if task.n else ["-", "-"]
            metrics = [task.metric_columns.get(title, "-") for title in titles]
            rows.append([name, m.label, str(task.n), *accuracy, *metrics])
            notes += [f"{name}, {m.label}: {note}" for note in task.notes]
    return "\n".join([table(rows), *notes])


def _differences(summary: Summary, labels: Labels) -> str:
    rows = [["points against vanilla", "", "difference", "95 %", "n", "only it right", "only vanilla right"]]
    for method, columns in summary.differences.items():
        rows += [[labels[method], title, *_difference(d)] for title, d in columns.items() if d.n]
    note = "Paired interval (Newcombe 1998, method 10), widened where questions of one clip go together."
    return f"{table(rows)}\n{note}" if len(rows) > 1 else ""


def _task_differences(summary: Summary, labels: Labels) -> str:
    """Of a set that says which clips are cluttered."""
    rows = [["points against vanilla (95 %)", "task", "all", "clean", "cluttered"]]
    for method, tasks in summary.task_differences.items():
        for task, of in tasks.items():
            if of.clean.n or of.cluttered.n:
                rows.append([labels[method], task, *map(_in_points, (of.all, of.clean, of.cluttered))])
    return table(rows) if len(rows) > 1 else ""


def _in_points(d: Difference) -> str:
    return f"{100 * d.difference:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})" if d.n else "-"


def _pairs(summary: Summary, labels: Labels) -> str:
    """Each pruning method against random removal of as many tokens."""
    rows = [
        ["points against random, at equal token counts", "", "difference", "95 %", "n", "only first right", "only random right"]
    ]
    for pair in summary.pairs:
        if pair.against_random and pair.same_lengths:
            name = f"{labels[pair.a]} - {labels[pair.b]}"
            rows += [[name, title, *_difference(d)] for title, d in pair.columns.items() if d.n]
    return f"{table(rows)}\nAll pairs of pruning methods are in the JSON document." if len(rows) > 1 else ""


def _difference(d: Difference) -> list[str]:
    interval = f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"
    return [f"{100 * d.difference:+.2f}", interval, str(d.n), str(d.only_a_right), str(d.only_b_right)]


def _seeds(summary: Summary) -> str:
    """Mean of the seeds, and the lowest and highest of them."""
    rows = [["mean of the seeds (lowest to highest)", "seeds", *summary.methods[0].columns]]
    for group in summary.seeds:
        spreads = [f"{percent(s.mean)} ({percent(s.lowest)} to {percent(s.highest)})" for s in group.columns.values()]
        rows.append([group.method, str(len(group.labels)), *spreads])
    return table(rows) if len(rows) > 1 else ""


def _baselines(summary: Summary) -> str:
    titles = list(dict.fromkeys(title for shares in summary.baselines.values() for title in shares))
    rows = [["without looking, in %", *titles]]
    for name, shares in summary.baselines.items():
        rows.append([_BASELINES.get(name, name), *(percent(shares[title]) if title in shares else "-" for title in titles)])
    note = (
        "Text-only prior: the majority label among the other questions of the same text, a tie counts half; one text with "
        "balanced labels therefore gives 0."
    )
    return "\n".join([table(rows), *([note] if "text_only_prior" in summary.baselines else [])]) if titles else ""


def _wordings(summary: Summary) -> str:
    rows = [["wordings", "method", "seen in training", "n", "unseen", "n", "unseen - seen", "95 %", "facts asked in both"]]
    for m in summary.methods:
        for task, of in m.wordings.items():
            if of.seen.n and of.unseen.n:
                numbers = [percent(of.seen.accuracy), str(of.seen.n), percent(of.unseen.accuracy), str(of.unseen.n)]
                difference = _difference(of.paired)[:2] if of.paired.n else ["-", "-"]
                rows.append([task, m.label, *numbers, *difference, str(of.paired.n)])
    return table(rows) if len(rows) > 1 else ""


def _clutter(summary: Summary) -> str:
    """The columns that have questions about both kinds of clips."""
    both = [title for m in summary.methods for title, of in m.columns_by_clutter.items() if of.clean.n and of.cluttered.n]
    titles = list(dict.fromkeys(both))
    rows = [["clean and cluttered, in % (n)", *titles]]
    for m in summary.methods:
        rows.append([m.label, *(" / ".join(map(_with_n, vars(m.columns_by_clutter[title]).values())) for title in titles)])
    return table(rows) if titles else ""


def _with_n(share: Share) -> str:
    return f"{percent(share.accuracy)} ({share.n})" if share.n else "-"


def _errors(errors: Sequence[Error], labels: Labels) -> str:
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(e.error_kind for e in errors).most_common())
    entries = [(labels[e.method], f"{e.text} [{e.error}]") for e in errors]
    return _listing(f"questions without an answer ({kinds}), in no share above", entries)


def _unread(summary: Summary, labels: Labels) -> list[str]:
    """One listing for each way in which answers were unreadable."""
    by_way: dict[str, list[tuple[str, str]]] = {}
    for u in summary.unread_answers:
        by_way.setdefault(u.unread, []).append((labels[u.method], f"{u.text} > {u.answer!r}"))
    return [_listing(f"answers {way}, counted as wrong", entries) for way, entries in by_way.items()]


def _listing(what: str, entries: Sequence[tuple[str, str]]) -> str:
    """(method as typed, text) entries, each text once with the methods it happened to."""
    if not entries:
        return ""
    by_text: dict[str, list[str]] = {}
    for label, text in entries:
        by_text.setdefault(text, []).append(label)
    lines = [f"  {_line(text)} ({', '.join(dict.fromkeys(who))})" for text, who in by_text.items()]
    more = [f"  ... and {len(lines) - _LISTED} more, see summary.json"] if len(lines) > _LISTED else []
    return "\n".join([f"{len(entries)} {what}:", *lines[:_LISTED], *more])


def _line(text: str) -> str:
    """Options stand on lines of their own in a question."""
    text = text.replace("\n", " ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)
