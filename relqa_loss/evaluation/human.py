"""Agreement with people: metrics against opinion scores, choices and detections, on datasets that you bring.

Opinion scores: Spearman, Kendall and, after the five-parameter logistic, Pearson, all of (-distance, score), so that 1
is perfect and a metric that runs the wrong way is negative. Everything is pooled across scenes; each distortion type
has a row of its own. Intervals come from a bootstrap of whole scenes, since pairs of one scene are not independent;
all metrics see the same resamples, which makes the intervals of differences paired. A tie is a difference whose
interval contains 0.

Nothing here takes part in training.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from .distance_cache import DistanceCache
from .human_bapps import (
    CHOICE_SUBSETS,
    SAME_SUBSETS,
    SIDE,
    Bapps,
    Choice,
    Detection,
    choice_agreement,
    detection_precision,
    viewer_agreement,
)
from .human_data import RatedDataset
from .human_distances import OURS, Comparison, Judge, measure
from .logistic import LogisticFit, fit_monotone, refit
from .statistics import group_resamples, interval, kendall, require_scipy, spearman

Values = NDArray[np.float64]
Progress = Callable[[str], None]

CONFIDENCE = 0.95
SEED = 20260502
RESAMPLES = 1000

STATISTICS = ("spearman", "kendall", "pearson")
"""Of rated datasets; the first one decides which of two metrics is called better."""

BAPPS_STATISTICS = ("choices", "detections")
"""Of BAPPS: 2AFC score and JND average precision, means over subsets."""


def sample(dataset: RatedDataset, limit: int | None, seed: int = SEED) -> RatedDataset:
    """At most ``limit`` pairs of a dataset, drawn evenly at random, in their old order.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    chosen = _draw(len(dataset.pairs), limit, seed)
    return dataclasses.replace(dataset, pairs=tuple(dataset.pairs[k] for k in chosen))


def sample_bapps(dataset: Bapps, limit: int | None, seed: int = SEED) -> Bapps:
    """At most ``limit`` triplets and ``limit`` pairs of each subset.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    choices: list[Choice] = []
    for subset in CHOICE_SUBSETS:
        there = [one for one in dataset.choices if one.subset == subset]
        choices += [there[k] for k in _draw(len(there), limit, seed)]
    detections: list[Detection] = []
    for subset in SAME_SUBSETS:
        pairs = [one for one in dataset.detections if one.subset == subset]
        detections += [pairs[k] for k in _draw(len(pairs), limit, seed)]
    return Bapps(dataset.root, tuple(choices), tuple(detections))


def _draw(count: int, limit: int | None, seed: int) -> list[int]:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}")
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(int(k) for k in np.random.default_rng(seed).choice(count, limit, replace=False))


def evaluate_rated(
    dataset: RatedDataset,
    judges: Sequence[Judge],
    *,
    cache: str | Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], dict[str, Values]]:
    """Measure all pairs and compare each metric with the scores and with ours.

    Args:
        dataset: the pairs.
        judges: the metrics; ours is the one named ``OURS``, and needs not be among them.
        cache: JSON-lines file of distances, read and added to; None remembers nothing.
        resamples: bootstrap resamples of scenes.
        seed: of the bootstrap.
        progress: gets lines for people.

    Returns:
        A report that JSON can hold (see :func:`rated_report`), and the distances by metric in the order of the pairs.

    Raises:
        ValueError: an image that cannot be read or has another size than its reference; the file is named.
        MissingExtra: SciPy is not installed; asked before anything is measured.
    """
    require_scipy()
    with DistanceCache(cache) as known:
        comparisons = [Comparison(pair.distorted, pair.reference) for pair in dataset.pairs]
        distances, failed = measure(comparisons, judges, root=dataset.root, cache=known, progress=progress)
    report = rated_report(dataset, judges, distances, resamples=resamples, seed=seed, progress=progress)
    report["failed"] = failed
    return report, distances


def rated_report(
    dataset: RatedDataset,
    judges: Sequence[Judge],
    distances: Mapping[str, Values],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Figures out of distances.

    Args:
        dataset: the pairs.
        judges: the metrics; those without distances are left out.
        distances: by metric, in the order of the pairs.
        resamples: bootstrap resamples of scenes.
        seed: of the bootstrap.
        progress: gets a line for each metric.

    Returns:
        ``setup`` of the run; ``metrics``, each with the three statistics (value, low, high), its mapping and
        ``distortions`` (type -> pairs and Spearman's correlation); ``against``: peer -> our statistic less theirs, with
        a verdict on us. Figures that cannot be had are None.
    """
    scores = np.array([pair.score for pair in dataset.pairs])
    scenes = [pair.scene for pair in dataset.pairs]
    types = np.array([pair.distortion for pair in dataset.pairs])
    draws = list(group_resamples(scenes, resamples, seed))
    metrics, replicates = [], {}
    for judge in judges:
        if judge.name not in distances:
            continue
        if progress is not None:
            progress(f"bootstrap of {judge.name}: {resamples} resamples of {len(set(scenes))} scenes")
        figures, replicates[judge.name] = _rated_figures(distances[judge.name], scores, types, draws)
        metrics.append({**_description(judge), **figures})
    return {
        "setup": {
            "dataset": dataset.name,
            "title": dataset.title,
            "scale": dataset.scale,
            "pairs": len(dataset.pairs),
            "scenes": len(set(scenes)),
            **_common_setup(resamples, seed),
        },
        "metrics": metrics,
        "against": _against(metrics, replicates, STATISTICS),
    }


def evaluate_bapps(
    dataset: Bapps,
    judges: Sequence[Judge],
    *,
    cache: str | Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    side: int | None = SIDE,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """2AFC score and JND average precision of each metric, by subset and as their means over subsets.

    Triplets are resampled within their subset, since BAPPS does not say which patches come from one picture.

    Args:
        dataset: the validation parts.
        judges: the metrics; ours is the one named ``OURS``.
        cache: JSON-lines file of distances, read and added to.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        side: pixels that patches are brought to; the authors compare at 64. None keeps the stored size.
        progress: gets lines for people.

    Returns:
        A report like that of :func:`rated_report`, whose ``viewer`` is what one viewer scores on 2AFC.

    Raises:
        ValueError: an image that cannot be read; the file is named.
    """
    first = [Comparison(one.first, one.reference, side) for one in dataset.choices]
    second = [Comparison(one.second, one.reference, side) for one in dataset.choices]
    pairs = [Comparison(one.first, one.second, side) for one in dataset.detections]
    # Both patches of a triplet follow one another: their reference is read once.
    together = [one for both in zip(first, second, strict=True) for one in both]
    with DistanceCache(cache) as known:
        distances, failed = measure([*together, *pairs], judges, root=dataset.root, cache=known, progress=progress)
    chosen, seen = [one.subset for one in dataset.choices], [one.subset for one in dataset.detections]
    preferences = np.array([one.preference for one in dataset.choices])
    same = np.array([one.same for one in dataset.detections])
    metrics, replicates = [], {}
    for judge in judges:
        if judge.name not in distances:
            continue
        if progress is not None:
            progress(f"bootstrap of {judge.name}")
        values = distances[judge.name]
        pair_values = values[len(together) :]
        credit = choice_agreement(values[0 : len(together) : 2], values[1 : len(together) : 2], preferences)
        parts = {
            "choices": _subset_figures(chosen, _mean_over(credit), resamples, seed),
            "detections": _subset_figures(seen, _precision_over(pair_values, same), resamples, seed),
        }
        metrics.append({**_description(judge), **{name: figures for name, (figures, _) in parts.items()}})
        replicates[judge.name] = {name: means for name, (_, means) in parts.items()}
    viewer = _mean_over(viewer_agreement(preferences))
    return {
        "setup": {
            "dataset": "bapps",
            "title": "BAPPS (validation)",
            "side": side,
            "choices": len(dataset.choices),
            "detections": len(dataset.detections),
            **_common_setup(resamples, seed),
        },
        "viewer": _subset_figures(chosen, viewer, 0, seed)[0],
        "metrics": metrics,
        "against": _against(metrics, replicates, BAPPS_STATISTICS),
        "failed": failed,
    }


def _description(judge: Judge) -> dict[str, Any]:
    return {
        "name": judge.name,
        "version": judge.version,
        "trained_on": judge.trained_on,
        "protocol": judge.protocol,
    }


def _common_setup(resamples: int, seed: int) -> dict[str, Any]:
    return {
        "resamples": resamples,
        "seed": seed,
        "confidence": CONFIDENCE,
        "relqa_loss": __version__,
        "torch": torch.__version__,
    }


def _rated_figures(
    distances: Values, scores: Values, types: NDArray[np.str_], draws: Sequence[NDArray[np.intp]]
) -> tuple[dict[str, Any], dict[str, Values]]:
    """Figures of one metric, and the values of its statistics on each resample."""
    fit, reason = _fit(distances, scores)
    sign = 0 if fit is None else -fit.direction
    replicates = {name: np.full(len(draws), np.nan) for name in STATISTICS}
    names = list(dict.fromkeys(types.tolist()))
    of_types = {name: np.full(len(draws), np.nan) for name in names}
    for k, draw in enumerate(draws):
        d, s, t = distances[draw], scores[draw], types[draw]
        replicates["spearman"][k] = spearman(-d, s)
        replicates["kendall"][k] = kendall(-d, s)
        if fit is not None:
            replicates["pearson"][k] = sign * refit(d, s, fit)
        for name in names:
            of_types[name][k] = spearman(-d[t == name], s[t == name])
    values = {
        "spearman": spearman(-distances, scores),
        "kendall": kendall(-distances, scores),
        "pearson": float("nan") if fit is None else sign * fit.pearson,
    }
    figures: dict[str, Any] = {name: _estimate(values[name], replicates[name]) for name in STATISTICS}
    figures["mapping"] = (
        {"reason": reason}
        if fit is None
        else {"parameters": list(fit.parameters), "linear_term": fit.linear_term, "rmse": fit.rmse}
    )
    figures["distortions"] = {
        name: {
            "pairs": int((types == name).sum()),
            "spearman": _estimate(spearman(-distances[types == name], scores[types == name]), of_types[name]),
        }
        for name in names
    }
    return figures, replicates


def _fit(distances: Values, scores: Values) -> tuple[LogisticFit | None, str]:
    try:
        fit = fit_monotone(distances, scores)
    except ValueError as error:
        return None, str(error)
    return (fit, "") if fit.monotone else (None, "no monotone mapping was found")


def _mean_over(values: Values) -> Callable[[NDArray[np.intp]], float]:
    return lambda members: float(values[members].mean())


def _precision_over(distances: Values, same: Values) -> Callable[[NDArray[np.intp]], float]:
    return lambda members: detection_precision(distances[members], same[members])


def _subset_figures(
    subsets: Sequence[str], statistic: Callable[[NDArray[np.intp]], float], resamples: int, seed: int
) -> tuple[dict[str, Any], Values]:
    """Statistic of each subset and its mean over them, with the mean's value on each resample."""
    label = np.array(subsets, dtype=np.str_)
    names = list(dict.fromkeys(subsets))
    values, replicates = {}, {}
    for name in names:
        members = np.flatnonzero(label == name)
        values[name] = statistic(members)
        # A stream of its own: the same resamples for every metric, whatever other subsets are there.
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        replicates[name] = np.array(
            [statistic(members[rng.integers(0, members.size, members.size)]) for _ in range(resamples)]
        )
    if not names:
        return {"mean": _estimate(float("nan"), np.array([])), "subsets": {}}, np.full(resamples, np.nan)
    means = np.mean([replicates[name] for name in names], axis=0)
    figures = {
        "mean": _estimate(float(np.mean(list(values.values()))), means),
        "subsets": {
            name: {"count": subsets.count(name), **_estimate(values[name], replicates[name])} for name in names
        },
    }
    return figures, means


def _estimate(value: float, replicates: Values) -> dict[str, float | None]:
    low, high = interval(replicates, CONFIDENCE)
    return {"value": _known(value), "low": _known(low), "high": _known(high)}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _against(
    metrics: Sequence[Mapping[str, Any]], replicates: Mapping[str, Mapping[str, Values]], names: Iterable[str]
) -> dict[str, Any]:
    """Ours less each peer's, by statistic; a verdict where the difference and its interval are known."""
    by_name = {one["name"]: one for one in metrics}
    if OURS not in by_name:
        return {}
    table: dict[str, Any] = {}
    for peer in by_name:
        if peer == OURS:
            continue
        table[peer] = {}
        for name in names:
            ours, theirs = _value(by_name[OURS][name]), _value(by_name[peer][name])
            difference = float("nan") if ours is None or theirs is None else ours - theirs
            estimate = _estimate(difference, replicates[OURS][name] - replicates[peer][name])
            table[peer][name] = {**estimate, "verdict": verdict(estimate)}
    return table


def _value(figures: Mapping[str, Any]) -> float | None:
    value = figures["mean"]["value"] if "mean" in figures else figures["value"]
    return None if value is None else float(value)


def verdict(difference: Mapping[str, float | None]) -> str:
    """``better``, ``tie`` or ``worse`` by the interval of a difference; ``unknown`` without one."""
    low, high = difference["low"], difference["high"]
    if difference["value"] is None or low is None or high is None:
        return "unknown"
    return "better" if low > 0 else "worse" if high < 0 else "tie"
