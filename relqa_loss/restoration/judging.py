"""How good restorers are: judged by metrics that no restorer was trained with, and by what the distortion maps say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..distortions.filters import fixed_gaussian, luma
from ..evaluation.artefacts import grain
from ..evaluation.peer_metrics import PeerMetric
from ..evaluation.statistics import group_resamples, interval
from ..losses import RelationalLoss
from ..training.data import seeded
from .restorers import L1, OURS, RIVALS, TASKS, Restorer

JUDGES = ("psnr", "cvvdp", "ssimulacra2", "flip")
"""None is a member of the engine's panel or a loss that a restorer is trained with."""

RESAMPLES = 2000
MOST_LOST = 0.2
"""PSNR in dB that may be lost beside plain L1."""

MAP_AXES = ("blur", "noise")


@torch.no_grad()
def restored(model: Restorer, task: str, references: Sequence[Tensor], seed: int) -> list[Tensor]:
    """What a restorer makes of spoilt photographs: (1, 3, H, W) in [0, 1] each.

    Args:
        model: of that task.
        task: of ``TASKS``.
        references: (3, H, W) in [0, 1], sides even.
        seed: of the noise.
    """
    device = next(model.parameters()).device
    return [
        model(TASKS[task].spoil(one[None], seeded(seed, 8, index)).to(device)).clamp(0, 1).cpu()
        for index, one in enumerate(references)
    ]


def spoilt_as_seen(task: str, reference: Tensor, seed: int) -> Tensor:
    """The first input of :func:`restored` as a picture (3, H, W) in [0, 1], enlarged where it is smaller."""
    spoilt = TASKS[task].spoil(reference[None], seeded(seed, 8, 0))
    if TASKS[task].scale != 1:
        spoilt = F.interpolate(spoilt, reference.shape[1:], mode="nearest")
    return spoilt[0].clamp(0, 1)


def sharpness(picture: Tensor, reference: Tensor) -> Tensor:
    """Energy of the fine detail of luma beside the reference's, (B,): 1 as sharp, below softer, above sharper or noisy.

    Fine detail is what a Gaussian of one pixel takes away. Pictures (B, 3, H, W) in [0, 1].
    """
    fine, true = (luma(one) - fixed_gaussian(luma(one), 1.0) for one in (picture, reference))
    return fine.square().mean(dim=(1, 2, 3)) / true.square().mean(dim=(1, 2, 3)).clamp_min(1e-12)


@torch.no_grad()
def measures(
    pictures: Sequence[Tensor], references: Sequence[Tensor], judges: Mapping[str, PeerMetric], loss_fn: RelationalLoss
) -> dict[str, list[float]]:
    """Each judge's value of each picture, higher = worse, and what steering is read from.

    Args:
        pictures: (1, 3, H, W) in [0, 1] each.
        references: (3, H, W) each.
        judges: name -> metric.
        loss_fn: whose maps are read: ``"map of blur"`` and ``"map of noise"``, signed means, positive for more of it.
    """
    rows: dict[str, list[float]] = {}
    for picture, reference in zip(pictures, references, strict=True):
        values = {name: judge(picture, reference[None]) for name, judge in judges.items()}
        relation = loss_fn.relate(picture, reference[None])
        values |= {f"map of {axis}": relation[axis].mean() for axis in MAP_AXES}
        values |= {"sharpness": sharpness(picture, reference[None]), "grain": grain(picture, reference[None])}
        for name, value in values.items():
            rows.setdefault(name, []).append(float(value))
    return rows


def compare(
    tables: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], judges: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Means of every loss, and how L1 + RelationalLoss stands to each other loss by every judge.

    Args:
        tables: loss -> for each seed of training, what :func:`measures` gave.
        judges: names of the judges, whose values are higher for worse pictures.
        seed: of the bootstrap over photographs.

    Returns:
        ``mean``: loss -> measure -> mean over seeds and photographs. ``against``: loss -> judge -> ``difference`` (ours
        minus theirs: negative = ours is better), ``low``, ``high`` (95 % bootstrap over photographs, seeds averaged)
        and ``verdict``: better, worse, tie, or unknown for a single photograph, or where a judge has no value for one.
    """
    photo = {name: _by_photograph(rows) for name, rows in tables.items()}
    mean = {name: {key: float(np.nanmean(values)) for key, values in of.items()} for name, of in photo.items()}
    against: dict[str, Any] = {}
    if OURS in photo:
        for name in photo:
            if name != OURS:
                against[name] = {judge: _verdict(photo[OURS][judge] - photo[name][judge], seed) for judge in judges}
    return {"mean": mean, "against": against}


def _by_photograph(rows: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, NDArray[np.float64]]:
    """Measure -> (photographs,), averaged over seeds."""
    return {key: np.mean([np.asarray(row[key], dtype=np.float64) for row in rows], axis=0) for key in rows[0]}


def _verdict(differences: NDArray[np.float64], seed: int) -> dict[str, Any]:
    mean = float(differences.mean())
    if differences.size < 2 or not np.isfinite(differences).all():
        return {"difference": mean, "low": None, "high": None, "verdict": "unknown"}
    means = [differences[chosen].mean() for chosen in group_resamples(range(differences.size), RESAMPLES, seed)]
    low, high = interval(means)
    return {
        "difference": mean,
        "low": low,
        "high": high,
        "verdict": "better" if high < 0 else "worse" if low > 0 else "tie",
    }


def goal(figures: Mapping[str, Any], judges: Sequence[str]) -> dict[str, Any]:
    """Whether L1 + RelationalLoss holds its own: no rival is better by half of the judges, and little PSNR is lost.

    Args:
        figures: what :func:`compare` returned.
        judges: names of the judges.

    Returns:
        ``better_or_tie``: rival -> number of judges by which ours is better or ties; ``psnr_lost_db``: beside plain L1,
        None where that was not measured; ``reached``: None unless that and every rival were.
    """
    rivals = {name: figures["against"][name] for name in RIVALS if name in figures["against"]}
    held = {name: sum(by[judge]["verdict"] in ("better", "tie") for judge in judges) for name, by in rivals.items()}
    lost = rivals[L1]["psnr"]["difference"] if L1 in rivals and "psnr" in judges else None
    reached = None
    if lost is not None and len(rivals) == len(RIVALS):
        reached = lost <= MOST_LOST and all(2 * count > len(judges) for count in held.values())
    return {"better_or_tie": held, "psnr_lost_db": lost, "reached": reached}
