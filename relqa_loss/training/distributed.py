"""Several processes that train one network: who makes which rows, and what they tell each other.

The processes are those that ``torchrun`` starts. Gradients are averaged here and not by a ``DistributedDataParallel``
wrapper: losses call more of a network than its ``forward``, not every parameter takes part in every step, and the
networks are so small that there is nothing to gain from sending gradients while others are still being computed.
Without a process group every function does what one process needs: nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..validation import check_device


@dataclass(frozen=True)
class Ranks:
    """Which one of how many training processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes, validates and reports."""
        return self.rank == 0

    def rows(self, batch: int) -> range:
        """This process's rows of a batch.

        Raises:
            ValueError: the batch cannot be split evenly.
        """
        if batch % self.size:
            raise ValueError(f"batch must be a multiple of the number of processes, {self.size}, got {batch}")
        share = batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)


def current() -> Ranks:
    """The place of this process in the process group; the only one if there is no group."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@contextmanager
def joined(device: str | torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Be part of the process group that ``torchrun`` asks for, if it does: gloo on the CPU, nccl on CUDA devices.

    A gloo group is not taken down. The threads of that backend can outlive what they worked on: once in some hundred
    times the process dies of SIGABRT ("terminate called without an active exception") on the way, with its work done,
    and ``torchrun`` ends the others, done or not. The same can happen when the interpreter takes the group down, so
    that the command line leaves without (:func:`relqa_loss.cli.entry`). A process that joins again
    stays in the group it is in.

    Args:
        device: what the user asked for; of CUDA devices every process takes the one of its number on the machine.

    Yields:
        The place in the group, and the device to train on.

    Raises:
        ValueError: no such device, more processes on this machine than it has CUDA devices, or a group is there that
            is not made for it.
    """
    device = check_device("device", device)
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield Ranks(), device
        return
    if device.type == "cuda":
        device = check_device("device", torch.device("cuda", int(os.environ["LOCAL_RANK"])))
        torch.cuda.set_device(device)
    backend, ours = "nccl" if device.type == "cuda" else "gloo", not dist.is_initialized()
    if ours:
        dist.init_process_group(backend)
    elif dist.get_backend() != backend:
        raise ValueError(f"device must suit the process group that is there, {dist.get_backend()}, got {device}")
    try:
        yield current(), device
    finally:
        if ours and device.type == "cuda":
            dist.destroy_process_group()


def start_equal(module: nn.Module) -> None:
    """Give every process the state of the first one's module."""
    if current().size > 1:
        for tensor in module.state_dict().values():
            # A copy, since collectives want dense memory in the usual order.
            value = tensor.detach().contiguous()
            dist.broadcast(value, 0)
            tensor.copy_(value)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; one that no process has stays None."""
    size = current().size
    if size == 1:
        return
    gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in parameters]
    there = gradients[0].new_tensor([float(p.grad is not None) for p in parameters])
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), there])
    dist.all_reduce(flat)
    *means, there = (flat / size).split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, gradient, mean, somewhere in zip(parameters, gradients, means, there.tolist(), strict=True):
        parameter.grad = gradient.copy_(mean.view(parameter.shape)) if somewhere else None


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of the processes' values, without gradient."""
    size = current().size
    if size == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / size


def gathered(values: Tensor) -> Tensor:
    """The processes' values (N, ...) as one tensor (size * N, ...), with the gradient of this process's own part."""
    ranks = current()
    if ranks.size == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(ranks.size)]
    dist.all_gather(parts, values.detach().contiguous())
    parts[ranks.rank] = values
    return torch.cat(parts)


def at_least_one(count: Tensor) -> Tensor:
    """What a sum over ``count`` things is divided by for their mean."""
    return count.clamp_min(1)


def share_of_count(count: Tensor) -> Tensor:
    """:func:`at_least_one` where the things are spread over the processes.

    A process that divides its sum by this value contributes to the mean over processes what its things contribute to
    the mean over all things, however unevenly they are spread.
    """
    size = current().size
    return (mean_over_ranks(count.float()) * size).clamp_min(1) / size


def any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Whether each of the flags is set in any process."""
    if current().size == 1:
        return list(flags)
    values = torch.tensor(flags, dtype=torch.float32, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def extremes(value: int, device: torch.device) -> tuple[int, int]:
    """Smallest and largest of the processes' values."""
    if current().size == 1:
        return value, value
    both = torch.tensor([-value, value], device=device)
    dist.all_reduce(both, dist.ReduceOp.MAX)
    low, high = both.tolist()
    return -low, high
