"""Where the loss's time goes: its forward pass part by part, and the backward pass as a whole."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from ..losses import RelationalLoss
from ..scorer import pixel_error
from ..settings import have_one_factor, reduce
from .clock import wait
from .speed import Precision, autocast, check_precision, check_scalar, machine, random_pair

PARTS = ("encoder", "texture energies", "pair network", "scorer", "floor", "backward")
"""Encoding of both pictures; energies of the filtered difference; the pair network, with sums and differences of
features; the density, its shares and their pooling; the full-resolution pixel error; the backward pass to ``pred``."""


class Laps:
    """Milliseconds by part: each :meth:`lap` gives the time since the one before to a part.

    It waits for the device at every lap, which an ordinary pass does not: on an accelerator the parts come to more.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ms = dict.fromkeys(PARTS, 0.0)
        wait(device)
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last lap to ``part``, one of ``PARTS``."""
        wait(self.device)
        now = time.perf_counter()
        self.ms[part] += (now - self.last) * 1e3
        self.last = now


def forward_by_parts(loss_fn: RelationalLoss, pred: Tensor, ref: Tensor, laps: Laps) -> Tensor:
    """The value of ``loss_fn(pred, ref)`` bit for bit, with a lap after each part.

    Args:
        loss_fn: with ``data_range`` 1.
        pred: (B, 3, H, W) in [0, 1], sides that divide by 16: padding would add steps of its own.
        ref: the same shape.
        laps: what counts the parts.
    """
    predictor, scorer = loss_fn.predictor, loss_fn.scorer
    named = not have_one_factor(loss_fn.axis_weights)  # as the loss itself does
    factors = loss_fn.axis_weights if named else loss_fn.axis_weights[:1]
    features = predictor.encode(pred), predictor.encode(ref)
    laps.lap("encoder")
    # `relate` calls the texture module in its midst.
    hooks = (
        predictor.texture.register_forward_pre_hook(lambda *_: laps.lap("pair network")),
        predictor.texture.register_forward_hook(lambda *_: laps.lap("texture energies")),
    )
    try:
        pair = predictor.relate(pred, ref, *features, named=named)
    finally:
        for hook in hooks:
            hook.remove()
    laps.lap("pair network")
    error = pixel_error(pred, ref).mean(dim=(1, 2, 3))
    laps.lap("floor")
    densities, squares = scorer.densities(pair).by_axis()
    terms = scorer.combine(densities.mean(dim=(2, 3)), squares.mean(dim=(2, 3)), error)
    value = reduce((terms.parts * factors).sum(dim=1) + terms.floor, loss_fn.reduction)
    laps.lap("scorer")
    return value


def profile(
    loss_fn: RelationalLoss,
    *,
    shape: tuple[int, int, int, int] = (8, 3, 256, 256),
    repeats: int = 7,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    seed: int = 0,
) -> dict[str, Any]:
    """Time of each part of a forward and backward pass to ``pred``, in eager mode.

    Args:
        loss_fn: on ``device``, with a reduction to a scalar and ``data_range`` 1.
        shape: (B, 3, H, W) of the random images, sides that divide by 16.
        repeats: timed passes.
        warmup: passes before the clock starts.
        device: where to measure.
        precision: of the forward pass.
        seed: of the images.

    Returns:
        JSON-able: ``ms``, part in ``PARTS`` -> median milliseconds; ``share``, part -> its share of their sum;
        ``setup``.

    Raises:
        ValueError: sides that do not divide by 16, ``repeats`` under 1, ``warmup`` under 0, an unknown precision, a
            loss with another range or that returns one value per pair.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}")
    stride = loss_fn.predictor.stride
    if min(shape) < 1 or shape[2] % stride or shape[3] % stride:
        raise ValueError(f"shape must have sides that divide by {stride} to be profiled, got {shape}")
    if loss_fn.data_range != (0.0, 1.0):
        raise ValueError(f"loss_fn must have data_range (0.0, 1.0) to be profiled, got {loss_fn.data_range}")
    check_scalar(loss_fn)
    check_precision(precision)
    device = torch.device(device)
    pred, ref = random_pair(shape, device, seed)
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    for turn in range(warmup + repeats):
        image = pred.clone().requires_grad_(True)
        laps = Laps(device)
        with autocast(device, precision):
            value = forward_by_parts(loss_fn, image, ref, laps)
        value.backward()
        laps.lap("backward")
        if turn >= warmup:
            for part in PARTS:
                times[part].append(laps.ms[part])
    ms = {part: statistics.median(taken) for part, taken in times.items()}
    total = sum(ms.values())
    return {
        "ms": ms,
        "share": {part: one / total for part, one in ms.items()},
        "setup": {"shape": shape, "repeats": repeats, **machine(device, precision)},
    }
