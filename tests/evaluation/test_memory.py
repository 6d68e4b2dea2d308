"""Peak memory counts tensors exactly, and nothing that was there before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from relqa_loss.evaluation import memory
from relqa_loss.evaluation.memory import MIB, free_memory, peak_memory

CPU = torch.device("cpu")


def of_mib(count: int) -> Tensor:
    return torch.empty(count * MIB, dtype=torch.uint8)


def test_the_peak_is_what_is_held_at_once() -> None:
    def task() -> None:
        first = of_mib(3)
        del first
        second, third = of_mib(2), of_mib(4)
        del second, third
        of_mib(5)

    assert peak_memory(task, CPU) == 6 * MIB
    assert peak_memory(task, CPU) == 6 * MIB


def test_what_was_there_before_does_not_count() -> None:
    weights = of_mib(7)

    def task() -> Tensor:
        return weights[:MIB].clone()

    assert peak_memory(task, CPU) == MIB


def test_what_a_backward_pass_needs_is_held_until_then() -> None:
    def task(recorded: bool) -> Callable[[], None]:
        def run() -> None:
            x = torch.ones(MIB, requires_grad=recorded)
            for _ in range(4):
                x = x.sin()

        return run

    # In-between results are released as soon as nobody needs them: two at a time.
    assert peak_memory(task(False), CPU) == 2 * 4 * MIB
    assert peak_memory(task(True), CPU) == 5 * 4 * MIB


def test_a_device_without_a_count_is_an_error() -> None:
    with pytest.raises(ValueError, match="device must be one of cpu, cuda to count memory on, got meta"):
        peak_memory(lambda: None, torch.device("meta"))


def test_free_memory_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert free_memory(CPU) is None
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\nMemFree:  100 kB\nMemAvailable:  512 kB\n")
    assert free_memory(CPU) == 512 * 1024
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\n")
    assert free_memory(CPU) is None


@pytest.mark.gpu
def test_on_cuda_the_peak_is_the_allocator_s() -> None:
    device = torch.device("cuda")
    weights = torch.empty(7 * MIB, dtype=torch.uint8, device=device)

    def task() -> None:
        first = torch.empty(4 * MIB, dtype=torch.uint8, device=device)
        second = weights[: 2 * MIB].clone()
        del first, second

    # The allocator may hand out a block that is a little too large.
    assert 6 * MIB <= peak_memory(task, device) < 8 * MIB
