"""Tiers: ordinally ranked sets of one content, with an order that is true by construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..validation import check_images
from .compose import (
    check_generator,
    check_recipes,
    check_severity,
    resolve,
    table_of,
    working_copy,
)
from .draws import Draws, draws_for_batch
from .panel import panel_order
from .recipe import Recipe
from .record import Distortion
from .render import PIXELS_A_BATCH, Renderer, chunks, images_at_once
from .threads import spread
from .tier_plans import (
    Plan,
    dominance_conflict,
    may_include,
    plan_consensus,
    plan_dominance,
    plan_inclusion,
    plan_kinds,
    plan_ladder,
)


@dataclass(frozen=True)
class Tier:
    """Several qualities of each image and what is known of their order.

    Kinds: ``ladder``: one operator with one draw, at rising severities. ``dominance``: the same two or three operators
    with the same draws; better where no component is stronger and one is weaker. ``inclusion``: one operator at one
    severity in nested regions. Weak orders, not true by construction: ``kinds``: different operators, ordered where
    calibrated severities differ by 0.3 or more. ``consensus``: any pictures of the engine, ordered where the panel of
    closed-form metrics is unanimous (:func:`relqa_loss.distortions.panel.panel_order`).

    Attributes:
        reference: (B, 3, H, W), the images that were passed in.
        images: (B, T, 3, H, W), same dtype.
        order: (B, T, T) bool: ``order[b, i, j]`` is True where image i is known to be better (nearer to the reference)
            than j. A strict partial order; False between bitwise equal images.
        kind: the construction, for each of B.
        recipes: what was done, for each of B and T.
        severity: (B, T): of a ladder step, or the largest of the components.
        names: the operators that were used, for each of B.
    """

    reference: Tensor
    images: Tensor
    order: Tensor
    kind: tuple[str, ...]
    recipes: tuple[tuple[Recipe, ...], ...]
    severity: Tensor
    names: tuple[tuple[str, ...], ...]


def build_tier(images: Tensor, plans: Sequence[Plan], table: Mapping[str, Distortion]) -> Tier:
    """Do what the plans say.

    Args:
        images: (B, 3, H, W) in [0, 1], of any float dtype.
        plans: one an image, all of one size T.
        table: operators by name.

    Returns:
        The tier. Where pictures turn out bitwise equal although others should lie between them, nothing is claimed of
        that image.
    """
    work = working_copy(images)

    def render(indices: Sequence[int]) -> Tensor:
        pictures: list[Tensor] = []
        for part in chunks(indices, images_at_once(work, PIXELS_A_BATCH)):
            jobs = [(k, recipe) for k, index in enumerate(part) for recipe in plans[index].recipes]
            pictures += Renderer(work[part[0] : part[-1] + 1], table).render(jobs)
        return torch.cat(pictures)

    pictures = torch.cat(spread(render, range(len(plans)), work.device)).to(images.dtype)
    pictures = pictures.unflatten(0, (len(plans), -1))
    size = pictures.shape[1]
    orders = [
        panel_order(image, stack) if plan.kind == "consensus" else plan.order().to(stack.device)
        for plan, image, stack in zip(plans, work, working_copy(pictures.flatten(0, 1)).split(size), strict=True)
    ]
    orders = [_without_equals(order, stack) for order, stack in zip(orders, pictures, strict=True)]
    return Tier(
        reference=images,
        images=pictures,
        order=torch.stack(orders),
        kind=tuple(plan.kind for plan in plans),
        recipes=tuple(plan.recipes for plan in plans),
        severity=torch.tensor(
            [[max((one.severity for one in recipe), default=0.0) for recipe in plan.recipes] for plan in plans],
            device=images.device,
        ),
        names=tuple(tuple(dict.fromkeys(c.name for recipe in plan.recipes for c in recipe)) for plan in plans),
    )


def _without_equals(order: Tensor, stack: Tensor) -> Tensor:
    """Order (T, T) without pairs of bitwise equal pictures (T, 3, H, W); empty where that leaves a contradiction."""
    flat = stack.flatten(1)
    equal = torch.stack([(flat == row).all(dim=1) for row in flat])
    order = order & ~equal
    implied = (order.float() @ order.float()) > 0
    return order & ~(implied & equal).any()


def ladder(
    images: Tensor,
    distortion: str | Distortion,
    severities: Sequence[float],
    *,
    region: str = "whole",
    generator: Generator,
) -> Tier:
    """One operator with one draw an image, at several severities.

    Args:
        images: (B, 3, H, W) in [0, 1].
        distortion: an operator of the bank by name, or one's own.
        severities: T numbers in [0, 1], in any order.
        region: kind of region; the same draw at every step.
        generator: source of all randomness, on the device of ``images``.
    """
    one = resolve(distortion)
    steps = [check_severity("severities", value) for value in severities]
    streams = _streams(images, generator, len(steps))
    return _build(images, [plan_ladder(one, steps, region, draws.new_seed()) for draws in streams], [one])


def dominance(
    images: Tensor,
    distortions: Sequence[str | Distortion],
    strengths: Sequence[Sequence[float]],
    *,
    regions: Sequence[str] | None = None,
    generator: Generator,
) -> Tier:
    """Compositions of the same operators with the same draws, at several strengths.

    Args:
        images: (B, 3, H, W) in [0, 1].
        distortions: K operators. They act in this order, save that those that add noise act last.
        strengths: T vectors of K severities in [0, 1].
        regions: K kinds of region; None for the whole picture.
        generator: source of all randomness, on the device of ``images``.

    Raises:
        ValueError: operators whose composition has no certain order (``dominance_conflict``), wrong lengths or values.
    """
    parts = [resolve(one) for one in distortions]
    conflict = dominance_conflict(parts)
    if conflict is not None:
        raise ValueError(f"distortions have no certain order together: {conflict}")
    places = ["whole"] * len(parts) if regions is None else list(regions)
    vectors = [[check_severity("strengths", value) for value in vector] for vector in strengths]
    if len(places) != len(parts) or any(len(vector) != len(parts) for vector in vectors):
        raise ValueError(f"regions and each of strengths must have one entry for each of {len(parts)} distortions")
    streams = _streams(images, generator, len(vectors))
    plans = [plan_dominance(parts, vectors, places, [draws.new_seed() for _ in parts]) for draws in streams]
    return _build(images, plans, parts)


def inclusion(
    images: Tensor,
    distortion: str | Distortion,
    severity: float,
    extents: Sequence[float],
    *,
    generator: Generator,
) -> Tier:
    """One operator at one severity in nested regions.

    Args:
        images: (B, 3, H, W) in [0, 1].
        distortion: an operator for which a part never looks worse than the whole (``Distortion.inclusion``).
        severity: in [0, 1].
        extents: T shares of the picture in [0, 1], in any order.
        generator: source of all randomness, on the device of ``images``.

    Raises:
        ValueError: an operator that is not made for inclusion tiers, values outside [0, 1].
    """
    one = resolve(distortion)
    if not may_include(one):
        raise ValueError(f"distortion {one.name!r} is not made for inclusion tiers: a part can look worse")
    strength = check_severity("severity", severity)
    shares = [check_severity("extents", value) for value in extents]
    streams = _streams(images, generator, len(shares))
    return _build(images, [plan_inclusion(one, strength, shares, draws.new_seed()) for draws in streams], [one])


def across_kinds(
    images: Tensor, distortions: Sequence[str | Distortion], severities: Sequence[float], *, generator: Generator
) -> Tier:
    """Different operators on the whole picture, ordered where severities differ by 0.3; as good as the calibration.

    Args:
        images: (B, 3, H, W) in [0, 1].
        distortions: T different operators.
        severities: one for each, in [0, 1].
        generator: source of all randomness, on the device of ``images``.
    """
    several = [resolve(one) for one in distortions]
    levels = [check_severity("severities", value) for value in severities]
    if len(levels) != len(several):
        raise ValueError(f"severities must hold one number for each of {len(several)} distortions, got {len(levels)}")
    streams = _streams(images, generator, len(several))
    plans = [plan_kinds(several, levels, [draws.new_seed() for _ in several]) for draws in streams]
    return _build(images, plans, several)


def consensus(images: Tensor, recipes: Sequence[Recipe], distortions: Sequence[str | Distortion]) -> Tier:
    """Pictures made by any recipes, ordered where the panel of closed-form metrics is unanimous.

    Args:
        images: (B, 3, H, W) in [0, 1], at least 128 pixels high and wide.
        recipes: T recipes, each applied to every image.
        distortions: the operators that the recipes name.

    Raises:
        MissingExtra: piq is not installed.
        ValueError: images too small for the panel, unknown names.
    """
    check_images("images", images)
    plan = plan_consensus([tuple(recipe) for recipe in recipes])
    return _build(images, [plan] * images.shape[0], [resolve(one) for one in distortions])


def _streams(images: Tensor, generator: Generator, size: int) -> list[Draws]:
    check_images("images", images)
    check_generator(generator, images)
    if size < 1:
        raise ValueError("a tier must hold at least one picture of each image, got none")
    return draws_for_batch(images.shape[0], generator)


def _build(images: Tensor, plans: Sequence[Plan], distortions: Sequence[Distortion]) -> Tier:
    table = table_of(distortions)
    for plan in plans:
        for recipe in plan.recipes:
            check_recipes(images[:1], [recipe], table)
    return build_tier(images, plans, table)
