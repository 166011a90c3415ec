"""Time, memory and FLOPs of pruning in a decoder of real shape with random weights: nothing is downloaded.

    python eval/speed.py                                    on a CPU: a decoder scaled down to a seventh, one thread
    python eval/speed.py --device cuda --attn flash_attention_2 --output h100.json
    python eval/speed.py --model video-salmonn-2 --p 20 --repeats 15
    python eval/speed.py --model qwen2.5-omni --method seats@45 --method divprune@45 --repeats 3

The prompt has the token counts of one clip in that model, and its global rule. The weights are random, so fine pruning removes
other tokens than the real model would, but as many, and time depends on their number alone. All methods are warmed up and then
take turns. Prefill is the time to the first token, by the same clock as everywhere in this project. Progress goes to stderr,
the table to stdout; the last line of stdout is one JSON document (also --output).
"""

import sys

try:  # torch and transformers take seconds: Ctrl-C then ends as it does later
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    import argparse
    import json
    import os
    from collections.abc import Iterator

    import torch
    from tqdm import tqdm

    from eval.decoder import MODELS, SIZES, build, cases, labels
    from eval.timing import GOALS, N_NEW_TOKENS, goal, measure
    from fastav import machine
    from fastav.errors import UserError, out_of_memory
    from fastav.models.device import resolve
    from fastav.table import table
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def conditions(model, args: argparse.Namespace) -> dict:
    """Everything a figure needs beside it."""
    return {
        **machine.conditions(model.device),
        "attention": model.config._attn_implementation,
        "dtype": str(model.dtype).removeprefix("torch."),
        "repeats": args.repeats,
        "new_tokens": N_NEW_TOKENS,
        "weights": "random",
    }


def flat(conditions: dict) -> Iterator[tuple[str, object]]:
    """The conditions that a person reads, versions among them."""
    for name, value in conditions.items():
        yield from value.items() if isinstance(value, dict) else [(name, value)]


def report(document: dict) -> str:
    """What a person reads."""
    tokens = document["tokens"]
    counts = f"{tokens['text']} text + {tokens['video']} video + {tokens['audio']} audio tokens"
    lines = [
        f"{document['model']}, decoder of {document['size']} size: {counts} = {sum(tokens.values())}",
        ", ".join(f"{name} {value}" for name, value in flat(document["conditions"])),
        "",
    ]
    titles = ["method", "FLOPs", "prefill", "of vanilla", "IQR", "choosing", "per token", "peak", "KV cache", "host syncs"]
    rows = [titles]
    for r in document["methods"]:
        low, middle, high = r["prefill_relative"]
        syncs = r["host_syncs_between_layers"]
        rows.append(
            [
                r["method"],
                f"{r['flops_relative']:.3f}",
                f"{r['prefill_sec'][1] * 1e3:.1f} ms",
                f"{middle:.3f}",
                f"{low:.3f}-{high:.3f}",
                f"{100 * r['choosing_relative']:.2f} %",
                f"{r['per_token_sec'][1] * 1e3:.2f} ms",
                f"{r['peak_bytes'] / 1e6:.1f} MB",
                f"{r['kv_bytes'] / 1e6:.2f} MB",
                "-" if syncs is None else str(syncs),
            ]
        )
    lines += [
        table(rows),
        "",
        "prefill, per token: medians; choosing: planning, scores and selecting, in percent of vanilla's prefill",
        "peak: above weights, in a prefill; FLOPs: GQA-aware closed form, vanilla = 1",
    ]
    if document["goal"]:
        g = document["goal"]
        verdict = "met" if g["met"] else "MISSED"
        lines.append(f"goal: prefill of {g['method']} at most {g['limit']:.3f} of vanilla: {g['found']:.3f}, {verdict}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python eval/speed.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0 done, whether the goal was met or not; 2 something to fix (one line on stderr says what); "
        "130 interrupted",
    )
    what = p.add_argument_group("what")
    what.add_argument("--model", default="videollama2.1-av", metavar="NAME", help=f"token counts of: {', '.join(MODELS)}")
    what.add_argument("--p", default="0,10,20,30", metavar="LIST", help="whole percents of fine pruning (default: 0,10,20,30)")
    what.add_argument(
        "--method", action="append", metavar="TEXT", help="time these methods, not FastAV at every --p; may be repeated"
    )
    what.add_argument("--size", metavar="NAME", help=f"decoder: {', '.join(SIZES)} (default: real on CUDA, scaled on a CPU)")
    how = p.add_argument_group("how")
    how.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    how.add_argument(
        "--dtype",
        metavar="NAME",
        help="float32, bfloat16 or float16 (default: bfloat16 on CUDA, float16 before Ampere, float32 on CPU)",
    )
    how.add_argument("--attn", metavar="NAME", help="sdpa, eager or flash_attention_2 (default: sdpa)")
    how.add_argument("--threads", type=int, default=1, metavar="N", help="of a CPU (default: 1)")
    how.add_argument("--repeats", type=int, default=7, metavar="N", help="timed runs of every method, at least 2 (default: 7)")
    p.add_argument("--output", type=Path, metavar="FILE", help="JSON file of the figures; one that exists is not overwritten")
    return p


def main(argv: list[str] | None = None) -> int:
    """Exit code, see the parser's epilog."""
    try:
        run(parser().parse_args(argv))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if (needed := out_of_memory(error)) is None:
            raise
        helps = "a smaller --size, a 16-bit --dtype, --attn sdpa or a --device with more free memory"
        print(f"error: out of memory: {needed} more were needed; {helps} may help", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def run(args: argparse.Namespace) -> None:
    """Check everything that needs no model, measure, report."""
    for name, value, known in (("model", args.model, MODELS), ("size", args.size, {None: None, **SIZES})):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}; allowed: {', '.join(filter(None, known))}")
    if not all(p.strip().isdigit() and int(p) <= 100 for p in args.p.split(",")):
        raise UserError(f"--p takes whole percents from 0 to 100 with commas between, got {args.p!r}")
    if args.repeats < 2 or args.threads < 1:
        raise UserError(f"--repeats must be at least 2 and --threads at least 1, got {args.repeats} and {args.threads}")
    if args.output:
        write(args.output, "")  # now, not after an hour
        args.output.unlink()
    device, dtype, attn = resolve(args.device, args.dtype, args.attn)
    size = args.size or ("real" if device.type == "cuda" else "scaled")
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    else:
        torch.cuda.set_device(device)

    model = build(size, device, dtype, attn)
    layout = MODELS[args.model]()
    torch.manual_seed(0)
    embeds = torch.randn(1, len(layout), model.config.hidden_size, device=device, dtype=dtype)
    percents = list(dict.fromkeys(int(p) for p in args.p.split(",")))
    todo = cases(layout, embeds, args.method or labels(percents), model.config)
    stated = conditions(model, args)
    with tqdm(total=len(todo) * (args.repeats + 2), unit="run", desc=args.model) as bar:
        records = measure(model, todo, args.repeats, bar)
    document = {
        "model": args.model,
        "size": size,
        "tokens": layout.count(),
        "conditions": stated,
        "methods": records,
        "goal": goal(records, device) if (args.model, size) in GOALS[device.type] else None,
    }
    text = json.dumps(document)
    try:
        show(f"{report(document)}\n{text}")
    finally:  # figures that could not be shown may still be written
        if args.output:
            write(args.output, text + "\n")


def show(text: str) -> None:
    """A line of stdout. Raises UserError where it cannot be written."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more when it ends
        raise UserError(f"the figures could not be written to stdout: {error.strerror}") from error


def write(path: Path, text: str) -> None:
    """A new file, or none. Raises UserError where it cannot be made or does not hold the whole text."""
    try:
        path.touch(exist_ok=False)
        try:
            path.write_text(text)
        except BaseException:
            path.unlink()
            raise
    except OSError as error:
        needs = "it must be a new file in a folder that exists and has room"
        raise UserError(f"--output {path}: {needs} ({error.strerror})") from error


if __name__ == "__main__":
    sys.exit(main())
