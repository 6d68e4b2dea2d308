"""Two operators on one picture: are both found among the strongest axes?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ..distortions.calibration import stable_seed
from ..distortions.draws import Draws
from ..distortions.engine import DistortionEngine
from ..distortions.recipe import Recipe
from ..distortions.record import Distortion
from ..distortions.targets import counterfactuals
from ..distortions.visibility import visibility
from ..relation import AXES
from .engine_cases import Comparer, any_visible, weighted_mean
from .engine_rows import Row

TOP = 3
"""So many of the strongest axes may hold the right ones."""

LEADS = 3
"""Pictures on which each operator comes first, each time with another partner."""

SEVERITY = (0.3, 1.0)


def measure_pairs(
    loss_fn: Comparer, bank: Sequence[Distortion], pictures: Sequence[Tensor], seed: int, rows: Mapping[str, Row]
) -> None:
    """Each operator with partners drawn at random, each of the two in a region of its own.

    A picture counts where both are to be seen: without either of them it would look visibly different somewhere.
    Operators that leave no trace take no part. A picture is counted with the operator that chose its partner.

    Args:
        loss_fn: what is measured.
        bank: the operators.
        pictures: (1, 3, H, W) in [0, 1], dealt in turns.
        seed: of partners, severities, regions and the operators' draws.
        rows: where the answers are counted, by operator.
    """
    table = {one.name: one for one in bank if one.trace}
    for index, one in enumerate(table.values()):
        for lead, recipe in enumerate(plan_pairs(one, list(table.values()), seed)):
            reference = pictures[(index * LEADS + lead) % len(pictures)]
            operators = [table[component.name] for component in recipe]
            both = visible_pair(reference, recipe, operators)
            if both is None:
                continue
            strength = weighted_mean(loss_fn.relate(both, reference).maps.abs(), visibility(reference, both))
            best, channels = strength.topk(TOP, dim=1)
            # Maps of zeros name nothing.
            named = {AXES[k] for k, value in zip(channels[0].tolist(), best[0].tolist(), strict=True) if value > 0}
            right = told_apart(named, *operators)
            rows[one.name].top_three.add(torch.tensor([right]), torch.tensor([True]))


def visible_pair(reference: Tensor, recipe: Recipe, operators: Sequence[Distortion]) -> Tensor | None:
    """A picture (1, 3, H, W) with two operators, as the recipe says; None where one of them is not to be seen."""
    engine = DistortionEngine(operators)
    several = [recipe, *counterfactuals(recipe)]
    both, *without = engine.render(reference.expand(len(several), -1, -1, -1), several).distorted.split(1)
    return both if all(bool(any_visible(other, both)) for other in without) else None


def told_apart(named: Collection[str], one: Distortion, other: Distortion) -> bool:
    """Whether two different axes among those named are right, one for each operator."""
    return any(x in named and y in named and x != y for x in one.right_axes for y in other.right_axes)


def plan_pairs(one: Distortion, others: Sequence[Distortion], seed: int) -> list[Recipe]:
    """Recipes of one operator with up to ``LEADS`` random partners: none undoes what it does, or does just the same."""
    draws = Draws(stable_seed(f"pairs of {one.name}", seed))
    recipes: list[Recipe] = []
    partners = [other for other in others if other.name != one.name and told_apart(AXES, one, other)]
    for other in draws.shuffled(partners):
        if len(recipes) == LEADS:
            break
        # The engine leaves out a partner that cancels the first.
        recipe = DistortionEngine([one, other], severity=SEVERITY, components={2: 1.0}).plan(draws)
        if len(recipe) == 2:
            recipes.append(recipe)
    return recipes
