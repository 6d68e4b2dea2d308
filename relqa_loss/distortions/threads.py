"""One torch thread a picture, several pictures at once.

Pictures of training size are too small for torch's own threads to help, and a sum that is split over threads rounds
otherwise: with one thread each, pictures come out faster, and bit for bit the same on any number of cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

T = TypeVar("T")
Item = TypeVar("Item")


def spread(function: Callable[[Sequence[Item]], T], items: Sequence[Item], device: torch.device) -> list[T]:
    """The function's results for parts of the items, computed side by side, without gradients and autocast.

    Args:
        function: called once with each part; on the CPU from another thread, in which torch computes with one thread.
        items: dealt in runs of about equal length, in order.
        device: of the work. On an accelerator there is one part and no thread.

    Returns:
        One result a part, in order.
    """

    def plainly(part: Sequence[Item]) -> T:
        # Neither setting would reach another thread: off in every case.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return function(part)

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [plainly(items)]
    count = min(threads, len(items))
    bounds = [round(k * len(items) / count) for k in range(count + 1)]
    parts = [items[start:end] for start, end in pairwise(bounds)]
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(plainly, parts))
    finally:
        # The setting is the thread's own, but what threads started later begin with is shared: put that back.
        torch.set_num_threads(threads)
