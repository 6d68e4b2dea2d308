"""How time and memory of the loss grow with the side of one picture and with the number of pictures in a batch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..distortions.threads import Progress
from ..losses import RelationalLoss
from ..validation import MIN_SIDE
from .memory import METHODS, MIB, check_countable, free_memory
from .speed import Precision, check_precision, check_scalar, machine, pass_ms, pass_peak, random_pair

LEAST_SIDE = 64
"""In pixels: where the growth with the side begins."""


@dataclass(frozen=True)
class GrowthPoint:
    """Forward and backward pass to ``pred`` at one size.

    Attributes:
        batch: pictures.
        side: their height and width in pixels.
        pixels: ``batch * side * side``.
        ms: median time in milliseconds.
        best_ms: smallest time.
        peak_mib: memory at the peak beyond weights and pictures, in MiB; see ``memory.METHODS``.
    """

    batch: int
    side: int
    pixels: int
    ms: float
    best_ms: float
    peak_mib: float


@dataclass(frozen=True)
class Growth:
    """One size after the other, in which one of batch and side doubles.

    Attributes:
        points: from small to large, at least two.
        time_exponent: slope of the least-squares line through log time against log pixels, over all points: 1 where
            time is in proportion to pixels, less where a fixed cost counts.
        memory_exponent: the same of peak memory.
        left_out: sizes that would not have fitted into free memory, with the reason.
    """

    points: tuple[GrowthPoint, ...]
    time_exponent: float
    memory_exponent: float
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class GrowthReport:
    """Growth with the side of one picture, and with the batch.

    Attributes:
        side: batch 1, side from ``LEAST_SIDE``.
        batch: batches from 1 at one side.
        setup: repeats, device, threads, precision and versions.
        memory_method: how peaks were counted.
    """

    side: Growth
    batch: Growth
    setup: dict[str, Any]
    memory_method: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def measure_growth(
    loss_fn: RelationalLoss,
    *,
    largest_side: int = 4096,
    largest_batch: int = 64,
    batch_side: int = 128,
    repeats: int = 3,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    seed: int = 0,
    progress: Progress | None = None,
) -> GrowthReport:
    """Time and memory of forward plus backward to ``pred`` over doubling sides at batch 1 and over doubling batches.

    A size is left out, with all larger ones, where twice the memory that the size before it foretells is not free.

    Args:
        loss_fn: on ``device``, with a reduction to a scalar.
        largest_side: in pixels; sides are ``LEAST_SIDE`` times powers of 2 up to it.
        largest_batch: batches are powers of 2 up to it.
        batch_side: side of the pictures whose batch grows, in pixels.
        repeats: timed passes at each size.
        warmup: passes at each size before the clock starts.
        device: the CPU or a CUDA device.
        precision: of forward passes.
        seed: of the images.
        progress: called with a line of text before each size.

    Raises:
        ValueError: limits that leave fewer than two sizes, a side too small, ``repeats`` under 1 or ``warmup`` under 0,
            an unknown precision, a device without a count of memory, a loss that returns one value per pair, or memory
            for fewer than two sizes.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}")
    if largest_side < 2 * LEAST_SIDE:
        raise ValueError(f"largest_side must be at least {2 * LEAST_SIDE} pixels for two sizes, got {largest_side}")
    if largest_batch < 2:
        raise ValueError(f"largest_batch must be at least 2 for two sizes, got {largest_batch}")
    if batch_side < MIN_SIDE:
        raise ValueError(f"batch_side must be at least {MIN_SIDE} pixels, got {batch_side}")
    device = torch.device(device)
    check_countable(device)
    check_scalar(loss_fn)
    check_precision(precision)

    def grow(sizes: Sequence[tuple[int, int]]) -> Growth:
        points: list[GrowthPoint] = []
        left_out: list[str] = []
        for batch, side in sizes:
            reason = _no_room(points, batch * side * side, device)
            if reason:
                left_out.append(f"{batch}x3x{side}x{side}: {reason}")
                continue
            if progress is not None:
                progress(f"{batch}x3x{side}x{side}")
            points.append(_point(loss_fn, batch, side, repeats, warmup, device, precision, seed))
        if len(points) < 2:
            raise ValueError(f"growth needs two sizes, got one that fits into memory; {left_out[0]}")
        pixels = [one.pixels for one in points]
        return Growth(
            points=tuple(points),
            time_exponent=exponent(pixels, [one.ms for one in points]),
            memory_exponent=exponent(pixels, [one.peak_mib for one in points]),
            left_out=tuple(left_out),
        )

    return GrowthReport(
        side=grow([(1, side) for side in doublings(LEAST_SIDE, largest_side)]),
        batch=grow([(batch, batch_side) for batch in doublings(1, largest_batch)]),
        setup={"repeats": repeats, **machine(device, precision)},
        memory_method=METHODS[device.type],
    )


def _no_room(points: Sequence[GrowthPoint], pixels: int, device: torch.device) -> str:
    """Why a size of so many pixels should not be tried after these; "" if it should."""
    free = free_memory(device)
    if not points or free is None:
        return ""
    # Twice: what torch's allocator does not count, and what the heap does not give back at once.
    needed = 2 * points[-1].peak_mib * pixels / points[-1].pixels
    return "" if needed * MIB <= free else f"asks for about {needed:.0f} MiB, {free / MIB:.0f} MiB are free"


def _point(
    loss_fn: RelationalLoss,
    batch: int,
    side: int,
    repeats: int,
    warmup: int,
    device: torch.device,
    precision: Precision,
    seed: int,
) -> GrowthPoint:
    pred, ref = random_pair((batch, 3, side, side), device, seed)
    taken = [pass_ms(lambda image: loss_fn(image, ref), pred, precision) for _ in range(warmup + repeats)][warmup:]
    peak = pass_peak(lambda image: loss_fn(image, ref), pred, precision)
    return GrowthPoint(batch, side, batch * side * side, statistics.median(taken), min(taken), peak / MIB)


def doublings(first: int, last: int) -> list[int]:
    """``first``, twice that, and so on, up to ``last`` at most."""
    return [first * 2**k for k in range((last // first).bit_length())]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the least-squares line through log(cost) against log(size); all > 0, at least two different sizes."""
    return statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in costs]).slope
