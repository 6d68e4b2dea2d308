"""Memory that a task takes at its peak, counted alike on the CPU and on CUDA: tensors, through torch's allocators."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.autograd.profiler import profile

MIB = 2**20

METHODS = {
    "cpu": "largest running sum of the allocations and releases of torch's CPU allocator during one more pass, as "
    "torch's profiler records them; scratch that oneDNN and the maths libraries allocate by themselves is not in it",
    "cuda": "torch.cuda.max_memory_allocated of one more pass, less what was allocated before it; workspaces that "
    "libraries take from torch's allocator are in it, the allocator's unused reserve is not",
}
"""Type of device -> how :func:`peak_memory` counts there."""

CPU = 0
"""Torch's number of the CPU among the types of device, in traces."""

MEMINFO = Path("/proc/meminfo")


def check_countable(device: torch.device) -> None:
    """Raise unless :func:`peak_memory` can count on a device.

    Raises:
        ValueError: neither the CPU nor CUDA.
    """
    if device.type not in METHODS:
        raise ValueError(f"device must be one of {', '.join(METHODS)} to count memory on, got {device}")


def peak_memory(task: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that a task holds at its peak, beyond what was allocated before.

    Weights and inputs that are there already do not count; what the task makes counts from its allocation to its
    release, what it saves for a backward pass included. ``METHODS`` says how the bytes are counted. The CPU figure is
    exact and repeatable, but no resident set size: a heap can take more from the system than it hands out.

    Args:
        task: called once. On the CPU all allocations of the process count while it runs.
        device: where the task works.

    Raises:
        ValueError: a device that is neither the CPU nor CUDA.
    """
    check_countable(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        task()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(profile_memory=True) as record:
        task()
    # The order of single allocations is public only in the trace that the profiler exports.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [one for one in events if one.get("name") == "[memory]" and one["args"]["Device Type"] == CPU]
    held = peak = 0
    for change in sorted(changes, key=lambda one: float(one["ts"])):
        held += change["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def free_memory(device: torch.device) -> int | None:
    """Bytes that could still be allocated; None where the system does not say (a CPU without ``/proc/meminfo``)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="utf-8").splitlines() if ":" in line)
    available = lines.get("MemAvailable")
    return None if available is None else int(available.split()[0]) * 1024
