"""One torch thread a task, several tasks at once.

Pictures of training size are too small for torch's own threads to help, and a sum that is split over threads rounds
otherwise: with one thread each, pictures come out faster, and bit for bit the same on any number of cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")
Item = TypeVar("Item")

Progress = Callable[[str], None]
"""What is told a line of text now and then."""


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
    started = Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        # Asking makes the thread take its number now; else its first operation would take what is shared by then.
        torch.get_num_threads()
        started.wait()

    with ThreadPoolExecutor(count, initializer=begin) as pool:
        results = pool.map(plainly, parts)
        started.wait()
        # The setting is each thread's own, but what threads started later begin with is shared: put that back at once.
        torch.set_num_threads(threads)
        return list(results)


def for_each(
    tasks: Mapping[str, Callable[[], T]], workers: int | None = None, progress: Progress | None = None
) -> dict[str, T]:
    """Results of independent tasks, in the order of ``tasks``, done by several threads.

    Every task runs with one thread of torch's own, so that sums are added in one order and results depend neither on
    the number of workers nor on that of the cores.

    Args:
        tasks: what to do, by name.
        workers: threads; None for torch's number of threads.
        progress: called with a line of text after each task, with the time left.
    """
    before = torch.get_num_threads()
    count = before if workers is None else workers
    if count < 1:
        raise ValueError(f"workers must be at least 1 or None, got {workers}")
    started = time.monotonic()
    results: dict[str, T] = {}
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            names = {pool.submit(task): name for name, task in tasks.items()}
            try:
                for done, future in enumerate(as_completed(names), 1):
                    results[names[future]] = future.result()
                    if progress is not None:
                        left = (time.monotonic() - started) / done * (len(tasks) - done)
                        progress(f"{done}/{len(tasks)} {names[future]}, {left:.0f} s left")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(before)
    return {name: results[name] for name in tasks}
