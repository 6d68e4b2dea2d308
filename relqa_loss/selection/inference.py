"""What a few paired numbers can show: a sign-flip test with its interval, a win rate, and corrections for many tests.

The test of a mean is Fisher's: if nothing but chance told two checkpoints apart, each image's difference might as well
have had the other sign. It is exact for any number of images where differences are spread symmetrically about their
mean, and right for large numbers otherwise. Flipping the images of a subset turns the mean's sign just where the
subset's own mean is against it, so the subset means carry the test and the interval that goes with it (Hartigan, *Using
subsample values as typical values*, JASA 64, 1969): the interval leaves out 0 exactly where the test decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 9999
"""Random subsets, or bootstrap resamples: confidences then come in steps of 0.0002."""

EXACT = 13
"""Up to so many images all subsets are taken, which are no more than ``RESAMPLES``."""

ROUNDING = 1e-12
"""A sum this small beside the sum of magnitudes is taken for 0, which argues for neither sign."""

_BLOCK = 1 << 21
"""Numbers of a block of subsets, so that many images do not fill the memory."""


def highest_confidence(count: int) -> float:
    """Confidence that ``count`` images can show at best, all agreeing: ``1 - 2 ** (1 - count)``."""
    return 1.0 - 2.0 ** (1 - count)


def check_level(level: float) -> float:
    """ValueError unless a confidence lies in (0, 1)."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    return level


def sign_flip(differences: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Two-sided p-values, in (0, 1], of the means of columns of paired differences.

    Args:
        differences: (N, C), one row for each image.
        resamples: number of random subsets where N is above ``EXACT``.
        seed: of the subsets; equal for all columns.
    """
    columns = np.asarray(differences, dtype=np.float64)
    slack = ROUNDING * np.abs(columns).sum(axis=0)
    not_above, not_below, total = np.zeros(columns.shape[1]), np.zeros(columns.shape[1]), 0
    for subsets in _subsets(len(columns), resamples, seed):
        sums = subsets @ columns
        not_above += (sums <= slack).sum(axis=0)
        not_below += (sums >= -slack).sum(axis=0)
        total += len(subsets)
    # The empty subset, which stands for the signs as they are, is counted once.
    return np.minimum(1.0, 2 * (1 + np.minimum(not_above, not_below)) / (1 + total))


def mean_interval(
    differences: ArrayLike, level: float, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean that :func:`sign_flip` does not reject; infinite where N images are too few for ``level``.

    Args:
        differences: (N,) one for each image.
        level: confidence, in (0, 1).
        resamples: as in :func:`sign_flip`.
        seed: of the subsets.
    """
    values = np.asarray(differences, dtype=np.float64)
    means = np.sort(
        np.concatenate([(part @ values) / part.sum(axis=1) for part in _subsets(len(values), resamples, seed)])
    )
    # Without the tail one too low, where the product is a whole number but for rounding.
    outside = math.floor((1 - level) / 2 * (1 + len(means)) + 1e-9)
    if outside < 1:
        return -math.inf, math.inf
    return float(means[outside - 1]), float(means[-outside])


def _subsets(count: int, resamples: int, seed: int) -> Iterator[Array]:
    """Membership (rows, count) of subsets that are not empty, in blocks: all of them, or random ones."""
    rows = max(1, _BLOCK // count)
    if count <= EXACT:
        for first in range(1, 2**count, rows):
            numbers = np.arange(first, min(first + rows, 2**count))
            yield (numbers[:, None] >> np.arange(count) & 1).astype(np.float64)
        return
    rng = np.random.default_rng(seed)
    for first in range(0, resamples, rows):
        chosen = rng.integers(0, 2, (min(rows, resamples - first), count))
        chosen[~chosen.any(axis=1)] = 1  # an empty subset has no mean
        yield chosen.astype(np.float64)


def win_rate(
    differences: ArrayLike, level: float, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Share of images that were won, ties counted half, and its bootstrap interval over images.

    Resampling images that all agree would give an interval of no width, however few they are. So the bootstrap draws
    from the images and two more, one won and one lost (Laplace's rule of succession); its 95% intervals then hold the
    true rate in 91% of cases and more for 5 images and up, where those of the plain bootstrap fall to 22%.

    Args:
        differences: (N,) one for each image, positive where it was won.
        level: of the interval, in (0, 1).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        (rate, (low, high)), all in [0, 1].
    """
    signs = np.sign(np.asarray(differences, dtype=np.float64))
    counts = np.array([(signs < 0).sum() + 1, (signs == 0).sum(), (signs > 0).sum() + 1])
    total = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, resamples)
    tail = (1 - level) / 2
    low, high = np.quantile((drawn[:, 2] + 0.5 * drawn[:, 1]) / total, [tail, 1 - tail], method="inverted_cdf")
    return float(0.5 + 0.5 * signs.mean()), (float(low), float(high))


def holm(p_values: ArrayLike) -> Array:
    """p-values (N,) adjusted so that the chance of even one false finding is bounded (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """p-values (N,) adjusted so that the expected share of false findings is bounded (Benjamini & Hochberg 1995)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")[::-1]
    stepped = np.minimum.accumulate(p[order] * p.size / np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted
