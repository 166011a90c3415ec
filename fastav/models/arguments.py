"""Command-line options that say which model to load and how; the same for every door."""

from __future__ import annotations

import argparse

from fastav import models

_OPTIONS = ("revision", "device", "dtype", "device_map", "attn")


def add(parser: argparse.ArgumentParser) -> None:
    """--model and everything that models.load_model takes."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="tiny", metavar="NAME", help=f"one of {', '.join(models.names())} (default: tiny)")
    group.add_argument("--checkpoint", metavar="PATH", help="folder or hub id of the weights (default: the model's own)")
    group.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a hub id")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    group.add_argument(
        "--dtype",
        metavar="NAME",
        help="float32, bfloat16 or float16 (default: bfloat16 on CUDA, float16 before Ampere, float32 on CPU)",
    )
    group.add_argument("--device-map", metavar="auto", help="auto: over all GPUs, then main memory, then disk")
    group.add_argument("--attn", metavar="NAME", help="sdpa, eager or flash_attention_2 (default: sdpa)")


def options(given: argparse.Namespace) -> dict:
    """Keyword arguments of models.load_model, without the model's name and checkpoint."""
    return {name: getattr(given, name) for name in _OPTIONS}
