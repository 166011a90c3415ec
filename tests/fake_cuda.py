"""GPUs that are not there: torch.cuda answers for them, so that what is decided from its answers can be tested anywhere."""

from dataclasses import dataclass
from types import SimpleNamespace

import accelerate.utils.modeling
import psutil
import torch


@dataclass
class Card:
    name: str = "NVIDIA A100"
    capability: tuple[int, int] = (8, 0)
    free: float = 80e9


def install(monkeypatch, *cards: Card, current=0, main_memory=64e9, built_for=("sm_75", "sm_80", "sm_86", "sm_90", "sm_120")):
    """Let torch and accelerate see `cards`; nothing can be computed on them."""

    def card(device=None) -> Card:
        index = device if isinstance(device, int) or device is None else torch.device(device).index
        return cards[current if index is None else index]

    def set_device(device):
        if not isinstance(device, int) and torch.device(device).index is None:
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")  # torch's own

    answers = {
        "is_available": lambda: True,
        "device_count": lambda: len(cards),
        "current_device": lambda: current,
        "set_device": set_device,
        "get_arch_list": lambda: list(built_for),
        "get_device_capability": lambda device=None: card(device).capability,
        "get_device_name": lambda device=None: card(device).name,
        "get_device_properties": lambda device=None: SimpleNamespace(is_integrated=False),
        "mem_get_info": lambda device=None: (int(card(device).free), int(card(device).free)),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(main_memory)))
    all_of_it = {**{i: int(card.free) for i, card in enumerate(cards)}, "cpu": int(main_memory)}
    given = accelerate.utils.modeling.get_max_memory
    monkeypatch.setattr(
        accelerate.utils.modeling, "get_max_memory", lambda limits=None: dict(all_of_it) if limits is None else given(limits)
    )
