"""The numbers of a run (eval/summary.py) -> the text a person reads. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.experiment import named
from fastav.table import table

_LISTED, _LONGEST = 10, 160  # errors and unknown answers printed, and characters of each; the JSON document has them all


def report(summary: dict) -> str:
    """All tables. A method is called as it was typed; its full text form stands once, at the top."""
    labels = {m["method"]: m["label"] for m in summary["methods"]}
    judged = any("f1" in task for method in summary["methods"] for task in method["tasks"].values())
    parts = [
        _title(summary, labels),
        _main(summary, labels),
        _tasks(summary, labels, judged),
        _differences(summary, labels),
        _pairs(summary, labels),
        _baselines(summary) if judged else "",
        _wordings(summary, labels),
        _listing(
            f"questions without an answer ({_kinds(summary['errors'])}), in no share above",
            labels,
            [(e["method"], f"{e['text']} [{e['error']}]") for e in summary["errors"]],
        ),
        _listing(
            "answers neither yes nor no, counted as wrong",
            labels,
            [(u["method"], f"{u['text']} > {u['answer']!r}") for u in summary["unknown_answers"]],
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _title(summary: dict, labels: dict[str, str]) -> str:
    n, n_in_set = summary["questions"], summary["questions_in_set"]
    questions = f"{n} questions" if n == n_in_set else f"the first {n} of {n_in_set} questions,"
    lines = [f"{summary['benchmark']}: {questions} about {summary['clips']} clips, model {summary['model']}"]
    if summary["benchmark"].endswith("-mini"):
        lines.insert(0, "BUILT-IN MINI SET, not the benchmark itself: give --data-root DIR for that.")
    lines += [f"{label} = {method}" for method, label in labels.items() if label != method]
    lines += [f"{m['label']}: plan with sha256 {m['plan_sha256'][:12]}" for m in summary["methods"] if m["plan_sha256"]]
    lines += [
        f"not in the tables: {m['label']}, which was asked {m['asked']} of these questions; --method {m['label']} asks the others"
        for m in summary["not_covered"]
    ]
    commit = f" of commit {summary['checkpoint_commit']}" if summary["checkpoint_commit"] else ""
    lines.append(f"FastAV {named(summary['fastav'])}; weights{commit} with sha256 {summary['weights_sha256'][:12] or 'unknown'}")
    for what, values in summary["varies"].items():
        found = ", ".join(f"{value} ({n} answers)" for value, n in values.items())
        lines.append(f"NOT THE SAME THROUGHOUT: {what}: {found}")
    lines += sorted({device for method in summary["methods"] for device in method["devices"]})
    repeated = summary["repeated"]
    if repeated["texts"]:
        lines.append(
            f"{repeated['texts']} question texts come again for the same clip, {repeated['contradictory']} of them with "
            "contradictory labels; each record counts"
        )
    for what in ("sound", "video"):
        count = max(method[f"answers_without_{what}"] for method in summary["methods"])
        if count:
            lines.append(f"{count} questions are about clips without {what}")
    return "\n".join(lines)


def _main(summary: dict, labels: dict[str, str]) -> str:
    titles = list(summary["methods"][0]["columns"])
    rows = [["accuracy in %", *titles, "FLOPs", "paper's", "first token", "per token", "KV cache", "peak"]]
    for m in summary["methods"]:
        rows.append(
            [
                labels[m["method"]],
                *(_percent(c["accuracy"]) if c["n"] else "-" for c in m["columns"].values()),
                _number(m["flops_relative_percent"], "{:.1f}"),
                _number(m["flops_paper_relative_percent"], "{:.1f}"),
                _number(m["prefill_median_sec"], "{:.1f} ms", 1e3),
                _number(m["per_token_median_sec"], "{:.1f} ms", 1e3),
                _number(m["kv_mb"], "{:.2f} MB"),
                _number(m["peak_median_mb"], "{:.2f} MB"),
            ]
        )
    checks = [
        f"{labels[m['method']]} {m['fvcore_off_percent']:+.3f} %"
        for m in summary["methods"]
        if m["fvcore_off_percent"] is not None
    ]
    notes = (
        "FLOPs: prefill of the decoder, vanilla = 100, mean of the ratios per question (paper's: by the paper's formula). "
        "Times and peak: medians of single runs.\nClosed form against fvcore: " + (", ".join(checks) or "not checked")
    )
    return f"{table(rows)}\n{notes}"


def _tasks(summary: dict, labels: dict[str, str], judged: bool) -> str:
    rows = [["task", "method", "n", "accuracy", "95 %", *(["precision", "recall", "F1", "yes %", "unknown"] if judged else [])]]
    notes = ["95 %: Wilson's interval, widened where questions of one clip go together."]
    for task in summary["methods"][0]["tasks"]:
        for m in summary["methods"]:
            t = m["tasks"][task]
            row = [task, labels[m["method"]], str(t["n"])]
            row += [_percent(t["accuracy"]), f"{_percent(t['low'])} to {_percent(t['high'])}"] if t["n"] else ["-", "-"]
            if judged:
                row += [_percent(t[k]) if k in t else "-" for k in ("precision", "recall", "f1", "yes_share")]
                row += [str(t.get("unknown", "-"))]
            rows.append(row)
            if t.get("undefined"):
                notes.append(f"{task}, {labels[m['method']]}: 0 / 0 in {', '.join(t['undefined'])}, shown as 0.0")
            if t.get("not_scored"):
                notes.append(f"{task}, {labels[m['method']]}: {t['not_scored']} captions not scored (real footage needs a judge)")
            elif "right_with_colors" in t and t["n"]:
                notes.append(
                    f"{task}, {labels[m['method']]}: right = exactly the objects and sounds; with every colour, too: "
                    f"{_percent(t['right_with_colors'] / t['n'])} %"
                )
    return "\n".join([table(rows), *notes])


def _differences(summary: dict, labels: dict[str, str]) -> str:
    rows = [["points against vanilla", "", "difference", "95 %", "n", "only it right", "only vanilla right"]]
    for method, columns in summary["differences"].items():
        rows += [[labels[method], title, *_difference(d)] for title, d in columns.items() if d["n"]]
    note = "Paired interval (Newcombe 1998, method 10), widened where questions of one clip go together."
    return f"{table(rows)}\n{note}" if len(rows) > 1 else ""


def _pairs(summary: dict, labels: dict[str, str]) -> str:
    """Each pruning method against random removal of as many tokens."""
    rows = [
        ["points against random, at equal token counts", "", "difference", "95 %", "n", "only first right", "only random right"]
    ]
    for pair in summary["pairs"]:
        if pair["against_random"] and pair["same_lengths"]:
            name = f"{labels[pair['a']]} - {labels[pair['b']]}"
            rows += [[name, title, *_difference(d)] for title, d in pair["columns"].items() if d["n"]]
    return f"{table(rows)}\nAll pairs of pruning methods are in the JSON document." if len(rows) > 1 else ""


def _difference(d: dict) -> list[str]:
    interval = f"{100 * d['low']:+.2f} to {100 * d['high']:+.2f}"
    return [f"{100 * d['difference']:+.2f}", interval, str(d["n"]), str(d["only_a_right"]), str(d["only_b_right"])]


def _baselines(summary: dict) -> str:
    names = {"always_yes": "always yes", "text_majority": "majority per text", "text_only_prior": "text-only prior"}
    rows = [["without looking, in %", *summary["baselines"]["always_yes"]]]
    rows += [[title, *map(_percent, summary["baselines"][name].values())] for name, title in names.items()]
    note = (
        "Text-only prior: the majority label among the other questions of the same text, a tie counts half; one text with "
        "balanced labels therefore gives 0."
    )
    return f"{table(rows)}\n{note}"


def _wordings(summary: dict, labels: dict[str, str]) -> str:
    rows = [["wordings", "method", "seen in training", "n", "unseen", "n"]]
    for m in summary["methods"]:
        for task, split in m["wordings"].items():
            seen, unseen = split["seen"], split["unseen"]
            if seen["n"] and unseen["n"]:
                numbers = [_percent(seen["accuracy"]), str(seen["n"]), _percent(unseen["accuracy"]), str(unseen["n"])]
                rows.append([task, labels[m["method"]], *numbers])
    return table(rows) if len(rows) > 1 else ""


def _kinds(errors: Sequence[dict]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in Counter(e["error_kind"] for e in errors).most_common())


def _listing(what: str, labels: dict[str, str], entries: Sequence[tuple[str, str]]) -> str:
    """(method, text) entries, each text once with the methods it happened to."""
    if not entries:
        return ""
    by_text: dict[str, list[str]] = {}
    for method, text in entries:
        by_text.setdefault(text, []).append(labels[method])
    lines = [f"  {_cut(text)} ({', '.join(dict.fromkeys(who))})" for text, who in by_text.items()]
    more = [f"  ... and {len(lines) - _LISTED} more, see summary.json"] if len(lines) > _LISTED else []
    return "\n".join([f"{len(entries)} {what}:", *lines[:_LISTED], *more])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)
