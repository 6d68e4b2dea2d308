"""Which figure on validation photographs picks the checkpoint that other metrics prefer on other photographs?

For every pair of checkpoints of one run each chooser prefers the one with the smaller mean on one half of the
photographs. A jury of metrics that chose nothing and trained nothing judges on the other half, each juror by its mean;
the jury's verdict is that of most jurors. Then the halves change places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..evaluation.jury_statistics import LEVEL, Array, Signs, bootstrap_counts, entry, estimate
from ..evaluation.peer_metrics import PeerMetric
from ..losses import RelationalLoss
from ..selection.inference import sign_flip

RELQA, VALIDATION_L1 = "RelationalLoss", "L1"
PEERS = {"PSNR": "psnr", "SSIM": "ssim"}
"""Choosers that come from :mod:`relqa_loss.evaluation.peer_metrics`, by its names."""

JURY = ("cvvdp", "ssimulacra2", "flip")
"""None is a chooser, or a loss that a restorer is trained with."""

RIVALS = (VALIDATION_L1, "PSNR")
"""What selection by RelationalLoss has to be better than."""

DRAWS = 2000
FEWEST = 4
"""Photographs, two for each half."""

Indices = NDArray[np.intp]
Measure = Callable[[Tensor, Tensor], Tensor]
"""(restored, reference), both (1, 3, H, W) in [0, 1] -> (1,), higher = worse."""

Table = Mapping[str, Mapping[str, Sequence[float]]]
"""Checkpoint -> measure -> a value for each photograph."""


def measures_of(loss_fn: RelationalLoss, metrics: Mapping[str, PeerMetric]) -> tuple[dict[str, Measure], list[str]]:
    """Choosers and jurors by name, and the names of the choosers.

    Args:
        loss_fn: whose distance is a chooser.
        metrics: by their names; those of ``PEERS`` are choosers, all others jurors.
    """
    choosers: dict[str, Measure] = {
        RELQA: lambda restored, reference: loss_fn.relate(restored, reference).distance,
        VALIDATION_L1: lambda restored, reference: F.l1_loss(restored, reference)[None],
        **{name: metrics[metric] for name, metric in PEERS.items() if metric in metrics},
    }
    jurors = {name: metric for name, metric in metrics.items() if name not in PEERS.values()}
    return {**choosers, **jurors}, list(choosers)


@torch.no_grad()
def values_of(
    pictures: Sequence[Tensor], references: Sequence[Tensor], measures: Mapping[str, Measure]
) -> dict[str, list[float]]:
    """Measure -> its value of each picture.

    Args:
        pictures: (1, 3, H, W) in [0, 1] each.
        references: (3, H, W) each.
        measures: by name.
    """
    pairs = list(zip(pictures, references, strict=True))
    return {
        name: [float(measure(picture, reference[None])) for picture, reference in pairs]
        for name, measure in measures.items()
    }


@dataclass(frozen=True)
class _Run:
    """One run in one direction, all draws at once.

    Attributes:
        prefers: measure -> (D, C, C) signs: 1 where it prefers the first checkpoint to the second.
        picks: chooser -> (D,) index of the checkpoint with its smallest mean.
        sure: chooser -> (C, C), whether a sign-flip test over the photographs decides at ``LEVEL``.
    """

    prefers: Mapping[str, Signs]
    picks: Mapping[str, Indices]
    sure: Mapping[str, NDArray[np.bool_]]


def check_photographs(count: int) -> None:
    """ValueError for fewer than ``FEWEST``: half of them choose, the others judge."""
    if count < FEWEST:
        raise ValueError(f"the study needs at least {FEWEST} photographs, got {count}")


def study(
    runs: Mapping[str, Table], choosers: Sequence[str], jury: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """How often each chooser sides with the jury.

    Args:
        runs: run -> checkpoint -> measure -> values of the photographs, which are the same for all.
        choosers: names of measures, ``RELQA`` among them.
        jury: names of measures.
        draws: bootstrap draws of photographs, in each half by itself; checkpoints are not drawn.
        seed: of the draws.

    Returns:
        ``pairs``, ``unanimous`` (share of the pairs on which the jurors agree), ``goal``, and for each chooser
        ``agreement`` with the jury (a chooser's tie counts one half), the same where the jury is ``unanimous`` and
        ``by_juror``, ``picked`` (of the checkpoint that it picks from a whole run, the share of the others that the
        jury puts below it), ``disputed`` (where it and RelationalLoss differ: pairs, and how often RelationalLoss is
        right) and ``decided`` (share of the pairs that its own sign-flip test decides, and how often it is right then).
        Figures carry 95 % intervals over photographs, and our lead over each chooser.

    Raises:
        ValueError: too few photographs or checkpoints, or no jury.
    """
    photographs = len(next(iter(next(iter(next(iter(runs.values())).values())).values())))
    check_photographs(photographs)
    if not jury or min(len(table) for table in runs.values()) < 2:
        raise ValueError("the study needs at least one juror, and two checkpoints of every run")
    halves = [np.arange(photographs)[half::2] for half in range(2)]
    counts = [bootstrap_counts(len(half), draws, seed + k) for k, half in enumerate(halves)]
    found = [
        _look(table, choosers, jury, halves[k], counts[k], halves[1 - k], counts[1 - k])
        for table in runs.values()
        for k in range(2)
    ]
    verdicts = [_majority(run, jury) for run in found]
    agreeing = np.abs(np.sum([_flat([run.prefers[juror] for run in found]) for juror in jury], axis=0)) == len(jury)
    verdict = _flat(verdicts)
    chosen = {name: _flat([run.prefers[name] for run in found]) for name in choosers}
    sure = {name: _flat([run.sure[name][None] for run in found])[0] for name in choosers}
    right = {name: _share(chosen[name], verdict) for name in choosers}
    picked = {name: _picked(found, verdicts, name) for name in choosers}
    report: dict[str, Any] = {}
    for name in choosers:
        by_juror = {
            juror: estimate(_share(chosen[name], _flat([run.prefers[juror] for run in found]))) for juror in jury
        }
        report[name] = {
            "agreement": entry(right[name], right[RELQA]),
            "unanimous": estimate(_share(chosen[name], verdict * agreeing)),
            "by_juror": by_juror,
            "picked": entry(picked[name], picked[RELQA]),
            "disputed": _disputed(chosen[RELQA], chosen[name], verdict),
            "decided": {
                "share": float(sure[name].mean()),
                "agreement": _finite(_share(chosen[name][:1] * sure[name], verdict[:1] * sure[name])[0]),
            },
        }
    rivals = [name for name in RIVALS if name in report]
    return {
        "pairs": int(verdict.shape[1]),
        "unanimous": float(agreeing[0].mean()),
        "choosers": report,
        "goal": {
            "rivals": {name: report[name]["agreement"]["verdict"] for name in rivals},
            "reached": all(report[name]["agreement"]["verdict"] == "better" for name in rivals),
        },
    }


def _look(
    table: Table,
    choosers: Sequence[str],
    jury: Sequence[str],
    chosen_on: Indices,
    chosen_counts: Array,
    judged_on: Indices,
    judged_counts: Array,
) -> _Run:
    def columns(name: str) -> Array:
        return np.array([row[name] for row in table.values()], dtype=np.float64)

    means = {name: chosen_counts @ columns(name)[:, chosen_on].T for name in choosers}
    judged = {name: judged_counts @ columns(name)[:, judged_on].T for name in jury}
    count = len(table)
    sure = {}
    for name in choosers:
        values = columns(name)[:, chosen_on]
        p = sign_flip((values[:, None] - values[None, :]).reshape(count * count, -1).T)
        sure[name] = (p <= 1 - LEVEL).reshape(count, count)
    return _Run(
        {name: _signs(mean[:, None, :] - mean[:, :, None]) for name, mean in {**means, **judged}.items()},
        {name: mean.argmin(axis=1) for name, mean in means.items()},
        sure,
    )


def _signs(differences: Array) -> Signs:
    return np.sign(differences).astype(np.int8)


def _majority(run: _Run, jury: Sequence[str]) -> Signs:
    return np.sign(np.sum([run.prefers[juror] for juror in jury], axis=0, dtype=np.int8))


def _flat(matrices: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(D, pairs): each pair of a run once, all runs side by side."""
    return np.concatenate([one[:, *np.triu_indices(one.shape[1], 1)] for one in matrices], axis=1)


def _share(choice: Signs, verdict: Signs) -> Array:
    """(D,) share of the verdicts that a choice sides with, ties of the choice counted half; nan without verdicts."""
    with np.errstate(invalid="ignore"):
        return 0.5 + 0.5 * (choice * verdict).sum(axis=1) / np.abs(verdict).sum(axis=1)


def _picked(runs: Sequence[_Run], verdicts: Sequence[Signs], chooser: str) -> Array:
    shares = []
    for run, verdict in zip(runs, verdicts, strict=True):
        against = verdict[np.arange(len(verdict)), run.picks[chooser]]
        # 0, its verdict against itself, changes the sum by nothing, and is not among the others.
        shares.append(0.5 + 0.5 * against.sum(axis=1) / (against.shape[1] - 1))
    mean: Array = np.mean(shares, axis=0)
    return mean


def _disputed(ours: Signs, theirs: Signs, verdict: Signs) -> dict[str, Any]:
    apart = ours * theirs < 0
    return {"pairs": int((apart & (verdict != 0))[0].sum()), "ours": estimate(_share(ours, verdict * apart))}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
