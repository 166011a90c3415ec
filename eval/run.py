"""Batch evaluation: vanilla and pruning methods on the same decoded clips.

    python eval/run.py --bench avhbench                              the built-in mini set, FastAV-tiny
    python eval/run.py --bench avhbench --data-root ~/AVHBench_v0    the benchmark itself
    python eval/run.py --bench tiny-world --method fastav --method fastav:p=30

Progress goes to stderr, the tables to stdout; the last line of stdout is one JSON document (also summary.json). Every
answer is written at once to records.jsonl: the same command goes on where a killed run stopped, and prints the tables of a
finished one again. Another --method is added to the run that is there: only its answers are computed. The tables show the
methods that have been asked every question. What would change the answers that are there (weights, plans, clips, dtype,
attention, FastAV itself) or the verdicts on them (the scorers) is refused.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval import interrupt

if __name__ == "__main__":
    interrupt.install()  # before the imports below, which take a while

import argparse
import json
import os
from contextlib import suppress
from dataclasses import asdict

from eval import benchmarks, experiment, loop, report
from eval.dataset import Dataset
from eval.store import Store
from eval.summarise import summarise
from eval.summary import Summary
from fastav import models
from fastav.errors import UserError, out_of_memory
from fastav.models import arguments

ROOT = Path(__file__).resolve().parents[1]
COMPLETE, TO_FIX, PARTIAL = 0, 2, 3


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python eval/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0 complete; 2 something to fix, nothing was asked; 3 partial: some questions have no answer, or\n"
        "there was no room to write; 130 interrupted. With 2, 3 and 130 the last line of stderr says what.",
    )
    what = p.add_argument_group("what")
    what.add_argument("--bench", required=True, metavar="NAME", help=f"benchmark: {', '.join(benchmarks.names())}")
    what.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder of clips and annotations (default: built-in mini set)"
    )
    what.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="only the first N questions (default: all); their tables go to summary-first-N.*, never to summary.*",
    )
    what.add_argument(
        "--method",
        action="append",
        metavar="TEXT",
        help='pruning method beside vanilla, e.g. "fastav:p=30"; may be repeated; all are listed by `python -m fastav methods` '
        "(default: fastav)",
    )
    arguments.add(p)
    where = p.add_argument_group("where to")
    where.add_argument("--output", type=Path, metavar="DIR", help="folder of the results (default: eval/runs/<bench>-<model>)")
    where.add_argument("--fresh", action="store_true", help="start over; earlier results are moved aside, not deleted")
    return p


def main(argv: list[str] | None = None) -> int:
    """Exit code, see the parser's epilog."""
    if argv is not None:
        interrupt.command(["python", "eval/run.py", *argv])
    args = parser().parse_args(argv)
    try:
        return evaluate(args)
    except UserError as error:
        _tell(f"error: {error}")
        return TO_FIX
    except KeyboardInterrupt:
        _tell(f"interrupted; {interrupt.way_on()}")
        return interrupt.CODE
    finally:
        _settle()


def evaluate(args: argparse.Namespace) -> int:
    """Check everything that needs no weights, ask what is not yet answered, report. Returns the exit code.

    Raises UserError while nothing has been asked.
    """
    dataset = _dataset(args)
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit must be at least 1, got {args.limit}")
    questions = dataset.questions[: args.limit]
    models.check_name(args.model)
    typed = list(dict.fromkeys(["vanilla", *(args.method or ["fastav"])]))
    plans = experiment.plans(typed, args.model)
    output = args.output or ROOT / "eval" / "runs" / f"{dataset.name}-{args.model}"
    asked = {"benchmark": dataset.name, "annotations_sha256": dataset.annotations_sha256, "model": args.model}
    asked |= {name: getattr(args, name) or "default" for name in ("checkpoint", "revision")}
    asked |= {name: getattr(args, name) for name in ("dtype", "attn") if getattr(args, name)}

    with Store(output, args.fresh) as store:
        interrupt.begun()
        session = None
        if store.settings:
            experiment.check_found(store, asked, plans, dataset, questions)
        if not experiment.finished(store, asked, typed, questions):
            code = experiment.code(dataset)
            if store.settings:
                experiment.check(store.settings, code)
            session = _load(args)
            forms = _forms(session, typed)
            store.begin(experiment.settings(session, {**asked, **code}, forms, plans, store.settings))
        try:
            if session:
                loop.run(session, dataset, questions, {forms[text]: plans[text] for text in typed}, store)
            summary = summarise(dataset, questions, store.records, store.settings)
            name = "summary" if len(questions) == len(dataset.questions) else f"summary-first-{len(questions)}"
            _publish(summary, output, name)
        except (UserError, OSError) as error:
            _tell(f"error: {error}; {interrupt.way_on()}")
            return PARTIAL
    if summary.errors:
        _tell(f"partial: {len(summary.errors)} answers are missing, listed in the tables with the reason")
        return PARTIAL
    return COMPLETE


def _dataset(args: argparse.Namespace) -> Dataset:
    """The benchmark that was asked for, or its mini set under a name that says so."""
    benchmark = benchmarks.get(args.bench)
    if args.data_root:
        return benchmark.load(args.data_root, args.bench)
    mini = ROOT / "assets" / "mini"
    if not mini.is_dir():
        raise UserError(f"the built-in mini set is not here ({mini}); give --data-root DIR")
    _tell(f"no --data-root: running the built-in mini set, {args.bench}-mini, not {args.bench} itself")
    return benchmark.load(mini, f"{args.bench}-mini")


def _load(args: argparse.Namespace):
    # torch takes seconds to import: only now, when the arguments are known to be good
    from fastav.session import load

    try:
        return load(args.model, args.checkpoint, **arguments.options(args))
    except Exception as error:
        if out_of_memory(error):
            raise UserError(f"no memory for the weights of {args.model}: {error}") from None
        raise


def _forms(session, typed: list[str]) -> dict[str, str]:
    """Method as typed -> its full text form. Raises UserError when two are the same method."""
    forms = {text: session.canonical(text) for text in typed}
    for text, form in forms.items():
        first = next(other for other, f in forms.items() if f == form)
        if first != text:
            raise UserError(f"{text!r} and {first!r} are the same method, {form}; give it once")
    return forms


def _publish(summary: Summary, output: Path, name: str) -> None:
    """Tables and JSON document into `output` and to stdout. Raises UserError where one of them cannot be written."""
    text, document = report.report(summary), json.dumps(asdict(summary), allow_nan=False)
    problem = None
    for file, content in ((output / f"{name}.txt", text), (output / f"{name}.json", document)):
        part = file.with_name(file.name + ".part")
        try:
            part.write_text(content + "\n", encoding="utf-8")
            part.replace(file)
        except OSError as error:  # the file of an earlier report stays as it was, and the tables are still printed
            problem = UserError(f"cannot write {str(file)!r}: {error.strerror}")
            with suppress(OSError):
                part.unlink()
    try:
        print(f"{text}\n\nresults in {output}\n{document}", flush=True)
    except OSError as error:
        problem = problem or UserError(f"cannot write the tables to stdout: {error.strerror}")
    if problem:
        raise problem


def _tell(text: str) -> None:
    with suppress(OSError):  # stderr may lie on the disk that is full
        print(" ".join(text.split()), file=sys.stderr)


def _settle() -> None:
    """What could not be written to stdout or stderr must not end in a traceback when Python closes them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
