"""`Ranking`: several checkpoints in order, and which of them cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .image_scores import ImageScores
from .inference import RESAMPLES, check_level, holm, sign_flip
from .verdict import UNDECIDED, Verdict, check_same_images, compare

RESOLUTION = 10
"""Random subsets for each that the hardest of all comparisons must not miss."""


@dataclass(frozen=True)
class Place:
    """Where one checkpoint stands.

    Attributes:
        tag: the checkpoint.
        distance: its mean distance to the references, >= 0, lower is better.
        best: 1 + the number of checkpoints that are surely better.
        worst: the number of checkpoints less those that are surely worse; equal to ``best`` where the place is sure.
    """

    tag: str
    distance: float
    best: int
    worst: int


@dataclass(frozen=True)
class Ranking:
    """Checkpoints by mean distance, with what is sure of it.

    All pairs are compared, and their confidences corrected together (Holm 1979): the chance that any two of the
    ranking are told apart wrongly is at most ``1 - level``.

    Attributes:
        level: confidence that telling two apart takes.
        images: how many each was scored on.
        places: one for each checkpoint, smallest mean distance first.
        groups: runs of ``places``, as long as possible, in which no two can be told apart; they may overlap.
        verdicts: of every pair, the one with the larger mean distance as candidate against the other.
    """

    level: float
    images: int
    places: tuple[Place, ...]
    groups: tuple[tuple[str, ...], ...]
    verdicts: tuple[Verdict, ...]

    @property
    def best(self) -> tuple[str, ...]:
        """The checkpoints that no other one is surely better than: a single one where the data decide."""
        return tuple(place.tag for place in self.places if place.best == 1)

    def against(self, tag: str) -> dict[str, Verdict]:
        """Verdicts of the checkpoints below ``tag`` against it, by their tags."""
        return {verdict.tag: verdict for verdict in self.verdicts if verdict.against == tag}


def rank(
    candidates: Mapping[str, ImageScores], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Ranking:
    """Rank checkpoints by their scores of the same images.

    Args:
        candidates: name -> scores.
        level: confidence that telling two apart takes, in (0, 1).
        resamples: random subsets of the sign-flip test, more where there are many pairs; and bootstrap resamples.
        seed: of both.

    Raises:
        ValueError: no candidate, or scores of different images.
    """
    check_level(level)
    if not candidates:
        raise ValueError("candidates must hold at least one checkpoint, got none")
    for tag, scores in candidates.items():
        if not len(scores):
            raise ValueError(f"candidates must hold scores of at least one image, got none for {tag!r}")
    tags = sorted(candidates, key=lambda tag: float(candidates[tag].distances.mean()))
    for tag in tags[1:]:
        check_same_images(candidates[tag], candidates[tags[0]], tag, tags[0])
    pairs = list(combinations(tags, 2))
    confidences = _confidences(candidates, pairs, level, resamples, seed)
    verdicts = tuple(
        compare(
            candidates[below], candidates[above],
            tag=below, against=above, level=level, resamples=resamples, seed=seed, confidence=confidence,
        )
        for (above, below), confidence in zip(pairs, confidences, strict=True)
    )  # fmt: skip
    open_pairs = {(v.against, v.tag) for v in verdicts if v.decision == UNDECIDED}
    places = []
    for k, tag in enumerate(tags):
        better = sum((other, tag) not in open_pairs for other in tags[:k])
        worse = sum((tag, other) not in open_pairs for other in tags[k + 1 :])
        places.append(Place(tag, float(candidates[tag].distances.mean()), 1 + better, len(tags) - worse))
    return Ranking(level, len(candidates[tags[0]]), tuple(places), _groups(tags, open_pairs), verdicts)


def _confidences(
    candidates: Mapping[str, ImageScores], pairs: list[tuple[str, str]], level: float, resamples: int, seed: int
) -> list[float]:
    if not pairs:
        return []
    scores = np.stack(
        [(candidates[above].distances - candidates[below].distances).numpy() for above, below in pairs], axis=1
    )
    # Fewer could not give a p-value that stands the correction for so many pairs.
    needed = math.ceil(RESOLUTION * 2 * len(pairs) / (1 - level))
    return [1.0 - p for p in holm(sign_flip(scores, max(resamples, needed), seed)).tolist()]


def _groups(tags: list[str], open_pairs: set[tuple[str | None, str]]) -> tuple[tuple[str, ...], ...]:
    groups: list[tuple[str, ...]] = []
    covered = 0
    for first in range(len(tags)):
        end = first + 1
        while end < len(tags) and all((tag, tags[end]) in open_pairs for tag in tags[first:end]):
            end += 1
        if end > covered:
            groups.append(tuple(tags[first:end]))
            covered = end
    return tuple(groups)
