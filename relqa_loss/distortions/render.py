"""Doing what recipes say: every operator outcome and every intermediate picture of a batch is made once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Generator, Tensor

from .compose import operate, place, seeded
from .draws import Randomness, Streams
from .recipe import Component, Recipe
from .record import Distortion
from .regions import NESTED, draw_region, grown_regions

Job = tuple[int, Recipe]
"""A picture: the index of an image of the batch, and what becomes of it."""

PIXELS_A_CALL = 2**22
"""Most pixels in one call of an operator on an accelerator: bounds the memory for what it makes on the way."""

PIXELS_A_BATCH = 2**24
"""Most pixels of images that one renderer keeps all the steps of, on an accelerator."""

# The region of a component must not repeat the numbers of its operator, which is seeded with the bare seed.
_REGION_SALT = 0x9E3779B97F4A7

_Outcome = tuple[int, Recipe, str, float, int]
_Place = tuple[int, str, int, float]
T = TypeVar("T")
K = TypeVar("K")


def images_at_once(images: Tensor, pixels: int) -> int:
    """How many of the images (B, C, H, W) are worked on together, at most so many pixels.

    On the CPU it is one: operators differ from image to image, so few could share a call, and pictures are then bit for
    bit the same whatever their batch mates are.
    """
    return 1 if images.device.type == "cpu" else max(1, pixels // images[0, 0].numel())


class Renderer:
    """The pictures of one batch of images, by recipe.

    Pictures that begin alike share what they have in common: the steps of a ladder their region, the members of an
    inclusion tier their operator's outcome, a picture and the same without its last component everything before it.

    Args:
        images: (B, 3, H, W) in [0, 1], float32 or float64: the references. Regions are drawn on them, not on what
            earlier components have made of them.
        table: operators by name.
        together: most images in one call of an operator; None for what suits the device.

    Attributes:
        images, table, together: as passed in.
    """

    def __init__(self, images: Tensor, table: Mapping[str, Distortion], *, together: int | None = None) -> None:
        self.images = images
        self.table = table
        self.together = together or images_at_once(images, PIXELS_A_CALL)
        self._pictures: dict[Job, Tensor] = {(i, ()): images[i : i + 1] for i in range(images.shape[0])}
        self._displacements: dict[Job, Tensor | None] = {}
        self._outcomes: dict[_Outcome, Tensor] = {}
        self._regions: dict[_Place, Tensor | None] = {}

    def render(self, jobs: Iterable[Job]) -> list[Tensor]:
        """The pictures (1, 3, H, W) in [0, 1], one a job."""
        wanted = list(jobs)
        for length in range(1, max((len(recipe) for _, recipe in wanted), default=0) + 1):
            steps = dict.fromkeys((image, recipe[:length]) for image, recipe in wanted if len(recipe) >= length)
            missing = [step for step in steps if step not in self._pictures]
            self._draw_regions(missing)
            self._operate(missing)
            self._place(missing)
        return [self._pictures[job] for job in wanted]

    def region(self, image: int, component: Component) -> Tensor | None:
        """Region (1, 1, H, W) in [0, 1] of a component that has been rendered; None for the whole picture."""
        return self._regions[_place_of(image, component)]

    def displacement(self, image: int, recipe: Recipe) -> Tensor | None:
        """Displacement (1, 2, H, W), in pixels, by the last component of a rendered recipe; None if it made none."""
        return self._displacements[image, recipe]

    def outcome(self, image: int, recipe: Recipe) -> Tensor:
        """What the last operator of a rendered recipe did to the whole picture, before its region."""
        return self._outcomes[_outcome_of(image, recipe)]

    def _draw_regions(self, steps: Sequence[Job]) -> None:
        missing = {_place_of(image, recipe[-1]): None for image, recipe in steps}
        for kind, places in _grouped((p for p in missing if p not in self._regions), lambda p: p[1]):
            if kind == "whole":
                self._regions.update(dict.fromkeys(places))
                continue
            for chunk in chunks(places, self.together):
                images = self._rows([self.images[p[0] : p[0] + 1] for p in chunk])
                randomness = self._randomness([p[2] ^ _REGION_SALT for p in chunk])
                if kind == NESTED:
                    extents = torch.tensor([[p[3]] for p in chunk], dtype=images.dtype)
                    regions = grown_regions(images, extents, randomness)
                else:
                    regions = draw_region(kind, images, randomness)
                self._regions.update(zip(chunk, regions.split(1), strict=True))

    def _operate(self, steps: Sequence[Job]) -> None:
        before = {_outcome_of(image, recipe): self._pictures[image, recipe[:-1]] for image, recipe in steps}
        for name, keys in _grouped((key for key in before if key not in self._outcomes), lambda key: key[2]):
            distortion = self.table[name]
            for chunk in chunks(keys, self.together if distortion.batched else 1):
                images = self._rows([before[key] for key in chunk])
                # Stays on the CPU: see PixelOperator.
                severity = torch.tensor([key[3] for key in chunk], dtype=images.dtype)
                outcome = operate(distortion, images, severity, self._randomness([key[4] for key in chunk]))
                self._outcomes.update(zip(chunk, outcome.split(1), strict=True))

    def _place(self, steps: Sequence[Job]) -> None:
        def alike(step: Job) -> tuple[str, bool]:
            image, recipe = step
            return recipe[-1].name, self.region(image, recipe[-1]) is None

        for (name, whole), group in _grouped(steps, alike):
            for chunk in chunks(group, self.together):
                before = self._rows([self._pictures[image, recipe[:-1]] for image, recipe in chunk])
                outcome = self._rows([self.outcome(image, recipe) for image, recipe in chunk])
                regions = [self.region(image, recipe[-1]) for image, recipe in chunk]
                region = None if whole else self._rows([one for one in regions if one is not None])
                pictures, displacement = place(self.table[name], before, outcome, region)
                self._pictures.update(zip(chunk, pictures.split(1), strict=True))
                moves = [None] * len(chunk) if displacement is None else displacement.split(1)
                self._displacements.update(zip(chunk, moves, strict=True))

    def _rows(self, rows: Sequence[Tensor]) -> Tensor:
        return rows[0] if len(rows) == 1 else torch.cat(list(rows))

    def _randomness(self, seeds: Sequence[int]) -> Randomness:
        device = self.images.device
        generator: Generator | Streams = seeded(seeds[0], device) if len(seeds) == 1 else Streams(seeds, device)
        return generator


def _place_of(image: int, component: Component) -> _Place:
    return image, component.region, component.seed, component.extent


def _outcome_of(image: int, recipe: Recipe) -> _Outcome:
    last = recipe[-1]
    return image, recipe[:-1], last.name, last.severity, last.seed


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> list[tuple[K, list[T]]]:
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())


def chunks(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """The items in order, at most so many at a time."""
    for start in range(0, len(items), most):
        yield items[start : start + most]
