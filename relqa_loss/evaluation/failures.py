"""The cases that weights get most wrong: what the figure of the model card shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distortions.bank import BANK
from ..distortions.calibration import stable_seed
from ..distortions.compose import distort, resolve
from ..distortions.recipe import Recipe
from ..distortions.record import Distortion
from ..distortions.visibility import visibility
from ..figures_failures import Case, as_webp, failure_figure
from ..relation import AXES
from .engine_cases import Comparer, any_visible, crop_of, generator_for, weighted_mean
from .pair_figures import LEADS, TOP, plan_pairs, told_apart, visible_pair

CASES = 4
"""Rows of the figure, each another operator or another two."""

ASKED = 12
"""So many of the operators whose axis is named least reliably are looked at."""

PHOTOGRAPHS = 4
"""On so many photographs each, where one acts alone."""

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


def weakest_in_pairs(evaluation: Mapping[str, Any], count: int | None = None) -> list[str]:
    """Operators that were not always named beside another one, or the other one was not, the least reliable first."""
    known = [
        (entry["two_operator_top3"], name)
        for name, entry in evaluation["per_operator"].items()
        if entry["two_operator_top3"] is not None and entry["two_operator_top3"] < 1
    ]
    return [name for _, name in sorted(known)[:count]]


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
    verdict = f"named {AXES[named]}, right: {' or '.join(one.right_axes)}"
    return [
        (right / float(strength[named]), Case(title, reference[0], picture[0], verdict, AXES[named], maps[0, named]))
    ]


def worst_pairs(
    loss_fn: Comparer,
    photographs: Sequence[Tensor],
    distortions: Sequence[Distortion | str],
    *,
    count: int = CASES,
    crop: int | None = 256,
    seed: int = 0,
) -> list[Case]:
    """Pictures of two operators, of which one is not among the strongest axes, as :mod:`.pair_figures` counts them.

    The worst are those whose overlooked axis stands lowest beside the weakest of the axes that were named.

    Args:
        loss_fn: what is measured.
        photographs: (3, H, W) in [0, 1]; crops are those of the evaluation with this seed.
        distortions: operators to look at, or their names, each beside others of the bank; those without a trace of
            their direction are left out, as there.
        count: cases at most.
        crop: side of the crops, in pixels; None for whole photographs.
        seed: of crops, partners and draws.

    Returns:
        The worst first, one an operator; fewer than ``count``, or none, where fewer are overlooked.
    """
    asked = [resolve(one) for one in distortions]
    table = {one.name: one for one in (*BANK, *asked) if one.trace}
    found: list[tuple[float, Case]] = []
    with torch.no_grad():
        for one in asked:
            if one.name not in table:
                continue
            index = list(table).index(one.name)  # as the evaluation of the whole bank deals photographs
            several: list[tuple[float, Case]] = []
            for lead, recipe in enumerate(plan_pairs(one, list(table.values()), seed)):
                number = (index * LEADS + lead) % len(photographs)
                reference = crop_of(photographs[number], crop, seed + number)
                operators = [table[component.name] for component in recipe]
                both = visible_pair(reference, recipe, operators)
                if both is not None:
                    several += _overlooked(loss_fn, recipe, operators, reference, both)
            found += sorted(several, key=lambda item: item[0])[:1]
    return [case for _, case in sorted(found, key=lambda item: item[0])[:count]]


def _overlooked(
    loss_fn: Comparer, recipe: Recipe, operators: Sequence[Distortion], reference: Tensor, picture: Tensor
) -> list[tuple[float, Case]]:
    """The case with the share of the overlooked axis in the weakest that was named, or nothing where both were."""
    maps = loss_fn.relate(picture, reference).maps
    strength = weighted_mean(maps.abs(), visibility(reference, picture))[0]
    best, channels = strength.topk(TOP)
    # Maps of zeros name nothing.
    named = {AXES[channel] for channel, value in zip(channels.tolist(), best.tolist(), strict=True) if value > 0}
    if told_apart(named, *operators):
        return []
    # Where each has an axis among those named, it is one and the same.
    missing = [one for one in operators if named.isdisjoint(one.right_axes)] or operators
    height, axis = max(
        (float(strength[AXES.index(axis)]), axis) for one in missing for axis in one.right_axes if axis not in named
    )
    title = " and ".join(f"{component.name} {component.severity:.1f}" for component in recipe)
    case = Case(title, reference[0], picture[0], f"overlooked: {axis}", axis, maps[0, AXES.index(axis)])
    return [(height / float(best[-1]) if height else 0.0, case)]


def failures_webp(
    loss_fn: Comparer, photographs: Sequence[Tensor], evaluation: Mapping[str, Any], seed: int = 0
) -> bytes | None:
    """The card's figure of the worst cases, as the bytes of a WebP file: first of operators alone, then of two at once.

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
    names, crop = [name for name, _ in weakest_operators(evaluation, ASKED)], evaluation["crop"]
    cases = worst_cases(loss_fn, photographs, names, crop=crop, seed=seed)
    if len(cases) < CASES:
        names = weakest_in_pairs(evaluation, ASKED)
        cases += worst_pairs(loss_fn, photographs, names, count=CASES - len(cases), crop=crop, seed=seed)
    return as_webp(failure_figure(cases)) if cases else None
