from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LEAVE_AT_ONCE = Path(__file__).with_name("leave_at_once.py")


@pytest.fixture
def pairs(make_pair: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(pred, ref), 7 pictures each: no two processes share them evenly, no batch of 2 or 3 takes the last."""
    return make_pair(7, 32, 32)


@pytest.fixture
def in_two_processes(repository: Path) -> Callable[..., None]:
    """``run(file, *arguments)``: the file as a script in two processes that torchrun starts.

    The script must not take down the process group: see ``leave_at_once.py``.
    """

    def run(file: str, *arguments: str | Path) -> None:
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        # A process that waits for the other would do so for half an hour.
        done = subprocess.run(
            [sys.executable, *launch, str(LEAVE_AT_ONCE), file, *map(str, arguments)],
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
