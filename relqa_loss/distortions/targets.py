"""Ground truth: what a predictor should find in a picture made by a recipe, and where that can be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..relation import AXES, PIXELS_PER_UNIT_SHIFT, SHIFT_AXES
from .recipe import Recipe
from .render import Job, Renderer, chunks
from .visibility import touched, visibility
from .warp import follow, warp

_SHIFTS = [AXES.index(axis) for axis in SHIFT_AXES]


def write_targets(maps: Tensor, renderer: Renderer, recipes: Sequence[Recipe]) -> None:
    """Write the signed targets: region x severity x effect, summed over components; true displacements.

    A component claims only places where it changed something: lost blocks are lost where they are, and what a second
    operator does between them is its alone. A displacement takes along what is already there. On ``shift_x`` and
    ``shift_y`` stands the total displacement in pixels / PIXELS_PER_UNIT_SHIFT, of flat places too.

    Args:
        maps: zeros (B, len(AXES), H, W), to be filled.
        renderer: has rendered the recipes.
        recipes: one an image.
    """
    for index, recipe in enumerate(recipes):
        for length in range(1, len(recipe) + 1):
            _add(maps[index], renderer, (index, recipe[:length]))


def _add(maps: Tensor, renderer: Renderer, step: Job) -> None:
    """Add what the last component of a recipe does to the maps (len(AXES), H, W) of its image, in place."""
    index, recipe = step
    component = recipe[-1]
    distortion = renderer.table[component.name]
    displacement = renderer.displacement(index, recipe)
    if displacement is not None:
        total = displacement
        if len(recipe) > 1:
            before = maps[None, _SHIFTS] * PIXELS_PER_UNIT_SHIFT
            maps.copy_(warp(maps[None], displacement, mode="bilinear")[0])
            total = follow(before, displacement)
        maps[_SHIFTS] = total[0] / PIXELS_PER_UNIT_SHIFT
    region = renderer.region(index, component)
    profile: Mapping[str, Tensor] = {}
    if distortion.profile is not None:
        (before,) = renderer.render([(index, recipe[:-1])])
        profile = distortion.profile(before, renderer.outcome(index, recipe))
    where = _touched(renderer, step)[0, 0]
    for axis, effect in distortion.effects.items():
        if displacement is not None and axis in SHIFT_AXES:
            continue
        height: float | Tensor = component.severity * effect
        if region is not None:
            height = region[0, 0] * height
        if axis in profile:
            height = _levelled(where * profile[axis][0]) * height
        maps[AXES.index(axis)] += where * height


def _touched(renderer: Renderer, step: Job) -> Tensor:
    """Where the last component of a recipe changed the picture: (1, 1, H, W), 0 or 1."""
    index, recipe = step
    before, after = renderer.render([(index, recipe[:-1]), step])
    return touched(before, after).to(before).unsqueeze(1)


def _levelled(pattern: Tensor) -> Tensor:
    """A signed pattern (H, W) scaled so that the mean of its magnitude, weighted by itself, is 1; zeros stay zeros.

    Severity speaks of the picture as a whole: an operator that acts in few places acts more strongly there.
    """
    size = pattern.abs()
    return pattern * (size.sum() / size.square().sum().clamp_min(torch.finfo(size.dtype).tiny))


def counterfactuals(recipe: Recipe) -> list[Recipe]:
    """The recipe without each of its components in turn."""
    return [recipe[:k] + recipe[k + 1 :] for k in range(len(recipe))]


def target_weight(renderer: Renderer, recipes: Sequence[Recipe]) -> Tensor:
    """How much the targets count (B, H, W), in [0, 1].

    A component is seen where the picture would look different without it, all else equal; a target counts as much as
    the least seen of the components that claim the place. So it is 0 where what an operator changed cannot be seen,
    where a later one has covered its work (noise under a lost block), and where an operator leaves no trace of which
    image is damaged. And it counts the less, the more a later operator has carried there of what is claimed elsewhere
    (the smear of a lost block).

    Args:
        renderer: has rendered the recipes, and those of several components also without each of these
            (:func:`counterfactuals`).
        recipes: one an image.
    """
    finals = renderer.render(enumerate(recipes))
    weight = _visibility(renderer, renderer.render((index, ()) for index in range(len(recipes))), finals)
    several = [(i, k) for i, recipe in enumerate(recipes) for k in range(len(recipe)) if len(recipe) > 1]
    without = renderer.render((i, counterfactuals(recipes[i])[k]) for i, k in several)
    seen = dict(zip(several, _visibility(renderer, without, [finals[i] for i, _ in several]), strict=True))
    for i, recipe in enumerate(recipes):
        traces = [renderer.table[component.name].trace for component in recipe]
        if len(recipe) == 1 and all(traces):
            continue
        for k, where in enumerate(_acting(renderer, i, recipe)):
            if recipe[k].severity == 0:
                continue
            if not traces[k]:
                weight[i] = torch.where(where, 0.0, weight[i])
            elif (i, k) in seen:
                known = torch.where(where, seen[i, k], 1 - seen[i, k])
                weight[i] = torch.minimum(weight[i], known)
    return weight


def _visibility(renderer: Renderer, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Visibility (N, H, W) of the change between N pictures (1, 3, H, W) and as many others."""
    if not before:
        return renderer.images.new_zeros(0, *renderer.images.shape[-2:])
    pairs = zip(chunks(before, renderer.together), chunks(after, renderer.together), strict=True)
    return torch.cat([visibility(torch.cat(list(one)), torch.cat(list(other))) for one, other in pairs])


def _acting(renderer: Renderer, index: int, recipe: Recipe) -> list[Tensor]:
    """Where each component acts, (H, W) bool, moved along with later displacements."""
    everywhere = renderer.images.new_ones(1, 1, *renderer.images.shape[-2:])
    acting: list[Tensor] = []
    for length, component in enumerate(recipe, start=1):
        displacement = renderer.displacement(index, recipe[:length])
        if displacement is not None:
            acting = [warp(one, displacement, mode="bilinear") for one in acting]
        region = renderer.region(index, component)
        # A displacement is claimed of flat places too, where nothing shows it.
        where = everywhere if displacement is not None else _touched(renderer, (index, recipe[:length]))
        acting.append(where if region is None else where * region)
    return [one[0, 0] > 0 for one in acting]
