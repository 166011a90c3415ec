"""Time, memory and FLOPs of pruning in a decoder of real shape with random weights: nothing is downloaded.

    python eval/speed.py                                    on a CPU: a decoder scaled down to a seventh, one thread
    python eval/speed.py --device cuda --attn flash_attention_2 --output h100.json
    python eval/speed.py --model video-salmonn-2 --p 20 --repeats 15

The prompt has the token counts of one clip in that model, and kept tokens follow its global rule; which of them the fine stage
removes depends on the weights, how many does not, and time depends on how many. All methods are warmed up and then take turns.
Prefill is the time to the first token, by the same clock as everywhere in this project. Progress goes to stderr, the table to
stdout; the last line of stdout is one JSON document (also --output).
"""

import sys

try:  # torch and transformers take seconds: Ctrl-C then ends as it does later
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    import argparse
    import json
    import os
    import platform
    import statistics
    import warnings
    from importlib.metadata import version

    import numpy as np
    import torch
    from tqdm import tqdm

    from eval.decoder import MODELS, SIZES, Case, build, cases
    from fastav import cost
    from fastav.decoder import decoder_layers
    from fastav.errors import UserError, out_of_memory
    from fastav.models.device import resolve
    from fastav.run import generate
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)

N_NEW_TOKENS = 32
GOAL_P = 20
CPU_SLACK, GPU_GOAL = 0.03, 0.59  # on a CPU, prefill time may exceed the FLOPs ratio by this; on a GPU it is at most this
GOALS = {"cpu": [("videollama2.1-av", "scaled")], "cuda": [("videollama2.1-av", "real")]}  # where there is one


def host_syncs(model, case: Case, device: torch.device) -> int | None:
    """How often the host waited for the GPU between entering layer 0 and entering the last layer of a prefill; None on a CPU."""
    if device.type != "cuda":
        return None
    first, last = (decoder_layers(model)[i] for i in (0, -1))
    # Registered after the engine's own hooks: what it sends to the device before layer 0 is not counted.
    handles = [
        first.register_forward_pre_hook(lambda *args: torch.cuda.set_sync_debug_mode("warn")),
        last.register_forward_pre_hook(lambda *args: torch.cuda.set_sync_debug_mode("default")),
    ]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            generate(model, case.request, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        for handle in handles:
            handle.remove()
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def measure(model, todo: list[Case], repeats: int, progress) -> list[dict]:
    """One record per case; who begins a repeat takes turns, so that none profits from the others' warm caches."""
    runs: dict[str, list] = {case.label: [] for case in todo}
    for case in todo:
        generate(model, case.request, N_NEW_TOKENS)
        progress.update()
    for repeat in range(repeats):
        first = repeat % len(todo)
        for case in [*todo[first:], *todo[:first]]:
            runs[case.label].append(generate(model, case.request, N_NEW_TOKENS))
            progress.update()
    records = []
    for case in todo:
        peak = cost.peak_memory(lambda case=case: generate(model, case.request, 1), model.device)[0]
        records.append(_record(model, case, todo[0], runs, peak, host_syncs(model, case, model.device)))
        progress.update()
    return records


def _record(model, case: Case, vanilla: Case, runs: dict, peak_bytes: int, n_host_syncs: int | None) -> dict:
    """Field names carry units; every time is [lower quartile, median, upper quartile].

    prefill_relative is each repeat's prefill over vanilla's of the same repeat, so that a machine that slows down counts little.
    """
    prefill, base = ([run.seconds[0] for run in runs[label]] for label in (case.label, vanilla.label))
    gaps = [statistics.mean(run.seconds[1:]) for run in runs[case.label]]
    formulas = {"flops_relative": cost.gqa_flops, "flops_paper_relative": cost.paper_flops}
    return {
        "method": case.label,
        "lengths": case.lengths,
        **{name: count(case.lengths, model.config) / count(vanilla.lengths, model.config) for name, count in formulas.items()},
        "prefill_sec": _quartiles(prefill),
        "prefill_relative": _quartiles([own / other for own, other in zip(prefill, base, strict=True)]),
        "per_token_sec": _quartiles(gaps),
        "peak_bytes": peak_bytes,
        "kv_bytes": runs[case.label][0].kv_bytes,
        "host_syncs_between_layers": n_host_syncs,
    }


def _quartiles(values: list[float]) -> list[float]:
    return np.percentile(values, (25, 50, 75)).tolist()


def goal(records: list[dict], device: torch.device) -> dict | None:
    """What FastAV at P = 20 is held to on this kind of machine; None when it was not measured."""
    record = next((r for r in records if r["method"] == f"fastav:p={GOAL_P}"), None)
    if record is None:
        return None
    limit = GPU_GOAL if device.type == "cuda" else record["flops_relative"] + CPU_SLACK
    found = record["prefill_relative"][1]
    return {"method": record["method"], "limit": limit, "found": found, "met": found <= limit}


def conditions(model, args: argparse.Namespace) -> dict:
    """Everything a figure needs beside it. load_average: processes that wanted a core in the minute before, ours included."""
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    if device.type == "cuda":
        capability = {"compute_capability": ".".join(map(str, torch.cuda.get_device_capability(device)))}
    else:
        capability = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    load = {"load_average": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}
    return {
        "machine": name,
        **capability,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **load,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "attention": model.config._attn_implementation,
        "dtype": str(model.dtype).removeprefix("torch."),
        "repeats": args.repeats,
        "new_tokens": N_NEW_TOKENS,
        "weights": "random",
    }


def table(document: dict) -> str:
    """What a person reads."""
    tokens = document["tokens"]
    counts = f"{tokens['text']} text + {tokens['video']} video + {tokens['audio']} audio tokens"
    lines = [
        f"{document['model']}, decoder of {document['size']} size: {counts} = {sum(tokens.values())}",
        ", ".join(f"{name} {value}" for name, value in document["conditions"].items()),
        "",
    ]
    titles = ["method", "FLOPs", "prefill", "of vanilla", "IQR", "per token", "peak", "KV cache", "host syncs"]
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
                f"{r['per_token_sec'][1] * 1e3:.2f} ms",
                f"{r['peak_bytes'] / 1e6:.1f} MB",
                f"{r['kv_bytes'] / 1e6:.2f} MB",
                "-" if syncs is None else str(syncs),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    lines += ["", "prefill, per token: medians; peak: above weights, in a prefill; FLOPs: GQA-aware closed form, vanilla = 1"]
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
    todo = cases(layout, embeds, percents, model.config.num_hidden_layers)
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
        show(f"{table(document)}\n{text}")
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
