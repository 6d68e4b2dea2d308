"""Seeded choices: which operator, how strong, where. One independent stream for each image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Generator, Tensor

from ..validation import unknown_name

T = TypeVar("T")

SEED_LIMIT = 2**53
"""Seeds stay below this, so that a JSON reader that stores numbers as doubles keeps them exact."""

MOST_ODDS = 1000
"""The largest weight of an operator: beside it the other 86 of the bank are still drawn now and then."""


class Streams:
    """One generator an image, for operators that are called with several images at once.

    Each image's numbers come from its own generator, so they do not depend on what else is in the call.

    Args:
        seeds: one an image.
        device: where the numbers are drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.generators = tuple(Generator(device=device).manual_seed(seed) for seed in seeds)


Randomness = Generator | Streams
"""What operators and regions draw from."""


def uniform(shape: tuple[int, ...], randomness: Randomness) -> Tensor:
    """Uniform draws in [0, 1) of ``shape``, whose first entry is the number of images."""
    return _draw(torch.rand, shape, randomness)


def normal(shape: tuple[int, ...], randomness: Randomness) -> Tensor:
    """Standard normal draws of ``shape``, whose first entry is the number of images."""
    return _draw(torch.randn, shape, randomness)


def _draw(function: Callable[..., Tensor], shape: tuple[int, ...], randomness: Randomness) -> Tensor:
    if isinstance(randomness, Generator):
        return function(shape, generator=randomness, device=randomness.device, dtype=torch.float32)
    if shape[0] != len(randomness.generators):
        raise ValueError(f"shape must start with the number of images, {len(randomness.generators)}, got {shape}")
    return torch.cat(
        [
            function((1, *shape[1:]), generator=generator, device=randomness.device, dtype=torch.float32)
            for generator in randomness.generators
        ]
    )


class Draws:
    """A stream of choices that depends on its seed only.

    The stream always runs on the CPU, so plans are the same whatever device the images are on.

    Attributes:
        seed: where the stream started.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def below(self, count: int) -> int:
        """A whole number in [0, count)."""
        return int(torch.randint(count, (), generator=self._generator))

    def new_seed(self) -> int:
        """A seed for something that draws its own numbers."""
        return self.below(SEED_LIMIT)

    def pick(self, probabilities: Mapping[T, float]) -> T:
        """A key, with probability proportional to its value."""
        place = self.uniform(0.0, sum(probabilities.values()))
        likely = [key for key, value in probabilities.items() if value > 0]
        for key in likely:
            place -= probabilities[key]
            if place < 0:
                return key
        return likely[-1]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        return [items[i] for i in torch.randperm(len(items), generator=self._generator).tolist()]


def draws_for_batch(count: int, generator: Generator | Sequence[Generator]) -> list[Draws]:
    """One stream an image, seeded from ``generator``, or each from its own (waits for the device of each once)."""
    if not isinstance(generator, Generator):
        return [draws for one in generator for draws in draws_for_batch(1, one)]
    seeds = torch.randint(SEED_LIMIT, (count,), generator=generator, device=generator.device)
    return [Draws(seed) for seed in seeds.tolist()]


def check_probabilities(name: str, probabilities: Mapping[T, float], known: Collection[T]) -> dict[T, float]:
    """A copy of ``probabilities``.

    Raises:
        TypeError: not a mapping.
        ValueError: unknown keys, negative values or a sum of 0.
    """
    if not isinstance(probabilities, Mapping):
        raise TypeError(f"{name} must map {', '.join(map(str, known))} to probabilities, got {probabilities!r}")
    for key, value in probabilities.items():
        if key not in known:
            raise ValueError(f"{name} has no {key!r} (known: {', '.join(map(str, known))})")
        if not value >= 0:
            raise ValueError(f"{name}[{key!r}] must be a probability >= 0, got {value}")
    if not sum(probabilities.values()) > 0:
        raise ValueError(f"{name} must hold at least one probability > 0, got {dict(probabilities)}")
    return dict(probabilities)


def check_names(argument: str, names: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """These names of operators; ValueError for one that is not known, TypeError where they are not several names."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{argument} must be names of operators, got {names!r}")
    names = tuple(names)
    for name in names:
        if name not in known:
            raise ValueError(unknown_name(f"operator in {argument}", name, known))
    return names


def check_odds(odds: Mapping[str, float], known: Collection[str]) -> dict[str, int]:
    """Odds as whole numbers; ValueError unless they are, in 1 .. ``MOST_ODDS``, each of an operator that is known."""
    if not isinstance(odds, Mapping):
        raise TypeError(f"odds must map names of operators to whole numbers, got {odds!r}")
    check_names("odds", odds, known)
    for name, times in odds.items():
        number = isinstance(times, (int, float)) and not isinstance(times, bool)
        if not (number and 1 <= times <= MOST_ODDS and times == int(times)):
            raise ValueError(f"odds[{name!r}] must be a whole number in 1 .. {MOST_ODDS}, got {times!r}")
    return {name: int(times) for name, times in odds.items()}
