"""Displacements in pixels: how far from the truth do the shift maps point?"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..distortions.engine import DistortionEngine
from ..distortions.recipe import Component
from ..distortions.record import Distortion
from ..relation import AXES, PIXELS_PER_UNIT_SHIFT, SHIFT_AXES
from .engine_cases import VISIBLE, Comparer
from .engine_rows import Row

FARTHEST = 4.0
"""Pixels that were displaced by more than this, in pixels, are left out."""

_SHIFTS = [AXES.index(axis) for axis in SHIFT_AXES]


def measure_shift(
    loss_fn: Comparer, distortion: Distortion, reference: Tensor, severities: Sequence[float], draw: int, row: Row
) -> None:
    """Mean distance between predicted and true displacement, pixels weighted by how visible the change is.

    Args:
        loss_fn: what is measured.
        distortion: an operator with ``flow``.
        reference: (B, 3, H, W) in [0, 1].
        severities: of the pictures.
        draw: of the operator on the first picture; the next has the next. The same at every severity.
        row: takes one error a picture, in pixels; pictures without a visible pixel within reach give none.
    """
    engine = DistortionEngine([distortion])
    for severity in severities:
        recipes = [(Component(distortion.name, severity, "whole", draw + k),) for k in range(len(reference))]
        triplet = engine.render(reference, recipes)
        true = triplet.maps[:, _SHIFTS] * PIXELS_PER_UNIT_SHIFT
        maps = loss_fn.relate(triplet.distorted, reference).maps
        error = (maps[:, _SHIFTS].to(true.dtype) * PIXELS_PER_UNIT_SHIFT - true).norm(dim=1)
        weight = triplet.weight * (true.norm(dim=1) <= FARTHEST)
        seen = weight.amax(dim=(1, 2)) >= VISIBLE
        mean = (error * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1e-12)
        row.shift_errors += mean[seen].tolist()
