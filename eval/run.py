"""Batch evaluation: vanilla and pruning methods on the same decoded clips.

    python eval/run.py --bench avhbench                              the built-in mini set, FastAV-tiny
    python eval/run.py --bench avhbench --data-root ~/AVHBench_v0    the benchmark itself
    python eval/run.py --bench tiny-world --method fastav --method fastav:p=30

Progress goes to stderr, the tables to stdout; the last line of stdout is one JSON document (also summary.json). Every
answer is written at once to records.jsonl: the same command goes on where a killed run stopped, and prints the tables of a
finished one again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json

from eval import benchmarks, loop, report, summary
from eval.store import Store
from fastav import methods, models
from fastav.errors import UserError
from fastav.models import arguments

ROOT = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python eval/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0 done, 2 something to fix (one line on stderr says what), 130 interrupted",
    )
    what = p.add_argument_group("what")
    what.add_argument("--bench", required=True, metavar="NAME", help=f"benchmark: {', '.join(benchmarks.names())}")
    what.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder of clips and annotations (default: built-in mini set)"
    )
    what.add_argument("--limit", type=int, metavar="N", help="only the first N questions (default: all)")
    what.add_argument(
        "--method",
        action="append",
        metavar="TEXT",
        help='pruning method beside vanilla, e.g. "fastav:p=30"; may be repeated (default: fastav)',
    )
    arguments.add(p)
    where = p.add_argument_group("where to")
    where.add_argument("--output", type=Path, metavar="DIR", help="folder of the results (default: eval/runs/<bench>-<model>)")
    where.add_argument("--fresh", action="store_true", help="start over; earlier records are moved aside, not deleted")
    return p


def main(argv: list[str] | None = None) -> int:
    """Exit code, see the parser's epilog."""
    args = parser().parse_args(argv)
    try:
        evaluate(args)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def evaluate(args: argparse.Namespace) -> None:
    """Check everything that needs no weights, ask what is not yet answered, report."""
    dataset = _dataset(args)
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, got {args.limit}")
    questions = dataset.questions[: args.limit]
    models.check_name(args.model)
    typed = list(dict.fromkeys(["vanilla", *(args.method or ["fastav"])]))
    for text in typed:
        methods.parse(text)
    output = args.output or ROOT / "eval" / "runs" / f"{dataset.name}-{args.model}"
    asked = {"benchmark": dataset.name, "annotations_sha256": dataset.annotations_sha256, "model": args.model, "methods": typed}
    asked |= {name: getattr(args, name) or "default" for name in ("checkpoint", "revision", "device", "dtype", "attn")}

    with Store(output, args.fresh) as store:
        store.check(asked)
        if not _finished(store, questions):
            # torch takes seconds to import: only now, when the arguments are known to be good
            from fastav.session import load

            session = load(args.model, args.checkpoint, **arguments.options(args))
            store.begin(
                {
                    **asked,
                    "forms": _forms(session, typed),
                    "weights": session.checkpoint,
                    "weights_sha256": loop.weights_sha256(session.checkpoint),
                }
            )
            loop.run(session, dataset, questions, store.settings["forms"], store)
        numbers = summary.summarise(dataset, questions, store.records, store.settings)
    text, document = report.report(numbers), json.dumps(numbers, allow_nan=False)
    (output / "summary.txt").write_text(text + "\n")
    (output / "summary.json").write_text(document + "\n")
    print(f"{text}\n\nresults in {output}\n{document}")


def _dataset(args: argparse.Namespace):
    """The benchmark that was asked for, or its mini set under a name that says so."""
    benchmark = benchmarks.get(args.bench)
    if args.data_root:
        return benchmark.load(args.data_root, args.bench)
    mini = ROOT / "assets" / "mini"
    if not mini.is_dir():
        raise UserError(f"the built-in mini set is not here ({mini}); give --data-root DIR")
    print(f"no --data-root: running the built-in mini set, {args.bench}-mini, not {args.bench} itself", file=sys.stderr)
    return benchmark.load(mini, f"{args.bench}-mini")


def _finished(store: Store, questions) -> bool:
    """True when every answer is there and the weights are still those that gave them."""
    found = store.settings
    if found is None or any("result" not in store.records.get((q.key, m), {}) for q in questions for m in found["forms"]):
        return False
    return found["weights_sha256"] == loop.weights_sha256(found["weights"])


def _forms(session, typed: list[str]) -> list[str]:
    """The full text form of each method. Raises UserError when two are the same method."""
    forms = [session.canonical(text) for text in typed]
    for i, form in enumerate(forms):
        if form in forms[:i]:
            raise UserError(f"{typed[i]!r} and {typed[forms.index(form)]!r} are the same method, {form}; give it once")
    return forms


if __name__ == "__main__":
    sys.exit(main())
