"""Pairs for the predictor: crops, what the engine does to them, and its maps at half resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distortions import DistortionEngine, Triplet, visibility
from ..distortions.recipe import Recipe as Components
from .data import row_crops, seeded
from .recipe import Recipe


class PairBatch(NamedTuple):
    """Pairs ``a``, ``b`` (B, 3, H, W); ``maps`` (B, len(AXES), H / 2, W / 2) and their weights (B, 1, H / 2, W / 2).

    ``weight``: where the maps are known. ``unsigned``: where only their magnitude is, since the pair bears no trace of
    which image was damaged (a copied patch). ``kinds_first``: (), bool, whether this is one of the steps at the start
    that teach what is wrong rather than in which image.
    """

    a: Tensor
    b: Tensor
    maps: Tensor
    weight: Tensor
    unsigned: Tensor
    kinds_first: Tensor


@dataclass(frozen=True)
class MakePairs:
    """Step -> ``rows`` of its batch of pairs; a plain object, so that worker processes can receive it."""

    photographs: list[Tensor]
    recipe: Recipe
    engine: DistortionEngine
    rows: range

    def __call__(self, step: int) -> PairBatch:
        """The step's rows."""
        config = self.recipe.predictor
        streams = [seeded(self.recipe.seed, 1, step, row) for row in self.rows]
        crops = row_crops(self.photographs, config.crop, self.recipe.data.smallest_scale, streams)
        first = self.engine(crops, generator=streams)
        a, b, maps, weight = first.distorted, crops.clone(), first.maps, first.weight
        other = torch.stack([torch.rand((), generator=stream) for stream in streams]) < config.both_distorted
        if other.any():
            second = self.engine(crops[other], generator=[streams[row] for row in other.nonzero().flatten()])
            b[other] = second.distorted
            maps[other] = maps[other] - second.maps
            limit = torch.minimum(_known(first)[other], _known(second))
            weight[other] = torch.minimum(visibility(a[other], b[other]), limit)
        traceless = torch.tensor([self._traceless(recipe) for recipe in first.recipe]) & ~other
        unsigned = torch.where(traceless.view(-1, 1, 1), visibility(a, b), 0.0)
        targets = halved(maps, weight.unsqueeze(1), unsigned.unsqueeze(1))
        return PairBatch(a, b, *targets, torch.tensor(step < config.kinds_first))

    def _traceless(self, recipe: Components) -> bool:
        """Whether a picture shows one operator that leaves no trace, and so what was done to it, but not to which."""
        return len(recipe) == 1 and not self.engine.operator(recipe[0].name).trace


def halved(maps: Tensor, weight: Tensor, unsigned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets at half the resolution: means of the maps over what counts, so that unknown pixels do not dilute them."""
    both = weight + unsigned
    known = F.avg_pool2d(maps * both, 2) / F.avg_pool2d(both, 2).clamp_min(1e-6)
    return known, F.avg_pool2d(weight, 2), F.avg_pool2d(unsigned, 2)


def _known(triplet: Triplet) -> Tensor:
    """How far the maps of a triplet can be seen where they claim anything, 1 elsewhere: (B, H, W) in [0, 1]."""
    return torch.where((triplet.maps != 0).any(dim=1), triplet.weight, 1.0)
