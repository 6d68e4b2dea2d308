"""Seconds that a task takes, on the CPU or on an accelerator that works behind the caller's back."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def wait(device: torch.device) -> None:
    """Return once the device has done everything it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(task: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds from a device at rest to a device at rest."""
    wait(device)
    start = time.perf_counter()
    task()
    wait(device)
    return time.perf_counter() - start
