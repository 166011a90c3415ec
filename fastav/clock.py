"""When each token of a run came: the one clock of every timing in this project."""

from __future__ import annotations

import time

import torch
from transformers import LogitsProcessor

from fastav.errors import UserError


class Clock(LogitsProcessor):
    """Ticks once per forward, in the thread that generates: give it to `generate` as the last logits processor.

    After generate, `seconds()` is [prefill to first logits, then one gap per later token]. On CUDA it records events of `device`,
    where the prompt is, and waits once, at the end. It also notices NaN logits, which would otherwise become a confident wrong
    answer.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.cuda = device.type == "cuda"
        self.nan = torch.zeros((), dtype=torch.bool, device=device)
        self.ticks: list = []

    def start(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        self._tick()

    def __call__(self, input_ids, scores):
        self.nan = self.nan | scores.isnan().any().to(self.nan.device)  # `device` waits for the card that the logits are on
        self._tick()
        return scores

    def _tick(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))  # without a stream: of the thread's current device
            self.ticks.append(event)
        else:
            self.ticks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Raises UserError when any logit was NaN."""
        if bool(self.nan):
            raise UserError(
                "the model computed NaN logits, so it has no answer; float16 with eager attention does this: "
                "use sdpa, or dtype bfloat16 or float32"
            )
        if self.cuda:
            torch.cuda.synchronize(self.device)
            return [a.elapsed_time(b) / 1e3 for a, b in zip(self.ticks, self.ticks[1:], strict=False)]
        return [b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)]
