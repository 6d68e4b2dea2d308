"""Rank agreement between ways of scoring the same pictures, with intervals over photographs.

Photographs are what is drawn anew (bootstrap): pictures of one photograph go together. A draw is a row of counts, how
often each photograph came; the first row is all ones, the figure itself. Every statistic here takes all draws at once
and gives one number a draw, so that differences between two candidates are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .statistics import interval, spearman

Array = NDArray[np.float64]
Signs = NDArray[np.int8]

LEVEL = 0.95
"""Of the percentile intervals."""

TOGETHER = 100
"""Draws worked on at once: bounds the memory."""

FEWEST = 4
"""An operator with fewer pictures than this has no rank correlation worth counting."""


@dataclass(frozen=True)
class Cases:
    """The pictures that were scored.

    Attributes:
        photograph: (N,) index of the photograph of each picture, rising, from 0, without gaps.
        operator: (N,) the operator of each picture; "" for pictures that show several, or one in a part only.
    """

    photograph: NDArray[np.int64]
    operator: NDArray[np.str_]

    @property
    def starts(self) -> NDArray[np.int64]:
        """(P,) index of the first picture of each photograph."""
        return np.unique(self.photograph, return_index=True)[1]

    @property
    def operators(self) -> list[str]:
        """Names of the operators with at least ``FEWEST`` pictures."""
        names, counts = np.unique(self.operator, return_counts=True)
        return [str(name) for name, count in zip(names, counts, strict=True) if name and count >= FEWEST]


def bootstrap_counts(photographs: int, draws: int, seed: int) -> Array:
    """(1 + draws, photographs): ones, then how often each photograph came in each draw with replacement."""
    drawn = np.random.default_rng(seed).multinomial(photographs, np.full(photographs, 1 / photographs), size=draws)
    return np.concatenate((np.ones((1, photographs)), drawn))


def weighted_ranks(values: Array, weights: Array) -> Array:
    """Ranks of values (N,) where each stands ``weights`` (D, N) times, ties averaged: (D, N)."""
    _, group = np.unique(values, return_inverse=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    last = np.cumsum(size, axis=1)
    middle: Array = (last - (size - 1) / 2)[:, group]
    return middle


def weighted_correlation(first: Array, second: Array, weights: Array) -> Array:
    """Pearson's correlation (D,) along the last axis of (D, N); NaN where a side is constant."""
    total = weights.sum(1, keepdims=True)
    a = first - (weights * first).sum(1, keepdims=True) / total
    b = second - (weights * second).sum(1, keepdims=True) / total
    scale = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = np.where(scale > 0, (weights * a * b).sum(1) / scale, np.nan)
    return result


Scores = Mapping[str, Array]
"""Name -> (N,) values, higher = worse."""

Result = dict[tuple[str, str], Array]
"""(candidate, target) -> one number a draw."""


def pooled_spearman(scores: Scores, pairs: Sequence[tuple[str, str]], cases: Cases, counts: Array) -> Result:
    """Spearman over all pictures of all photographs."""
    return _rank_correlations(scores, pairs, counts[:, cases.photograph])


def operator_spearman(scores: Scores, pairs: Sequence[tuple[str, str]], cases: Cases, counts: Array) -> Result:
    """Median over operators of Spearman within one operator, across photographs."""
    rows = spearman_by_operator(scores, pairs, cases, counts)
    if not rows:
        return {pair: np.full(len(counts), np.nan) for pair in pairs}
    return {pair: _nan_median([row[pair] for row in rows.values()]) for pair in pairs}


def spearman_by_operator(
    scores: Scores, pairs: Sequence[tuple[str, str]], cases: Cases, counts: Array
) -> dict[str, Result]:
    """Spearman within each operator, across photographs."""
    weights = counts[:, cases.photograph]
    rows = {}
    for name in cases.operators:
        chosen = cases.operator == name
        part = {key: values[chosen] for key, values in scores.items()}
        rows[name] = _rank_correlations(part, pairs, weights[:, chosen])
    return rows


def _rank_correlations(scores: Scores, pairs: Sequence[tuple[str, str]], weights: Array) -> Result:
    parts: dict[tuple[str, str], list[Array]] = {pair: [] for pair in pairs}
    needed = dict.fromkeys(name for pair in pairs for name in pair)
    for start in range(0, len(weights), TOGETHER):
        part = weights[start : start + TOGETHER]
        ranked = {name: weighted_ranks(scores[name], part) for name in needed}
        for first, second in pairs:
            parts[first, second].append(weighted_correlation(ranked[first], ranked[second], part))
    return {pair: np.concatenate(chunks) for pair, chunks in parts.items()}


def _nan_median(rows: Sequence[Array]) -> Array:
    stacked = np.stack(rows)
    known = ~np.isnan(stacked).all(0)
    result = np.full(stacked.shape[1], np.nan)
    result[known] = np.nanmedian(stacked[:, known], axis=0)
    return result


def within_spearman(scores: Scores, pairs: Sequence[tuple[str, str]], cases: Cases, counts: Array) -> Result:
    """Mean over photographs of Spearman within one photograph."""
    bounds = [*cases.starts.tolist(), len(cases.photograph)]
    slices = [slice(a, b) for a, b in pairwise(bounds)]
    result = {}
    for first, second in pairs:
        each = np.array([spearman(scores[first][one], scores[second][one]) for one in slices])
        result[first, second] = _mean(each, counts)
    return result


def _mean(each: Array, counts: Array) -> Array:
    """Weighted mean (D,) of (P,), without those that are NaN."""
    known = ~np.isnan(each)
    weights = counts[:, known]
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = (weights @ each[known]) / weights.sum(1)
    return result


def signs(values: Array) -> Signs:
    """(N, N): 1 where the picture of the row is worse than that of the column, -1 where better, 0 where equal."""
    return (values[:, None] > values[None, :]).astype(np.int8) - (values[:, None] < values[None, :]).astype(np.int8)


def _blocks(matrix: NDArray[Any], cases: Cases) -> Array:
    """Sums (P, P) of a matrix (N, N) over the pictures of each pair of photographs."""
    starts = cases.starts
    rows = np.add.reduceat(matrix, starts, axis=0, dtype=np.int32)
    blocks: Array = np.add.reduceat(rows, starts, axis=1).astype(np.float64)
    return blocks


def _over_pairs(counts: Array, blocks: Array) -> Array:
    """Sum (D,) over pairs of photographs, each as often as both came together."""
    result: Array = np.einsum("dp,pq,dq->d", counts, blocks, counts, optimize=True)
    return result


def kendall(scores: Scores, pairs: Sequence[tuple[str, str]], cases: Cases, counts: Array) -> tuple[Result, Result]:
    """Kendall's tau-b over all pairs of pictures, and the mean over photographs of that within one photograph.

    Copies of one picture in a draw are tied with one another, as in Kendall's formula.
    """
    order = {name: signs(scores[name]) for name in dict.fromkeys(second for _, second in pairs)}
    untied = {name: _blocks(np.abs(matrix), cases) for name, matrix in order.items()}
    pooled: Result = {}
    within: Result = {}
    for candidate in dict.fromkeys(first for first, _ in pairs):
        own = signs(scores[candidate])
        own_untied = _blocks(np.abs(own), cases)
        for first, target in pairs:
            if first != candidate:
                continue
            agree, other = _blocks(own * order[target], cases), untied[target]
            with np.errstate(invalid="ignore", divide="ignore"):
                scale = np.sqrt(_over_pairs(counts, own_untied) * _over_pairs(counts, other))
                pooled[first, target] = _over_pairs(counts, agree) / scale
                each = np.diag(agree) / np.sqrt(np.diag(own_untied) * np.diag(other))
            within[first, target] = _mean(each, counts)
    return pooled, within


@dataclass(frozen=True)
class Unanimity:
    """Pairs of different operators and what all jurors say of them.

    Attributes:
        verdict: (N, N) int8: 1 where all find the picture of the row worse, -1 where better, 0 where they differ or the
            pair does not count.
        asked: pairs that count, within a photograph and between photographs.
        decided: those of them on which the jury is unanimous.
    """

    verdict: Signs
    asked: tuple[int, int]
    decided: tuple[int, int]


def unanimity(jurors: Sequence[Array], cases: Cases) -> Unanimity:
    """What the jury says of pairs of different operators, each alone on a whole picture."""
    alone = cases.operator != ""
    counted = alone[:, None] & alone[None, :] & (cases.operator[:, None] != cases.operator[None, :])
    each = [signs(values) for values in jurors]
    verdict = each[0] * counted.astype(np.int8)
    for one in each[1:]:
        verdict = verdict * (one == each[0])
    same = cases.photograph[:, None] == cases.photograph[None, :]

    def both(chosen: NDArray[np.bool_]) -> tuple[int, int]:
        return int((chosen & same).sum()) // 2, int((chosen & ~same).sum()) // 2

    return Unanimity(verdict, both(counted), both(verdict != 0))


def pair_accuracy(
    scores: Scores, candidates: Sequence[str], verdict: Signs, cases: Cases, counts: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Share of the pairs with a verdict that a candidate orders alike; a tie of the candidate counts one half.

    Returns:
        Within photographs, and between different photographs: candidate -> one number a draw; NaN without pairs.
    """
    total = _blocks(np.abs(verdict), cases)
    within: dict[str, Array] = {}
    between: dict[str, Array] = {}
    diagonal = np.eye(len(total), dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in candidates:
            agreement = _blocks(signs(scores[name]) * verdict, cases)
            within[name] = 0.5 + 0.5 * (counts @ np.diag(agreement)) / (counts @ np.diag(total))
            apart, all_apart = np.where(diagonal, 0, agreement), np.where(diagonal, 0, total)
            between[name] = 0.5 + 0.5 * _over_pairs(counts, apart) / _over_pairs(counts, all_apart)
    return within, between


def entry(drawn: Array, ours: Array) -> dict[str, Any]:
    """One figure as JSON: value, interval, and our lead over it.

    Args:
        drawn: the candidate's numbers, one a draw.
        ours: those of the loss against the same target.

    Returns:
        ``value``, ``low``, ``high``; ``lead`` (ours minus the candidate's: the same three numbers) and ``verdict`` on
        us: "better", "worse", or "tie" where the interval of the lead contains 0.
    """
    lead = estimate(ours - drawn)
    low, high = lead["low"], lead["high"]
    if low is None or high is None:
        verdict = "unknown"
    else:
        verdict = "better" if low > 0 else "worse" if high < 0 else "tie"
    return {**estimate(drawn), "lead": lead, "verdict": verdict}


def estimate(drawn: Array) -> dict[str, float | None]:
    """``value``, ``low`` and ``high`` of one number a draw: the figure and its interval; None where there is none."""
    low, high = interval(drawn[1:], LEVEL)
    if np.isnan(drawn[0]) or np.isnan(low):
        return {"value": None, "low": None, "high": None}
    return {"value": float(drawn[0]), "low": low, "high": high}
