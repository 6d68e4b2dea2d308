"""What the pictures of a tier are made of, and what makes their order true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor

from .draws import Draws
from .recipe import Component, Recipe
from .record import Distortion
from .regions import NESTED

KINDS: tuple[str, ...] = ("ladder", "dominance", "inclusion", "kinds", "consensus")
"""Constructions; the order of the first three is true by construction, that of ``kinds`` and ``consensus`` is weak."""

DEFAULT_KINDS: dict[str, float] = {"ladder": 0.5, "dominance": 0.3, "inclusion": 0.2}
"""Probability of each construction."""

STEP = 0.1
"""Least difference of severity (or of the share of the picture) between two steps."""

WEAK_STEP = 0.3
"""Least difference of calibrated severity at which two different operators are ordered."""

SIZES = range(2, 11)
"""Sizes of tiers: ten steps of 0.1 are what fits above 0."""

NOISE_AXES: tuple[str, ...] = ("noise", "chroma_noise", "impulse")

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Plan:
    """One tier of one image, before any pixel is touched.

    Attributes:
        kind: the construction.
        recipes: one for each of T pictures.
        strength: (T, K) numbers that decide the order: severities of the K components, or the extent of the region;
            empty for ``consensus``, whose order only the pictures can tell.
    """

    kind: str
    recipes: tuple[Recipe, ...]
    strength: tuple[tuple[float, ...], ...]

    def order(self) -> Tensor:
        """(T, T) bool, True where the picture of the row is better than that of the column."""
        strength = torch.tensor(self.strength, dtype=torch.float64)
        difference = strength[None, :] - strength[:, None]
        if self.kind == "kinds":
            return (difference >= WEAK_STEP - _ROUNDING).all(dim=-1)
        return (difference >= 0).all(dim=-1) & (difference > 0).any(dim=-1)


def noise_like(distortion: Distortion) -> bool:
    """True for operators that add what smoothing takes away: noise, colour speckle, impulses."""
    return any(distortion.effects.get(axis, 0.0) > 0 for axis in NOISE_AXES)


def acts_after(distortion: Distortion) -> int:
    """Rank in which operators of one picture act: what smooths before what adds noise, pure noise last of all.

    Otherwise the smoothing would take away the noise whose target stays.
    """
    return noise_like(distortion) + (noise_like(distortion) and not distortion.smooths)


def dominance_conflict(distortions: Sequence[Distortion]) -> str | None:
    """Why these operators may not stand together in a dominance tier, or None if they may."""
    for one in distortions:
        if not one.dominance:
            return f"{one.name!r} is not made for dominance tiers"
    for one, other in combinations(distortions, 2):
        for axis, effect in one.effects.items():
            if effect * other.effects.get(axis, 0.0) < 0:
                return f"{one.name!r} and {other.name!r} act on {axis!r} with opposite signs"
        for noisy, second in ((one, other), (other, one)):
            # Whichever comes first: smoothing removes noise, and grain hides a blur and breaks up contours.
            if noise_like(noisy) and (second.smooths or second.effects.get("banding", 0.0) > 0):
                return f"{second.name!r} may hide or be hidden by the noise of {noisy.name!r}"
    return None


def possible_kinds(table: Mapping[str, Distortion], size: int) -> tuple[str, ...]:
    """The constructions that these operators allow; ValueError for a size outside ``SIZES``."""
    if size not in SIZES:
        raise ValueError(f"size must lie in {SIZES.start}..{SIZES.stop - 1}, got {size}")
    allowed = ["ladder"]
    if any(dominance_conflict(pair) is None for pair in combinations(table.values(), 2)):
        allowed.append("dominance")
    if any(may_include(one) for one in table.values()):
        allowed.append("inclusion")
    if len(table) >= size:
        allowed.append("kinds")
    return (*allowed, "consensus")


def plan_ladder(distortion: Distortion, severities: Sequence[float], region: str, seed: int) -> Plan:
    """One operator, one draw, one region; the severities decide the order."""
    recipes = tuple((Component(distortion.name, severity, region, seed),) for severity in severities)
    return Plan("ladder", recipes, tuple((severity,) for severity in severities))


def plan_dominance(
    distortions: Sequence[Distortion],
    strengths: Sequence[Sequence[float]],
    regions: Sequence[str],
    seeds: Sequence[int],
) -> Plan:
    """The same operators, draws and regions under several severity vectors, which decide the order."""
    acting = sorted(range(len(distortions)), key=lambda k: acts_after(distortions[k]))
    recipes = tuple(
        tuple(Component(distortions[k].name, vector[k], regions[k], seeds[k]) for k in acting) for vector in strengths
    )
    return Plan("dominance", recipes, tuple(tuple(vector) for vector in strengths))


def plan_inclusion(distortion: Distortion, severity: float, extents: Sequence[float], seed: int) -> Plan:
    """One operator at one severity; the extents of the nested regions decide the order."""
    recipes = tuple((Component(distortion.name, severity, NESTED, seed, extent),) for extent in extents)
    return Plan("inclusion", recipes, tuple((extent,) for extent in extents))


def plan_kinds(distortions: Sequence[Distortion], severities: Sequence[float], seeds: Sequence[int]) -> Plan:
    """One picture an operator, everywhere; calibrated severities decide the order where they differ enough."""
    parts = zip(distortions, severities, seeds, strict=True)
    recipes = tuple((Component(one.name, severity, "whole", seed),) for one, severity, seed in parts)
    return Plan("kinds", recipes, tuple((severity,) for severity in severities))


def plan_consensus(recipes: Sequence[Recipe]) -> Plan:
    """Any pictures at all; the panel decides the order once they are made."""
    return Plan("consensus", tuple(recipes), ((),) * len(recipes))


def plan_tier(
    kind: str, draws: Draws, table: Mapping[str, Distortion], regions: Mapping[str, float], size: int
) -> Plan:
    """A random tier of any kind but ``consensus``; the operators must allow it (:func:`possible_kinds`)."""
    distortions = list(table.values())
    if kind == "ladder":
        chosen = distortions[draws.below(len(distortions))]
        return plan_ladder(chosen, _rising(draws, size, STEP), draws.pick(regions), draws.new_seed())
    if kind == "dominance":
        parts = _compatible(draws, distortions)
        places = [draws.pick(regions) for _ in parts]
        return plan_dominance(parts, _strengths(draws, size, len(parts)), places, [draws.new_seed() for _ in parts])
    if kind == "inclusion":
        candidates = [one for one in distortions if may_include(one)]
        chosen = candidates[draws.below(len(candidates))]
        extents = _rising(draws, size, 0.09, 0.97)
        return plan_inclusion(chosen, draws.uniform(0.3, 1.0), extents, draws.new_seed())
    several = draws.shuffled(distortions)[:size]
    return plan_kinds(several, [draws.uniform(STEP, 1.0) for _ in several], [draws.new_seed() for _ in several])


def _rising(draws: Draws, count: int, step: float, most: float = 1.0) -> list[float]:
    """Rising numbers in [step, most], at least ``step`` apart."""
    # Exponential gaps give evenly spread order statistics; the last gap is the room left above.
    gaps = [-float(torch.tensor(1 - draws.uniform(), dtype=torch.float64).log()) for _ in range(count + 1)]
    room = max(0.0, most - step * count)
    values, total = [], 0.0
    for index in range(count):
        total += gaps[index]
        values.append(min(most, step * (index + 1) + room * total / sum(gaps)))
    return values


def _compatible(draws: Draws, distortions: Sequence[Distortion]) -> list[Distortion]:
    """Two or three random operators that may stand together in a dominance tier; at least two of them must exist."""
    wanted = 2 + draws.below(2)
    usable = draws.shuffled([one for one in distortions if one.dominance])
    for first in usable:
        chosen = [first]
        for other in usable:
            if len(chosen) < wanted and other is not first and dominance_conflict([*chosen, other]) is None:
                chosen.append(other)
        if len(chosen) > 1:
            return chosen
    raise ValueError("no two of these operators may stand together in a dominance tier")


def _strengths(draws: Draws, size: int, count: int) -> list[tuple[float, ...]]:
    """Distinct severity vectors, steps of at least STEP; the last is the strongest in every component."""
    levels = 3 if 3**count > size else 4
    columns = []
    for _ in range(count):
        column = _rising(draws, levels, STEP)
        # Absent altogether, half of the time.
        columns.append([0.0, *column[1:]] if draws.uniform() < 0.5 else column)
    everything = [vector for vector in product(*columns) if any(vector)]
    strongest = everything.pop()
    return [*draws.shuffled(everything)[: size - 1], strongest]


def may_include(distortion: Distortion) -> bool:
    """True for operators that may stand in inclusion tiers: never for displacements, which a region would tear."""
    return distortion.inclusion and distortion.apply is not None
