"""The jury's figures: every candidate against every juror and the whole jury, with intervals and our lead."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from . import jury_statistics as statistics
from .jury_statistics import Array, Cases, Result, Scores
from .statistics import mean_rank, spearman

JURORS = ("st_lpips", "cvvdp", "ssimulacra2")
"""Metrics with weights that were fitted to people's judgements."""

OBSERVERS = ("flip",)
"""Not fitted to scores, asked beside the jury: a candidate may be compared with it, but it has no vote."""

OURS, PANEL_CONSENSUS, JURY = "RelationalLoss", "panel", "jury"

DRAWS = 1000
"""Bootstrap draws of photographs."""


def jury_figures(measured: Scores, cases: Cases, *, seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """Compare ways of scoring with the jury.

    Args:
        measured: name -> (N,) values, higher = worse: ``OURS``, members of the panel as ``panel/NAME``, and metrics, of
            which those in ``JURORS`` are the jury. The panel's consensus is the mean rank of its members, the jury's
            opinion the mean rank of the jurors.
        cases: what the N pictures are.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        JSON-able. ``spearman`` and ``kendall``: ``pooled`` over photographs, ``within`` a photograph (mean), and
        ``operators`` (Spearman only: within one operator across photographs, median): target -> candidate -> entry
        (:func:`.jury_statistics.entry`). Targets are ``JURY``, each juror and each observer. A juror as a candidate is
        compared with the mean rank of the *others*, and so are we for the lead over it. ``operators``: operator ->
        candidate -> Spearman with the jury. ``kinds``: accuracy on pairs of different operators on which the jury is
        unanimous, ``within`` a photograph and ``between`` photographs, with the numbers of pairs. ``jurors``: Spearman
        between jurors.
    """
    scores: dict[str, Array] = dict(measured)
    members = [name for name in scores if name.startswith(f"{PANEL_CONSENSUS}/")]
    jurors = [name for name in JURORS if name in scores]
    observers = [name for name in OBSERVERS if name in scores]
    if members:
        scores[PANEL_CONSENSUS] = mean_rank([scores[name] for name in members])
    fixed = [name for name in (OURS, PANEL_CONSENSUS) if name in scores]
    candidates = [*fixed, *(name for name in scores if name not in fixed)]
    scores[JURY] = mean_rank([scores[name] for name in jurors])
    for name in jurors:
        scores[_without(name)] = mean_rank([scores[other] for other in jurors if other != name])
    asked = [
        (candidate, target)
        for candidate in candidates
        for target in (_without(candidate) if candidate in jurors else JURY, *jurors, *observers)
        if candidate != target
    ]
    # We against each juror's peers, for the lead over that juror.
    pairs = [*asked, *((OURS, _without(name)) for name in jurors)]
    counts = statistics.bootstrap_counts(len(cases.starts), draws, seed)
    kendall, kendall_within = statistics.kendall(scores, pairs, cases, counts)
    unanimous = statistics.unanimity([scores[name] for name in jurors], cases)
    judged = [name for name in candidates if name not in jurors]
    within, between = statistics.pair_accuracy(scores, judged, unanimous.verdict, cases, counts)
    by_operator = statistics.spearman_by_operator(
        scores, [(name, JURY) for name in judged], cases, np.ones((1, len(cases.starts)))
    )
    return {
        "jury": jurors,
        "observers": observers,
        "draws": draws,
        "level": statistics.LEVEL,
        "spearman": {
            "pooled": _entries(statistics.pooled_spearman(scores, pairs, cases, counts), asked),
            "within": _entries(statistics.within_spearman(scores, pairs, cases, counts), asked),
            "operators": _entries(statistics.operator_spearman(scores, pairs, cases, counts), asked),
        },
        "kendall": {"pooled": _entries(kendall, asked), "within": _entries(kendall_within, asked)},
        "operators": {
            operator: {"pictures": int((cases.operator == operator).sum())}
            | {name: float(row[name, JURY][0]) for name in judged}
            for operator, row in by_operator.items()
        },
        "kinds": {
            "within": _accuracies(within, unanimous.asked[0], unanimous.decided[0]),
            "between": _accuracies(between, unanimous.asked[1], unanimous.decided[1]),
        },
        "jurors": {f"{a} / {b}": spearman(scores[a], scores[b]) for a, b in combinations((*jurors, *observers), 2)},
    }


def _without(juror: str) -> str:
    return f"{JURY} without {juror}"


def _entries(result: Result, asked: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Target -> candidate -> entry; a juror's comparison with the others stands under the jury."""
    table: dict[str, Any] = {}
    for candidate, target in asked:
        heading = JURY if target == _without(candidate) else target
        table.setdefault(heading, {})[candidate] = statistics.entry(result[candidate, target], result[OURS, target])
    return table


def _accuracies(drawn: dict[str, Array], pairs: int, decided: int) -> dict[str, Any]:
    return {
        "pairs": pairs,
        "unanimous": decided,
        "candidates": {name: statistics.entry(values, drawn[OURS]) for name, values in drawn.items()},
    }
