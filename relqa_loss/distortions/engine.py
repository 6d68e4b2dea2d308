"""`DistortionEngine`: pictures in, triplets and tiers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..relation import AXES, TONE_AXES
from ..validation import check_images
from .availability import can_run
from .bank import BANK
from .compose import (
    Targets,
    check_generator,
    check_recipes,
    check_severity,
    compose,
    resolve,
    table_of,
    working_precision,
)
from .draws import Draws, check_probabilities, draws_for_batch
from .recipe import Component, Recipe
from .record import Distortion
from .regions import REGIONS
from .tier_plans import DEFAULT_KINDS, KINDS, Plan, noise_like, plan_tier, possible_kinds
from .tiers import Tier, build_tier
from .visibility import visibility

DEFAULT_REGIONS: dict[str, float] = {"whole": 0.35, "soft": 0.3, "image": 0.15, "gradient": 0.1, "shape": 0.1}
"""Probability of each kind of region."""

DEFAULT_COMPONENTS: dict[int, float] = {1: 0.6, 2: 0.3, 3: 0.1}
"""Probability of each number of operators on one picture."""

MOST_COMPONENTS = 3


@dataclass(frozen=True)
class Triplet:
    """References, what became of them, and what there is to see of it.

    Attributes:
        reference: (B, 3, H, W), the images that were passed in.
        distorted: (B, 3, H, W), same dtype.
        maps: (B, len(AXES), H, W) signed targets of "distorted compared with reference", float32 (float64 for float64
            images): the sum over components of region x severity x effect; on ``shift_x`` and ``shift_y`` the true
            displacement in pixels / PIXELS_PER_UNIT_SHIFT.
        weight: (B, H, W) in [0, 1], how much each target counts: the local visibility of the change; 0 where nothing
            changed, and 0 where an operator acts that leaves no trace.
        recipe: what was done to each image, enough to do it again (``DistortionEngine.render``).
    """

    reference: Tensor
    distorted: Tensor
    maps: Tensor
    weight: Tensor
    recipe: tuple[Recipe, ...]


class DistortionEngine:
    """Makes training and test material from pristine pictures; never mutated, holds no random state.

    All randomness comes from the passed generator: it seeds one stream for each image, so the same seed gives the same
    bytes (on one kind of device), and what is done to an image does not depend on the others. Each operator is called
    on one image at a time.

    Args:
        distortions: operators, or names of operators of the bank, in any mixture; None for every operator of the bank
            that can run here (codecs need Pillow).
        severity: range from which severities of triplets are drawn, evenly.
        regions: probability of each kind of ``REGIONS`` (need not sum to 1); None for ``DEFAULT_REGIONS``.
        components: probability of 1, 2 or 3 operators on one picture, each in its own region; None for
            ``DEFAULT_COMPONENTS``.

    Raises:
        ValueError: unknown names, no operators, two of one name, a severity range outside [0, 1], bad probabilities.
    """

    def __init__(
        self,
        distortions: Sequence[Distortion | str] | None = None,
        *,
        severity: tuple[float, float] = (0.1, 1.0),
        regions: Mapping[str, float] | None = None,
        components: Mapping[int, float] | None = None,
    ) -> None:
        if isinstance(distortions, str):
            raise TypeError(f"distortions must be a sequence of names or operators, got the string {distortions!r}")
        chosen = [one for one in BANK if can_run(one)] if distortions is None else [resolve(one) for one in distortions]
        self._table = table_of(chosen)
        low, high = (check_severity("severity", value) for value in severity)
        if low > high:
            raise ValueError(f"severity must be a range (low, high), got {severity}")
        self._severity = (low, high)
        self._regions = check_probabilities("regions", DEFAULT_REGIONS if regions is None else regions, REGIONS)
        self._components = check_probabilities(
            "components", DEFAULT_COMPONENTS if components is None else components, range(1, MOST_COMPONENTS + 1)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the operators."""
        return tuple(self._table)

    @property
    def distortions(self) -> tuple[Distortion, ...]:
        """The operators."""
        return tuple(self._table.values())

    def __repr__(self) -> str:
        return f"DistortionEngine({len(self._table)} distortions, severity={self._severity})"

    def __call__(self, images: Tensor, *, generator: Generator) -> Triplet:
        """Distort each image in its own random way.

        Args:
            images: (B, 3, H, W) in [0, 1], of any float dtype.
            generator: source of all randomness, on the device of ``images``.
        """
        check_images("images", images)
        check_generator(generator, images)
        return self.render(images, [self._plan(draws) for draws in draws_for_batch(images.shape[0], generator)])

    def render(self, images: Tensor, recipes: Sequence[Recipe]) -> Triplet:
        """Distort each image as its recipe says: with the recipe of a triplet, that triplet again, bit for bit.

        Args:
            images: (B, 3, H, W) in [0, 1], of any float dtype.
            recipes: one recipe an image.

        Raises:
            ValueError: another number of recipes than images, a name that this engine does not know.
        """
        check_images("images", images)
        check_recipes(images, recipes, self._table)
        work = working_precision(images)
        batch, _, height, width = work.shape
        maps = work.new_zeros(batch, len(AXES), height, width)
        traceless = work.new_zeros(batch, 1, height, width)
        pictures = [
            compose(work[i : i + 1], recipe, self._table, targets=Targets(maps[i : i + 1], traceless[i : i + 1]))
            for i, recipe in enumerate(recipes)
        ]
        distorted = torch.cat(pictures)
        weight = torch.where(traceless[:, 0] > 0, 0.0, visibility(work, distorted))
        return Triplet(images, distorted.to(images.dtype), maps, weight, tuple(tuple(recipe) for recipe in recipes))

    def tier(
        self, images: Tensor, size: int = 5, *, generator: Generator, kinds: Mapping[str, float] | None = None
    ) -> Tier:
        """Make ordinally ranked sets: several qualities of each image, with the order that is known.

        Args:
            images: (B, 3, H, W) in [0, 1], of any float dtype.
            size: how many pictures of each image, 2 to 10.
            generator: source of all randomness, on the device of ``images``.
            kinds: probability of each construction, see :class:`Tier`; None for the three whose order is true by
                construction, as far as the operators of this engine allow.

        Raises:
            ValueError: bad size, unknown kind, or a kind that the operators of this engine do not allow.
        """
        check_images("images", images)
        check_generator(generator, images)
        possible = possible_kinds(self._table, size)
        if kinds is None:
            wanted = {kind: share for kind, share in DEFAULT_KINDS.items() if kind in possible}
        else:
            wanted = check_probabilities("kinds", kinds, KINDS)
            for kind, share in wanted.items():
                if share > 0 and kind not in possible:
                    raise ValueError(
                        f"the operators of this engine do not allow tiers of kind {kind!r} and size {size}"
                    )
        plans: list[Plan] = []
        for draws in draws_for_batch(images.shape[0], generator):
            plans.append(plan_tier(draws.pick(wanted), draws, self._table, self._regions, size))
        return build_tier(images, plans, self._table)

    def _plan(self, draws: Draws) -> Recipe:
        chosen: list[Distortion] = []
        count = min(draws.pick(self._components), len(self._table))
        names = list(self._table)
        if count == 1:
            chosen.append(self._table[names[draws.below(len(names))]])
        else:
            for name in draws.shuffled(names):
                if len(chosen) < count and not any(_cancels(one, self._table[name]) for one in chosen):
                    chosen.append(self._table[name])
        # A smoothing operator would take away the noise whose target stays, so noise comes last.
        chosen.sort(key=noise_like)
        return tuple(
            Component(one.name, draws.uniform(*self._severity), draws.pick(self._regions), draws.new_seed())
            for one in chosen
        )


def _cancels(one: Distortion, other: Distortion) -> bool:
    """True where two operators undo each other on an axis whose targets do not simply add (blur and sharpening)."""
    return any(
        effect * other.effects.get(axis, 0.0) < 0 for axis, effect in one.effects.items() if axis not in TONE_AXES
    )
