"""Ask a clip a question, once without and once with pruning; calibrate the pruning rule of a model; check a checkpoint; list
the pruning methods.

    python -m fastav clip.mp4 "Is the bell making sound in the audio?"
    python -m fastav clip.mp4 "What color is the car?" --method fastav:p=30,rule=random --json
    python -m fastav calibrate --model videollama2.1-av --clips DIR --output plan.json
    python -m fastav check --model videollama2.1-av --checkpoint DIR
    python -m fastav methods

Answers and figures go to stdout (with --json: the record alone), progress to stderr. A problem you can fix is one line
on stderr and exit code 2; Ctrl-C is the line "interrupted" and 130.
"""

from __future__ import annotations

import os
import signal
import sys

from fastav import interrupt

# What takes time to import is imported inside of `main`, which looks after Ctrl-C.


def main(argv: list[str] | None = None) -> int:
    """The exit code. Without `argv` this is the program: its arguments are `sys.argv`'s, and Ctrl-C ends the process."""
    if argv is not None:
        return _run(argv)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        interrupt.install()
    try:
        try:
            return _run(sys.argv[1:])
        finally:
            print(end="", flush=True)  # a reader that has left is met here and not on the interpreter's way out
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said: taking the process down is not to be interrupted
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        return 141  # as programs end that know nothing of a closed pipe: 128 + SIGPIPE


def _run(argv: list[str]) -> int:
    from fastav.errors import UserError, out_of_memory

    try:
        if argv[:1] == ["calibrate"]:
            return calibrate(_calibrate_parser().parse_args(argv[1:]))
        if argv[:1] == ["check"]:
            return check(_check_parser().parse_args(argv[1:]))
        if argv[:1] == ["methods"]:
            return methods(_methods_parser().parse_args(argv[1:]))
        return ask(_ask_parser().parse_args(argv))
    except UserError as error:
        print(f"fastav: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if (needed := out_of_memory(error)) is None:
            raise
        helps = "a shorter clip, a 16-bit --dtype, --device-map auto or a --device with more free memory"
        print(f"fastav: out of memory: {needed} more were needed; {helps} may help", file=sys.stderr)
        return 2


def ask(options) -> int:
    """Both answers and the table, or the record as JSON."""
    import json
    from pathlib import Path

    from fastav import models
    from fastav.errors import UserError
    from fastav.methods import parse

    parse(options.method)  # names are checked before anything heavy is loaded
    models.check_name(options.model)
    if not options.question.strip():
        raise UserError("the question is empty; ask something about the clip")
    if not Path(options.clip).is_file():
        raise UserError(f"{options.clip}: no such file; give a video or audio file")
    session = _load(options)
    _progress(f"decoding {options.clip}")
    clip = session.read(options.clip)
    if options.measure:
        _progress(f"measuring, {options.repeats} repeats of each method")
        comparison = session.measure(clip, options.question, options.method, repeats=options.repeats)
    else:
        _progress("answering twice")
        comparison = session.compare(clip, options.question, options.method)
    if options.json:
        print(json.dumps(comparison.to_dict()))
        return 0
    for note in comparison.pruned.notes:
        print(f"note     {note}")
    print(f"vanilla  {comparison.vanilla.answer}")
    print(f"pruned   {comparison.pruned.answer}    ({comparison.pruned.method})")
    print()
    print(comparison.table())
    pruned = comparison.pruned
    runs = "single run" if pruned.n_repeats == 1 else f"medians of {pruned.n_repeats} runs"
    print(f"\n{runs}; {pruned.device}, {pruned.dtype}")
    return 0


def calibrate(options) -> int:
    """Find out which audio and video tokens still matter at a model's middle layer, by attention rollout over clips with picture
    and sound, and write it down as a plan: the file that --method fastav:plan=FILE takes, for the same model and start.
    """
    from fastav.errors import UserError
    from fastav.plan import check_output, check_settings

    check_settings(options.keep, options.alpha, options.statistic, options.n_clips)
    if options.question is not None and not options.question.strip():
        raise UserError("the question is empty; ask something that fits every clip")
    if options.question is not None and options.clips is None:
        raise UserError("--question goes with --clips; the clips that a model brings have questions of their own")
    check_output(options.output)

    from fastav import calibrate as calibration
    from fastav import models

    if options.clips is None:
        files = None
        models.adapter_class(options.model).calibration_clips(options.n_clips)  # raises where the model brings none
    else:
        files = calibration.video_files(options.clips, options.n_clips)
    session = _load(options)
    plan = calibration.calibrate(
        session,
        options.n_clips,
        files,
        question=options.question or calibration.QUESTION,
        keep=options.keep,
        alpha=options.alpha,
        statistic=options.statistic,
        progress=_progress,
    )
    plan.write(options.output)
    kept = sum(value >= plan.threshold for value in plan.curve)
    of = f"{kept} of {len(plan.curve)} media offsets"
    print(f"{options.output}: {of} pass the threshold {plan.threshold:.3g} ({plan.n_clips} clips)")
    return 0


def check(options) -> int:
    """Compare a checkpoint with what its adapter expects and run one clip through it. Exit code 1 where something differs."""
    from fastav.check import check
    from fastav.models import arguments

    passed = True
    for line in check(options.model, options.checkpoint, **arguments.options(options)):
        print(line, flush=True)
        passed = passed and line.passed is not False
    return 0 if passed else 1


def methods(options) -> int:
    """List the pruning methods that --method takes, each with its settings."""
    from fastav.methods.listing import listing

    print(listing(options.name))
    return 0


def _load(options):
    from fastav import models, session
    from fastav.models import arguments

    if models.adapter_class(options.model).published:
        from fastav.models.estimate import estimate

        given = {name: value for name, value in arguments.options(options).items() if name != "attn"}
        _progress(f"{options.model}: {estimate(options.model, options.checkpoint, **given)}")
    _progress(f"loading {options.model}")
    return session.load(options.model, options.checkpoint, **arguments.options(options))


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ask_parser():
    from argparse import RawDescriptionHelpFormatter

    from fastav.models import arguments

    parser = _parser("", __doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("clip", help="video or audio file")
    parser.add_argument("question", help="what to ask about it")
    parser.add_argument(
        "--method",
        default="fastav",
        metavar="TEXT",
        help="pruning method, e.g. fastav:start=4,p=20,rule=model; `methods` in place of the clip lists all (default: fastav)",
    )
    parser.add_argument("--json", action="store_true", help="print the record as one JSON document instead of text")
    parser.add_argument("--measure", action="store_true", help="medians of interleaved repeats instead of single runs")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="repeats of --measure, at least 5 (default: 5)")
    arguments.add(parser)
    return parser


def _calibrate_parser():
    from fastav.models import arguments

    parser = _parser("calibrate", calibrate.__doc__)
    parser.add_argument(
        "--clips",
        metavar="DIR",
        help="folder whose video files are used, with those of the folders in it (default: clips that the built-in model brings)",
    )
    parser.add_argument(
        "-n",
        dest="n_clips",
        type=int,
        default=100,
        metavar="N",
        help="how many clips; of more a fixed sample is drawn (default: 100, as in the paper)",
    )
    parser.add_argument(
        "--question", metavar="TEXT", help="asked of every clip of DIR (default: Describe what you see and hear.)"
    )
    parser.add_argument(
        "--keep", type=float, default=0.42, metavar="F", help="fraction of audio and video tokens to keep (default: 0.42)"
    )
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help="weight of attention in eq. 2 (default: 0.5)")
    parser.add_argument(
        "--statistic",
        default="visible-column",
        metavar="NAME",
        help="visible-column, column or last-row (default: visible-column)",
    )
    parser.add_argument(
        "--output", default="plan.json", metavar="FILE", help="where the plan goes; must not be there yet (default: plan.json)"
    )
    arguments.add(parser)
    return parser


def _check_parser():
    from fastav.models import arguments

    parser = _parser("check", check.__doc__)
    arguments.add(parser)
    return parser


def _methods_parser():
    parser = _parser("methods", methods.__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="this one alone (default: all)")
    return parser


def _parser(command: str, description: str, **settings):
    """Named as it was called: `fastav` where that is installed, else by its module."""
    import argparse

    program = "fastav" if os.path.basename(sys.argv[0]).partition(".")[0] == "fastav" else "python -m fastav"
    return argparse.ArgumentParser(prog=f"{program} {command}".strip(), description=description, **settings)


if __name__ == "__main__":
    sys.exit(main())
