"""What the scorer learns from: batches of tiers, with their known order and the votes of a panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distortions import Distortion, DistortionEngine, Tier
from ..distortions.bank import by_name
from ..distortions.panel import PANEL, PanelMember, Prepared, panel_scores
from ..relation import AXES, axis_index
from .data import row_crops, seeded
from .ranking import log_levels
from .recipe import Recipe

JUDGED_IMAGES = 4
"""Images a tier of which the unanchored judgement sees all pairs in each step."""


class TierBatch(NamedTuple):
    """What a step needs of its tiers (B of them, T images each).

    ``reference`` (B, 3, H, W); ``images`` (B, T, 3, H, W); ``order`` (B, T, T) bool, [i, j] = i is better than j;
    ``severity`` (B, T), NaN where several operators act; ``axes`` (B, T, len(AXES)) share of each axis in what was
    done; ``first`` and ``second`` (B, P) flat indices into B * T: all pairs of some images of each tier, for the
    judgement; ``better`` (B, P): 1 where the first is known to be better, 0 where it is known to be worse, else NaN;
    ``told`` (B, P) bool: their order shows without the reference; ``silent`` (B, P) bool: it is known, and does not
    show; ``panel`` (B, T, M) levels of the panel's members, higher is worse, NaN for pictures that it cannot follow
    (M = 0 without a panel).
    """

    reference: Tensor
    images: Tensor
    order: Tensor
    severity: Tensor
    axes: Tensor
    first: Tensor
    second: Tensor
    better: Tensor
    told: Tensor
    silent: Tensor
    panel: Tensor


def tier_batch(
    tier: Tier,
    members: Sequence[PanelMember] = (),
    generators: Sequence[torch.Generator] | None = None,
    *,
    votes: bool = True,
    operator: Callable[[str], Distortion] = by_name,
) -> TierBatch:
    """Targets of a tier, from the recipes of its images, and what the members of a panel say of them.

    Where there is a panel, pictures of different kinds of distortion are ordered by it alone: it sees the picture, the
    calibrated severity only the operator.

    Args:
        tier: of B pictures.
        members: of the panel; none for no votes.
        generators: B of them, which choose the images that the judgement sees; None for the first ones.
        votes: whether the members are asked; what they alone could order stays unordered otherwise too.
        operator: name -> operator, of the engine that made the tier.
    """
    axes = torch.zeros(*tier.severity.shape, len(AXES))
    severity = torch.full(tier.severity.shape, float("nan"))
    alone = torch.ones(tier.severity.shape, dtype=torch.bool)
    for row, recipes in enumerate(tier.recipes):
        for column, recipe in enumerate(recipes):
            for component in recipe:
                distortion = operator(component.name)
                alone[row, column] &= distortion.told_apart_alone
                for axis, effect in distortion.effects.items():
                    axes[row, column, axis_index(axis)] += abs(effect) * component.severity
            if len(recipe) == 1 and recipe[0].region == "whole":
                severity[row, column] = recipe[0].severity
    built = torch.tensor([kind != "kinds" or not members for kind in tier.kind])
    order = tier.order & built.view(-1, 1, 1)
    size = order.shape[1]
    judged = torch.stack(
        [
            (torch.arange(size) if generators is None else torch.randperm(size, generator=generators[row]))
            for row in range(len(order))
        ]
    )[:, :JUDGED_IMAGES]
    i, j = torch.triu_indices(judged.shape[1], judged.shape[1], offset=1)
    rows, first, second = torch.arange(len(order)).unsqueeze(1), judged[:, i], judged[:, j]
    better = torch.where(order[rows, first, second], 1.0, torch.where(order[rows, second, first], 0.0, torch.nan))
    known = better.isfinite()
    shows = alone.all(dim=1, keepdim=True)
    return TierBatch(
        reference=tier.reference,
        images=tier.images,
        order=order,
        severity=severity,
        axes=F.normalize(axes, p=1, dim=2),
        first=rows * size + first,
        second=rows * size + second,
        better=better,
        # Where nothing is known of two pictures of which each shows its damage, the distances to the original decide.
        told=torch.where(known, shows, alone[rows, first] & alone[rows, second]),
        silent=known & ~shows,
        panel=_panel_levels(tier, members if votes else (), operator),
    )


def panel_members(panel: str) -> tuple[PanelMember, ...]:
    """The members of a recipe's ``panel``: see :class:`ScorerConfig`."""
    if panel == "none":
        return ()
    return tuple(member for member in PANEL if panel == "all" or not member.opinion_constants)


def _panel_levels(tier: Tier, members: Sequence[PanelMember], operator: Callable[[str], Distortion]) -> Tensor:
    """What each member says of each picture: (B, T, M), in octaves above its threshold; NaN for displaced content."""
    batch, size = tier.severity.shape
    if not members:
        return torch.zeros(batch, size, 0)
    columns = [PANEL.index(member) for member in members]
    known = Prepared(tier.reference)
    scores = torch.stack([panel_scores(picture, known)[:, columns] for picture in tier.images.unbind(1)], dim=1)
    moved = [[any(operator(c.name).flow is not None for c in recipe) for recipe in recipes] for recipes in tier.recipes]
    thresholds = torch.tensor([member.threshold for member in members])
    return torch.where(torch.tensor(moved)[..., None], torch.nan, log_levels(scores, thresholds))


@dataclass(frozen=True)
class MakeTiers:
    """Step -> ``rows`` of its batch of tiers; a plain object, so that worker processes can receive it."""

    photographs: list[Tensor]
    recipe: Recipe
    engine: DistortionEngine
    rows: range

    def __call__(self, step: int) -> TierBatch:
        """The tiers of these rows of a step's batch."""
        config = self.recipe.scorer
        streams = [seeded(self.recipe.seed, 3, step, row) for row in self.rows]
        crops = row_crops(self.photographs, config.crop, self.recipe.data.smallest_scale, streams)
        tier = self.engine.tier(crops, size=config.tier, generator=streams, kinds=config.kinds)
        return tier_batch(
            tier,
            panel_members(config.panel),
            streams,
            votes=config.trained == "all",
            operator=self.engine.operator,
        )
