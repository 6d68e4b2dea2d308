"""Engine-based figures: how well distances, maps and scores name, sign, place and order what the engine did.

Most is measured on single operators of the bank, each dealt the same number of photographs, so that operators weigh
equally; what needs other pictures has a file of its own. A pair in which no pixel visibly changed is left out. Nothing
here needs a human opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distortions.compose import distort
from ..distortions.engine import DistortionEngine
from ..distortions.recipe import Component
from ..distortions.record import Distortion
from ..distortions.regions import draw_region, nested_regions
from ..distortions.tier_plans import possible_kinds
from ..distortions.visibility import visibility
from ..relation import AXES
from .engine_cases import (
    LADDER,
    SEED_STRIDE,
    VISIBLE,
    Comparer,
    any_visible,
    batches,
    check_cases,
    crop_of,
    dealt,
    differ,
    generator_for,
    of_weights,
    prepared,
    weighted_mean,
)
from .engine_rows import Count, Row, has_sign, strongest_axes, summary
from .order_figures import count_mixed, count_triples
from .pair_figures import measure_pairs
from .panel_figures import panel_agreement
from .scene_figures import measure_scenes
from .shift_figures import measure_shift
from .statistics import mean_of, weighted_auc

REGION_SEVERITY = 0.7
"""Severity inside the region of localisation and inclusion cases."""

REGION_KINDS = ("soft", "shape")
"""Regions with a definite inside; operators and photographs take turns."""

DOMINANCE_SIZE = 4
"""Pictures in a dominance tier."""


def evaluate(
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
    """Take the engine-based figures.

    Args:
        loss_fn: what is measured, without gradients: ``relate``, and ``prepare`` and ``info`` of a ``RelationalLoss``.
        photographs: images (3, H, W) in [0, 1], of any sizes; figures belong to the device and dtype they have.
        distortions: operators or their names; None for every operator of the bank.
        severities: severities of the axis, sign, leakage, severity and unanchored figures, rising, in (0, 1].
        crop: side of the seeded crop of each photograph, in pixels; None for whole photographs.
        photographs_per_operator: photographs dealt to each operator, round-robin.
        seed: chooses crops, regions and the operators' random draws.
        progress: called with a line of text after each operator.

    Returns:
        JSON-able; figures that were never asked are None. ``axis_accuracy``, ``localisation_auc``, ``leakage`` (lower
        is better), ``ladder_accuracy`` (all pairs) and ``ladder_neighbour_accuracy`` (one step of 0.1),
        ``inclusion_accuracy``, ``unanchored_accuracy``: means over operators. ``dominance_accuracy``: over all pairs
        of the tiers, which mix operators. ``sign_accuracy``: ``tone``, ``shift`` and ``all``. ``severity_spearman``:
        ``mean``, ``min`` and one value an axis, of its own map, over the pairs of the operators that act on it in full,
        with the severity that the engine's own map shows; ``nominal_severity_spearman``: the same with the severity
        that was asked for; ``nominal_severity_of_own_maps``: the same of the engine's own maps, which no map that is
        right in every place can surpass by much.
        ``per_operator``: the same figures by operator, with the number of pairs and of those left out.
        ``without_sign``: operators left out of the sign figures. ``seed``, ``photographs``, ``crop``, ``severities``,
        ``ladder``.
        ``two_operator_top3``: pictures of two operators on which different right axes of both are among the three
        strongest; ``two_operator_pictures``, ``dominance_pairs``, ``photographs_per_operator``: numbers of cases.
        ``shift_endpoint_error_px``: of displacements up to 4 pixels, lower is better. ``transitivity``: triples
        without a cycle, ``all``, of ``one_operator`` (mean over operators) and ``mixed``. ``scene_spearman``: of
        distance with severity over all photographs, ``median`` and ``min`` over operators. ``panel_agreement`` and
        ``panel_agreement_without_opinion_constants``: see :func:`.panel_figures.panel_agreement`. Of a
        ``RelationalLoss`` also what :func:`.engine_cases.of_weights` says.

    Raises:
        MissingExtra: an operator needs a codec that is missing here.
        ValueError: no photographs, a photograph of the wrong shape, no operators, or bad severities.
    """
    steps = check_cases(photographs, severities, photographs_per_operator)
    bank = DistortionEngine(distortions).distortions
    pictures = [crop_of(photo, crop, seed + index) for index, photo in enumerate(photographs)]
    share = min(photographs_per_operator, len(pictures))
    rows: dict[str, Row] = {}
    with torch.no_grad():
        for index, distortion in enumerate(bank):
            row = rows[distortion.name] = Row()
            for number, reference in enumerate(batches(dealt(pictures, index, share))):
                draw = seed * SEED_STRIDE + index * 1009 + number
                distorted = _measure_ladder(loss_fn, distortion, reference, steps, draw, row)
                _measure_region(loss_fn, distortion, reference, REGION_KINDS[(index + number) % 2], draw, row)
                if distortion.inclusion:
                    _measure_inclusion(loss_fn, distortion, reference, draw, row)
                if distortion.told_apart_alone:
                    _measure_unanchored(loss_fn, distorted, reference, row)
                if distortion.flow is not None:
                    measure_shift(loss_fn, distortion, reference, steps, draw, row)
            if progress is not None:
                progress(f"{index + 1}/{len(bank)} {distortion.name}")
        dominance = _measure_dominance(loss_fn, bank, pictures, seed)
        measure_pairs(loss_fn, bank, pictures, seed, rows)
        mixed = count_mixed(loss_fn, bank, pictures, seed)
        measure_scenes(loss_fn, bank, pictures, seed, rows, progress)
        agreement = panel_agreement(loss_fn, bank, photographs, seed)
    result = summary(bank, rows) | agreement | of_weights(loss_fn)
    result["transitivity"] = _transitivity(rows, mixed)
    result["dominance_accuracy"] = dominance.share()
    result["dominance_pairs"] = dominance.asked
    result["seed"] = seed
    result["photographs"] = len(pictures)
    result["photographs_per_operator"] = share
    result["crop"] = crop
    result["severities"] = list(steps)
    result["ladder"] = list(LADDER)
    return result


def _measure_ladder(
    loss_fn: Comparer, distortion: Distortion, reference: Tensor, steps: tuple[float, ...], draw: int, row: Row
) -> list[Tensor]:
    """One operator at rising severities, same draw: distances at every step, maps at ``steps``.

    Returns:
        The distorted images at ``steps``.
    """
    known = prepared(loss_fn, reference)
    engine = DistortionEngine([distortion])
    recipes = [Component(distortion.name, 0.0, "whole", draw + index) for index in range(len(reference))]
    kept: dict[float, Tensor] = {}
    images: list[Tensor] = []
    distances: list[Tensor] = []
    seen: list[Tensor] = []
    for severity in sorted({*LADDER, *steps}):
        triplet = engine.render(reference, [(replace(one, severity=severity),) for one in recipes])
        distorted = triplet.distorted
        weight = visibility(reference, distorted)
        visible = weight.amax(dim=(1, 2)) >= VISIBLE
        relation = loss_fn.relate(distorted, known)
        if severity in steps:
            kept[severity] = distorted
            _judge_maps(relation.maps, triplet.maps, distortion, severity, weight, visible, row)
        if severity in LADDER:
            images.append(distorted)
            distances.append(relation.distance)
            seen.append(visible)
    for low, high in combinations(range(len(LADDER)), 2):
        counted = seen[high] & differ(images[low], images[high])
        right = distances[high] > distances[low]
        row.ladder.add(right, counted)
        if high == low + 1:
            row.neighbours.add(right, counted)
    return [kept[step] for step in steps]


def _judge_maps(
    maps: Tensor,
    truth: Tensor,
    distortion: Distortion,
    severity: float,
    weight: Tensor,
    visible: Tensor,
    row: Row,
) -> None:
    strength = weighted_mean(maps.abs(), weight)
    signed = weighted_mean(maps, weight)
    best, answer = strength.max(dim=1)
    right = [AXES[channel] in distortion.right_axes for channel in answer.tolist()]
    # Maps that are zero everywhere answer nothing, although argmax would name the first axis.
    row.axis.add(torch.tensor(right, device=visible.device) & (best > 0), visible)
    row.left_out += int((~visible).sum())
    laid_down = weighted_mean(truth.abs(), weight)
    for channel in strongest_axes(distortion):
        row.strength.setdefault(channel, []).extend(strength[visible, channel].tolist())
        row.laid_down.setdefault(channel, []).extend(laid_down[visible, channel].tolist())
    others = [channel for channel, name in enumerate(AXES) if name not in distortion.effects]
    row.severity += [severity] * int(visible.sum())
    row.stray += strength[:, others].mean(dim=1)[visible].tolist()
    if has_sign(distortion):
        for name, effect in distortion.effects.items():
            agrees = signed[:, AXES.index(name)] * effect > 0
            row.sign.setdefault(name, Count()).add(agrees, visible)


def _measure_region(
    loss_fn: Comparer, distortion: Distortion, reference: Tensor, kind: str, draw: int, row: Row
) -> None:
    """The operator inside a region: does the map of the right axis rise there?"""
    region = draw_region(kind, reference, generator_for(reference, draw + 7))
    partly, wholly = (
        distort(reference, distortion, REGION_SEVERITY, region=where, generator=generator_for(reference, draw))
        for where in (region, None)
    )
    # Outside the region nothing changed: there too, pixels count by what the operator would have done to them.
    weight = visibility(reference, wholly) * ((region >= 0.5) | (region <= 0.05))[:, 0]
    maps = loss_fn.relate(partly, reference).maps
    response = maps[:, list(strongest_axes(distortion))].abs().mean(dim=1)
    visible = any_visible(reference, partly)
    for index in torch.nonzero(visible).flatten().tolist():
        inside = (region[index, 0] >= 0.5).cpu().numpy()
        area = weighted_auc(response[index].float().cpu().numpy(), inside, weight[index].float().cpu().numpy())
        if not np.isnan(area):
            row.areas.append(area)


def _measure_inclusion(loss_fn: Comparer, distortion: Distortion, reference: Tensor, draw: int, row: Row) -> None:
    """The operator in three nested regions: does the distance grow with the region?"""
    regions = nested_regions(reference, 3, generator_for(reference, draw + 11))
    images = [
        distort(reference, distortion, REGION_SEVERITY, region=region, generator=generator_for(reference, draw))
        for region in regions.unbind(1)
    ]
    distances = [loss_fn.relate(image, reference).distance for image in images]
    for low, high in combinations(range(3), 2):
        seen = any_visible(reference, images[high])
        different = differ(images[low], images[high])
        row.inclusion.add(distances[high] > distances[low], seen & different)


def _measure_unanchored(loss_fn: Comparer, distorted: Sequence[Tensor], reference: Tensor, row: Row) -> None:
    """Severities without the original: does the score prefer the weaker of two, and run in no circle?"""
    seen = [any_visible(reference, image) for image in distorted]
    scores: dict[tuple[int, int], Tensor] = {}
    compared: dict[tuple[int, int], Tensor] = {}
    for low, high in combinations(range(len(distorted)), 2):
        different = differ(distorted[low], distorted[high])
        score = loss_fn.relate(distorted[low], distorted[high]).score
        row.unanchored.add(score > 0, seen[high] & different)
        scores[low, high], compared[low, high] = score, seen[low] & seen[high] & different
    row.transitive += count_triples(scores, compared)


def _transitivity(rows: Mapping[str, Row], mixed: Count) -> dict[str, float | int | None]:
    every = Count()
    for part in (mixed, *(row.transitive for row in rows.values())):
        every += part
    return {
        "all": every.share(),
        "one_operator": mean_of(row.transitive.share() for row in rows.values()),
        "mixed": mixed.share(),
        "triples": every.asked,
    }


def _measure_dominance(loss_fn: Comparer, bank: Sequence[Distortion], pictures: Sequence[Tensor], seed: int) -> Count:
    """Compositions of operators in dominance tiers: does the distance follow their partial order?"""
    count = Count()
    table = {distortion.name: distortion for distortion in bank}
    if "dominance" not in possible_kinds(table, DOMINANCE_SIZE):
        return count
    engine = DistortionEngine(bank)
    # About as many tiers as operators, so that most operators take part in some.
    for turn in range(-(-len(bank) // len(pictures))):
        for number, reference in enumerate(batches(pictures)):
            generator = generator_for(reference, seed * SEED_STRIDE + 500_009 + turn * 1009 + number)
            tier = engine.tier(reference, DOMINANCE_SIZE, generator=generator, kinds={"dominance": 1.0})
            images = tier.images.unbind(1)
            distances = torch.stack([loss_fn.relate(image, reference).distance for image in images], dim=1)
            seen = torch.stack([any_visible(reference, image) for image in images], dim=1)
            # order[b, i, j]: i is better, so j must be farther away.
            count.add(distances[:, None, :] > distances[:, :, None], tier.order & seen[:, None, :])
    return count
