"""`DistortionEngine`: pictures in, triplets and tiers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..images import MissingExtra
from ..relation import AXES, TONE_AXES
from ..validation import check_images, unknown_name
from . import availability
from .bank import BANK
from .compose import check_generators, check_recipes, check_severity, resolve, table_of, working_copy
from .draws import Draws, check_names, check_odds, check_probabilities, draws_for_batch
from .recipe import Component, Recipe
from .record import Distortion, plain_numbers
from .regions import REGIONS
from .render import PIXELS_A_BATCH, Renderer, chunks, images_at_once
from .targets import counterfactuals, target_weight, write_targets
from .threads import spread
from .tier_plans import DEFAULT_KINDS, KINDS, Plan, acts_after, plan_consensus, plan_tier, possible_kinds
from .tiers import Tier, build_tier

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
            images): the sum over components of region x severity x effect where they changed something; on ``shift_x``
            and ``shift_y`` the true displacement in pixels / PIXELS_PER_UNIT_SHIFT.
        weight: (B, H, W) in [0, 1], how much the targets count: how visible the least seen of the components acting
            there is. 0 where nothing changed, where what an operator changed cannot be seen or a later one covered it,
            and where one acts that leaves no trace (:func:`relqa_loss.distortions.targets.target_weight`).
        recipe: what was done to each image, enough to do it again (``DistortionEngine.render``).
    """

    reference: Tensor
    distorted: Tensor
    maps: Tensor
    weight: Tensor
    recipe: tuple[Recipe, ...]

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> Triplet:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Triplet:
        """The same in page-locked memory: what a ``DataLoader`` with ``pin_memory=True`` calls."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Triplet:
        return Triplet(
            change(self.reference), change(self.distorted), change(self.maps), change(self.weight), self.recipe
        )


class DistortionEngine:
    """Makes training and test material from pristine pictures; never mutated, holds no random state.

    All randomness comes from the passed generator: it seeds one stream for each image, so the same seed gives the same
    bytes (on one kind of device), and what is done to an image does not depend on the others: on the CPU bit for bit,
    on an accelerator, where images that meet the same operator share a call, up to rounding.

    Args:
        distortions: operators, or names of operators of the bank, in any mixture; None for the whole bank.
        severity: range from which severities of triplets are drawn, evenly.
        regions: probability of each kind of ``REGIONS`` (need not sum to 1); None for ``DEFAULT_REGIONS``.
        components: probability of 1, 2 or 3 operators on one picture, each in its own region; None for
            ``DEFAULT_COMPONENTS``.
        missing_codecs: ``"raise"`` if an operator needs a codec that is missing here (then the same seed would give
            other data than elsewhere), ``"skip"`` to do without such operators.
        odds: operator -> its weight in every draw, a whole number; 1 where it is not named. An operator is drawn once
            for a picture.
        whole: names of operators that act on the whole picture, whatever ``regions`` says. Where severity is how much
            of the picture is hit, a few hits may be a low severity or a small region.

    ``odds`` and ``whole`` hold for triplets and consensus tiers; other tiers do not ask them.

    Raises:
        MissingExtra: a codec is missing.
        ValueError: unknown names, no operators, two of one name, a severity range outside [0, 1], bad probabilities or
            odds.
        TypeError: a string where several names are wanted, and the like.
    """

    def __init__(
        self,
        distortions: Sequence[Distortion | str] | None = None,
        *,
        severity: tuple[float, float] = (0.1, 1.0),
        regions: Mapping[str, float] | None = None,
        components: Mapping[int, float] | None = None,
        missing_codecs: str = "raise",
        odds: Mapping[str, float] | None = None,
        whole: Iterable[str] = (),
    ) -> None:
        if isinstance(distortions, str):
            raise TypeError(f"distortions must be a sequence of names or operators, got the string {distortions!r}")
        chosen = list(BANK) if distortions is None else [resolve(one) for one in distortions]
        names = [one.name for one in chosen]
        weights, everywhere = check_odds({} if odds is None else odds, names), check_names("whole", whole, names)
        self._table = table_of(_that_can_run(chosen, missing_codecs))
        # Of those that can run here, so that an extended engine knows all of the names.
        self._odds = {name: times for name, times in weights.items() if name in self._table}
        self._whole = frozenset(everywhere) & self._table.keys()
        self._urn = tuple(name for name in self._table for _ in range(self._odds.get(name, 1)))
        self._missing_codecs = missing_codecs
        ends = plain_numbers("severity, a range,", severity)
        if len(ends) != 2:
            raise ValueError(f"severity must be a range (low, high), got {severity!r}")
        low, high = (check_severity("severity", value) for value in ends)
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

    def operator(self, name: str) -> Distortion:
        """The operator of that name; ValueError with the nearest match for one that this engine does not know."""
        if name not in self._table:
            raise ValueError(unknown_name("distortion", name, self._table))
        return self._table[name]

    def extended(self, *distortions: Distortion | str) -> DistortionEngine:
        """This engine with further operators, one's own or of the bank; this one stays as it is.

        Raises:
            ValueError: an unknown name, or one that is taken.
        """
        return DistortionEngine(
            [*self._table.values(), *distortions],
            severity=self._severity,
            regions=self._regions,
            components=self._components,
            missing_codecs=self._missing_codecs,
            odds=self._odds,
            whole=self._whole,
        )

    def __repr__(self) -> str:
        return f"DistortionEngine({len(self._table)} distortions, severity={self._severity})"

    def __call__(self, images: Tensor, *, generator: Generator | Sequence[Generator]) -> Triplet:
        """Distort each image in its own random way.

        Args:
            images: (B, 3, H, W) in [0, 1], of any float dtype.
            generator: source of all randomness, on the device of ``images``; or a list of one an image, with which an
                image becomes what it would alone with its generator, whatever else is in the batch.
        """
        check_images("images", images)
        check_generators(generator, images)
        return self.render(images, [self.plan(draws) for draws in draws_for_batch(images.shape[0], generator)])

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
        done = tuple(tuple(recipe) for recipe in recipes)
        work = working_copy(images)

        # One block that every part writes into: the largest thing made here, not to be copied together.
        maps = work.new_zeros(len(done), len(AXES), *work.shape[-2:])

        def render(indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
            several = [slice(one[0], one[-1] + 1) for one in chunks(indices, images_at_once(work, PIXELS_A_BATCH))]
            return [_truth(work[part], done[part], self._table, maps[part]) for part in several]

        parts = [one for part in spread(render, range(len(done)), work.device) for one in part]
        distorted, weight = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return Triplet(images, distorted.to(images.dtype), maps, weight, done)

    def tier(
        self,
        images: Tensor,
        size: int = 5,
        *,
        generator: Generator | Sequence[Generator],
        kinds: Mapping[str, float] | None = None,
    ) -> Tier:
        """Make ordinally ranked sets: several qualities of each image, with the order that is known.

        Args:
            images: (B, 3, H, W) in [0, 1], of any float dtype.
            size: how many pictures of each image, 2 to 10.
            generator: source of all randomness, on the device of ``images``; or a list of one an image.
            kinds: probability of each construction, see :class:`Tier`; None for the three whose order is true by
                construction, as far as the operators of this engine allow.

        Raises:
            ValueError: bad size, unknown kind, or a kind that the operators of this engine do not allow.
        """
        check_images("images", images)
        check_generators(generator, images)
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
            kind = draws.pick(wanted)
            if kind == "consensus":
                plans.append(plan_consensus([self.plan(draws) for _ in range(size)]))
            else:
                plans.append(plan_tier(kind, draws, self._table, self._regions, size))
        return build_tier(images, plans, self._table)

    def plan(self, draws: Draws) -> Recipe:
        """A random recipe of this engine: what calling it does to one image.

        Args:
            draws: the image's own stream of choices.
        """
        chosen: list[Distortion] = []
        count = min(draws.pick(self._components), len(self._table))
        if count == 1:
            chosen.append(self._table[self._urn[draws.below(len(self._urn))]])
        else:
            for other in (self._table[name] for name in draws.shuffled(self._urn)):
                if len(chosen) < count and not any(one is other or _cancels(one, other) for one in chosen):
                    chosen.append(other)
        chosen.sort(key=acts_after)
        return tuple(self._component(one.name, draws) for one in chosen)

    def _component(self, name: str, draws: Draws) -> Component:
        # A region is drawn even where it is not used, so that ``whole`` changes nothing else of a recipe.
        severity, region = draws.uniform(*self._severity), draws.pick(self._regions)
        return Component(name, severity, "whole" if name in self._whole else region, draws.new_seed())


def _truth(
    images: Tensor, recipes: Sequence[Recipe], table: Mapping[str, Distortion], maps: Tensor
) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) and weight (B, H, W) of one recipe an image; the targets are written into ``maps``."""
    renderer = Renderer(images, table)
    jobs = list(enumerate(recipes))
    several = [(i, recipe) for i, recipe in jobs if len(recipe) > 1]
    # All at once, so that on an accelerator they share calls.
    renderer.render([*jobs, *((i, other) for i, recipe in several for other in counterfactuals(recipe))])
    write_targets(maps, renderer, recipes)
    return torch.cat(renderer.render(jobs)), target_weight(renderer, recipes)


def _that_can_run(distortions: list[Distortion], missing_codecs: str) -> list[Distortion]:
    if missing_codecs not in availability.CODEC_POLICIES:
        raise ValueError(unknown_name("missing_codecs", missing_codecs, availability.CODEC_POLICIES))
    missing = availability.missing_codecs(distortions)
    if missing and missing_codecs == "raise":
        needs = ", ".join(f"{name} ({codec})" for name, codec in missing.items())
        raise MissingExtra(f"Pillow with the codecs of {needs}; missing_codecs='skip' does without", "images")
    return [one for one in distortions if one.name not in missing]


def _cancels(one: Distortion, other: Distortion) -> bool:
    """True where two operators undo each other on an axis whose targets do not simply add (blur and sharpening)."""
    return any(
        effect * other.effects.get(axis, 0.0) < 0 for axis, effect in one.effects.items() if axis not in TONE_AXES
    )
