"""Small statistics: rank correlations, weighted ROC-AUC, bootstrap over groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..images import MissingExtra


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1, ties averaged, of a flat sequence."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.ravel()]


def mean_rank(columns: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """What several judges say together: the mean (N,) of the ranks that each gives to the same N cases."""
    mean: NDArray[np.float64] = np.mean([ranks(column) for column in columns], axis=0)
    return mean


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's linear correlation in [-1, 1]; NaN where a side is constant."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1], ties averaged; NaN where a side is constant or has under 2 values.

    Raises:
        ValueError: unequal lengths.
    """
    a, b = ranks(first), ranks(second)
    if a.size != b.size:
        raise ValueError(f"second must have as many values as first ({a.size}), got {b.size}")
    if a.size < 2:
        return float("nan")
    return pearson(a, b)


def kendall(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's tau-b in [-1, 1], corrected for ties; NaN where a side is constant or has under 2 values.

    Raises:
        ValueError: unequal lengths.
        MissingExtra: SciPy is not installed.
    """
    require_scipy()
    from scipy.stats import kendalltau

    a, b = np.asarray(first, dtype=np.float64).ravel(), np.asarray(second, dtype=np.float64).ravel()
    if a.size != b.size:
        raise ValueError(f"second must have as many values as first ({a.size}), got {b.size}")
    if a.size < 2:
        return float("nan")
    return float(kendalltau(a, b).statistic)


def require_scipy() -> None:
    """MissingExtra unless SciPy is there: long runs ask first, what needs it asks again.

    Raises:
        MissingExtra: SciPy is not installed.
    """
    try:
        import scipy.optimize
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise MissingExtra("SciPy", "benchmark") from error


def group_resamples(groups: Sequence[object], resamples: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Bootstrap of whole groups: as many groups as there are, drawn with replacement, each with all its members.

    Args:
        groups: group of each member; members of one group are not independent (one scene, say).
        resamples: how many to yield.
        seed: equal seeds give equal resamples.

    Yields:
        Indices into ``groups``.
    """
    names, member = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    members = [np.flatnonzero(member.ravel() == k) for k in range(names.size)]
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.concatenate([members[k] for k in rng.integers(0, names.size, names.size)])


def interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values; those that are not a number are left out, NaN if none is left."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if known.size == 0:
        return float("nan"), float("nan")
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def weighted_auc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve: chance that a positive scores higher than a negative; a tie counts one half.

    Args:
        scores: any shape, higher = more likely positive.
        positive: same shape, boolean.
        weights: same shape, >= 0; None for equal weights.

    Returns:
        Area in [0, 1]; NaN where one class has no weight.

    Raises:
        ValueError: shapes differ or a weight is negative.
    """
    s = np.asarray(scores, dtype=np.float64).ravel()
    p = np.asarray(positive, dtype=bool).ravel()
    w = np.ones_like(s) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if not s.size == p.size == w.size:
        raise ValueError(f"scores, positive and weights must have one size, got {s.size}, {p.size} and {w.size}")
    if w.size and w.min() < 0:
        raise ValueError(f"weights must be >= 0, got {w.min()}")
    _, group = np.unique(s, return_inverse=True)
    group = group.ravel()
    up = np.bincount(group, weights=w * p)
    down = np.bincount(group, weights=w * ~p)
    total = up.sum() * down.sum()
    if total <= 0:
        return float("nan")
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / total)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there (neither None nor NaN); None if there is none."""
    known = _known(values)
    return float(np.mean(known)) if known else None


def median_of(values: Iterable[float | None]) -> float | None:
    """Median of the values that are there; None if there is none."""
    known = _known(values)
    return float(np.median(known)) if known else None


def lowest_of(values: Iterable[float | None]) -> float | None:
    """Smallest of the values that are there; None if there is none."""
    return min(_known(values), default=None)


def _known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None and not np.isnan(v)]
