"""The cases that weights get most wrong: what the figure of the model card shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distortions.calibration import stable_seed
from ..distortions.compose import distort, resolve
from ..distortions.record import Distortion
from ..distortions.visibility import visibility
from ..figures_failures import Case, as_webp, failure_figure
from ..relation import AXES
from .engine_cases import Comparer, any_visible, crop_of, generator_for, weighted_mean

CASES = 4
"""Rows of the figure, each another operator."""

ASKED = 12
"""So many of the operators whose axis is named least reliably are looked at."""

PHOTOGRAPHS = 4
"""On so many photographs each."""

SEVERITY = 0.3
"""The mildest that the evaluation asks about: there most is named wrong."""


def weakest_operators(evaluation: Mapping[str, Any], count: int | None = None) -> list[tuple[str, float]]:
    """Operators whose axis was not always named right, with their axis accuracy, the least reliable first."""
    known = [
        (entry["axis_accuracy"], name)
        for name, entry in evaluation["per_operator"].items()
        if entry["axis_accuracy"] is not None and entry["axis_accuracy"] < 1
    ]
    return [(name, accuracy) for accuracy, name in sorted(known)[:count]]


def worst_cases(
    loss_fn: Comparer,
    photographs: Sequence[Tensor],
    distortions: Sequence[Distortion | str],
    *,
    count: int = CASES,
    crop: int | None = 256,
    seed: int = 0,
) -> list[Case]:
    """The pairs on which the strongest map is farthest above that of the right axis, one an operator.

    Args:
        loss_fn: what is measured.
        photographs: (3, H, W) in [0, 1]; crops are those of the evaluation with this seed.
        distortions: operators to look at, or their names.
        count: cases at most.
        crop: side of the crops, in pixels; None for whole photographs.
        seed: of crops and draws.

    Returns:
        The worst first; fewer than ``count``, or none, where fewer operators are named wrong.
    """
    found: list[tuple[float, Case]] = []
    with torch.no_grad():
        for index, one in enumerate(map(resolve, distortions)):
            several: list[tuple[float, Case]] = []
            for turn in range(min(PHOTOGRAPHS, len(photographs))):
                number = (index * PHOTOGRAPHS + turn) % len(photographs)
                reference = crop_of(photographs[number], crop, seed + number)
                draw = stable_seed(f"failures {one.name} {number}", seed)
                picture = distort(reference, one, SEVERITY, generator=generator_for(reference, draw))
                several += _wrong(loss_fn, one, reference, picture)
            found += sorted(several, key=lambda item: item[0])[:1]
    return [case for _, case in sorted(found, key=lambda item: item[0])[:count]]


def _wrong(loss_fn: Comparer, one: Distortion, reference: Tensor, picture: Tensor) -> list[tuple[float, Case]]:
    """The case with the right axis's share of the strongest map, or nothing where the pair is named right."""
    if not any_visible(reference, picture):
        return []
    maps = loss_fn.relate(picture, reference).maps
    strength = weighted_mean(maps.abs(), visibility(reference, picture))[0]
    named = int(strength.argmax())
    if AXES[named] in one.right_axes or strength[named] == 0:
        return []
    right = max(float(strength[AXES.index(axis)]) for axis in one.right_axes)
    title = f"{one.name}, severity {SEVERITY}"
    case = Case(title, reference[0], picture[0], one.right_axes, AXES[named], maps[0, named])
    return [(right / float(strength[named]), case)]


def failures_webp(
    loss_fn: Comparer, photographs: Sequence[Tensor], evaluation: Mapping[str, Any], seed: int = 0
) -> bytes | None:
    """The card's figure of the worst cases, as the bytes of a WebP file.

    Args:
        loss_fn: what was measured.
        photographs: (3, H, W) in [0, 1].
        evaluation: of :func:`.engine_scores.evaluate`: says which operators to look at.
        seed: of crops and draws.

    Returns:
        None where nothing goes wrong.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    names = [name for name, _ in weakest_operators(evaluation, ASKED)]
    cases = worst_cases(loss_fn, photographs, names, crop=evaluation["crop"], seed=seed)
    return as_webp(failure_figure(cases)) if cases else None
