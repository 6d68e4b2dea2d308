"""Does the distance rise all the way from a picture to a degraded copy? Along the straight line between the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distortions.engine import DistortionEngine
from ..distortions.recipe import Component
from ..distortions.record import Distortion
from .engine_cases import (
    SEED_STRIDE,
    Comparer,
    any_visible,
    batches,
    check_cases,
    crop_of,
    dealt,
    of_weights,
    prepared,
)

POINTS = 17
"""On the line, both ends included: 16 equal steps."""

TOLERANCE = 1e-6
"""A step may fall by this share of the larger of its two distances: rounding, not a valley."""


@dataclass
class _Tally:
    """Pairs of one operator.

    Attributes:
        rising: pairs on whose line no step falls by more than ``TOLERANCE``.
        pairs: all that were looked at.
        left_out: pairs without a visible pixel.
        worst: largest fall, relative; its severity and the t in [0, 1) where it begins.
    """

    rising: int = 0
    pairs: int = 0
    left_out: int = 0
    worst: tuple[float, float, float] | None = None

    def add(self, falls: Tensor, counted: Tensor, severity: float) -> None:
        """Count falls (B, ``POINTS`` - 1) of pairs at one severity, where ``counted`` (B,), bool."""
        self.left_out += int((~counted).sum())
        self.pairs += int(counted.sum())
        # What is not a number must not pass for a rise.
        for steps in falls[counted].nan_to_num(nan=1.0).tolist():
            fall = max(steps)
            self.rising += fall <= TOLERANCE
            if fall > 0 and (self.worst is None or fall > self.worst[0]):
                self.worst = (fall, severity, steps.index(fall) / (POINTS - 1))

    def entry(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "share": self.rising / self.pairs if self.pairs else None,
            "pairs": self.pairs,
            "left_out": self.left_out,
            "worst": None if self.worst is None else dict(zip(("fall", "severity", "from_t"), self.worst, strict=True)),
        }


def distances_along(loss_fn: Comparer, reference: Tensor, distorted: Tensor) -> Tensor:
    """Distance to the reference at ``reference + t * (distorted - reference)``: (B, ``POINTS``), t = k / 16, k rising.

    Args:
        loss_fn: what is measured; only ``relate`` is called.
        reference: (B, 3, H, W) in [0, 1].
        distorted: the same shape.
    """
    known = prepared(loss_fn, reference)
    line = [torch.lerp(reference, distorted, k / (POINTS - 1)) for k in range(POINTS)]
    return torch.stack([loss_fn.relate(image, known).distance for image in line], dim=1)


def relative_falls(distances: Tensor) -> Tensor:
    """By how much each step falls, relative to the larger of its two distances: (B, K - 1) of (B, K) >= 0.

    0 where a step rises or stays; between 0 and 1 where it falls.
    """
    before, after = distances[:, :-1], distances[:, 1:]
    tiny = torch.finfo(distances.dtype).tiny
    return (before - after).clamp_min(0) / torch.maximum(before, after).clamp_min(tiny)


def line_study(
    loss_fn: Comparer,
    photographs: Sequence[Tensor],
    *,
    distortions: Sequence[Distortion | str] | None = None,
    severities: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    crop: int | None = 256,
    photographs_per_operator: int = 6,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Share of pairs along whose line the distance never falls, on the pictures of the engine-based figures.

    Args:
        loss_fn: what is measured; only ``relate`` is called, without gradients.
        photographs: images (3, H, W) in [0, 1], of any sizes; distances are taken on the device and dtype they have.
        distortions: operators or their names; None for every operator of the bank that can run here.
        severities: of the single operators, rising, in (0, 1].
        crop: side of the seeded crop of each photograph, in pixels; None for whole photographs.
        photographs_per_operator: photographs dealt to each operator, round-robin.
        seed: chooses crops and the operators' random draws.
        progress: called with a line of text after each operator.

    Returns:
        JSON-able: ``share`` of all ``pairs`` on whose line no step falls by more than ``tolerance`` relative to the
        larger of its two distances (None without a pair), ``left_out`` (pairs without a visible pixel), ``worst`` (the
        largest fall of all: ``fall``, ``operator``, ``severity`` and the ``from_t`` where that step begins; None where
        nothing falls at all), the same in ``per_operator``; how it was taken, and what :func:`.engine_cases.of_weights`
        says.

    Raises:
        ValueError: no photographs, a photograph of the wrong shape, no operators, or bad severities.
    """
    steps = check_cases(photographs, severities, photographs_per_operator)
    bank = DistortionEngine(distortions).distortions
    pictures = [crop_of(photo, crop, seed + index) for index, photo in enumerate(photographs)]
    share = min(photographs_per_operator, len(pictures))
    tallies: dict[str, _Tally] = {}
    with torch.no_grad():
        for index, distortion in enumerate(bank):
            tally = tallies[distortion.name] = _Tally()
            engine = DistortionEngine([distortion])
            for number, reference in enumerate(batches(dealt(pictures, index, share))):
                draw = seed * SEED_STRIDE + index * 1009 + number
                for severity in steps:
                    recipes = [
                        (Component(distortion.name, severity, "whole", draw + k),) for k in range(len(reference))
                    ]
                    distorted = engine.render(reference, recipes).distorted
                    falls = relative_falls(distances_along(loss_fn, reference, distorted))
                    tally.add(falls, any_visible(reference, distorted), severity)
            if progress is not None:
                progress(f"{index + 1}/{len(bank)} {distortion.name}: {tally.rising} of {tally.pairs} rise")
    pairs = sum(tally.pairs for tally in tallies.values())
    falls_of = {name: tally.worst for name, tally in tallies.items() if tally.worst is not None}
    deepest = max(falls_of, key=lambda name: falls_of[name][0], default=None)
    return {
        "share": sum(tally.rising for tally in tallies.values()) / pairs if pairs else None,
        "pairs": pairs,
        "left_out": sum(tally.left_out for tally in tallies.values()),
        "worst": None if deepest is None else {"operator": deepest, **tallies[deepest].entry()["worst"]},
        "points": POINTS,
        "tolerance": TOLERANCE,
        "severities": list(steps),
        "crop": crop,
        "photographs": len(pictures),
        "photographs_per_operator": share,
        "seed": seed,
        "per_operator": {name: tally.entry() for name, tally in tallies.items()},
    } | of_weights(loss_fn)
