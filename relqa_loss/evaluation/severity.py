"""Calibrated severity on photographs it was not measured on: monotone steps, and the spread between operators."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ..distortions import BANK, Distortion
from ..distortions.availability import can_run
from ..distortions.bank import SEVERITY_FILE
from ..distortions.calibration import stable_seed
from ..distortions.draws import Streams
from ..distortions.panel import PANEL, Prepared, panel_scores
from ..distortions.record import KNOTS
from ..distortions.threads import Progress, for_each
from ..distortions.votes import Pool

EPSILON = 0.01
"""A step is monotone unless the visibility falls by more than this: 1 % of the cases of the run lie between."""

GOAL = 0.99
"""Share of monotone steps that is asked for."""

CHUNK = 12
"""Photographs in one call of an operator and of the panel."""


def committed_table() -> dict[str, Any]:
    """The severity table of the bank; empty where none has been written."""
    table = resources.files("relqa_loss.distortions").joinpath(SEVERITY_FILE)
    return dict(json.loads(table.read_text(encoding="utf-8"))) if table.is_file() else {}


def panel_subjects(
    photographs: Mapping[str, Tensor], distortions: Sequence[Distortion]
) -> tuple[list[str], Tensor, list[Distortion]]:
    """Names, pictures (N, 3, H, W), and the operators that run here and that the panel can follow.

    Raises:
        ValueError: no picture, or no such operator.
    """
    if not photographs:
        raise ValueError("photographs must hold at least one picture, got none")
    bank = [one for one in distortions if one.apply is not None and can_run(one)]
    if not bank:
        raise ValueError("distortions must hold at least one pixel operator that can run here, got none")
    return list(photographs), torch.stack(list(photographs.values())), bank


def apply_at(distortion: Distortion, crops: Tensor, severity: float, seeds: Sequence[int]) -> Tensor:
    """A pixel operator on the whole of each picture, with draws of each picture's own.

    Args:
        distortion: the operator.
        crops: (B, 3, H, W) in [0, 1].
        severity: in [0, 1]; 0 leaves the pictures untouched.
        seeds: one a picture.

    Returns:
        (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: the operator displaces content.
    """
    if distortion.apply is None:
        raise ValueError(f"distortion must be a pixel operator, {distortion.name!r} displaces content")
    if severity == 0:
        return crops
    parameter = distortion.parameter(torch.full((crops.shape[0],), severity, dtype=torch.float32))
    if distortion.batched:
        return distortion.apply(crops, parameter, Streams(seeds, crops.device)).clamp(0, 1)
    alone = [
        distortion.apply(crop[None], parameter[:1], Generator(device=crops.device).manual_seed(seed))
        for crop, seed in zip(crops, seeds, strict=True)
    ]
    return torch.cat(alone).clamp(0, 1)


Chunk = tuple[Tensor, Prepared, Tensor]
"""Photographs (B, 3, H, W), prepared for the panel, and the panel's values of the untouched ones (B, members)."""


def _chunk(crops: Tensor) -> Chunk:
    reference = Prepared(crops)
    return crops, reference, panel_scores(crops, reference)


def _ladder(distortion: Distortion, chunks: Sequence[Chunk], seed: int) -> tuple[Tensor, Tensor]:
    """Panel values (KNOTS, photographs, members) and, per step (KNOTS - 1, photographs), whether it changes nothing."""
    values, equal = [], []
    first = stable_seed(distortion.name, seed)
    done = 0
    for crops, reference, untouched in chunks:
        seeds = [first + done + k for k in range(crops.shape[0])]
        done += crops.shape[0]
        rows, same = [untouched], []
        before = crops
        for knot in range(1, KNOTS):
            picture = apply_at(distortion, crops, knot / (KNOTS - 1), seeds)
            same.append((picture == before).flatten(1).all(1))
            rows.append(panel_scores(picture, reference))
            before = picture
        values.append(torch.stack(rows))
        equal.append(torch.stack(same))
    return torch.cat(values, 1), torch.cat(equal, 1)


def check_severity_steps(
    photographs: Mapping[str, Tensor],
    *,
    distortions: Sequence[Distortion] = BANK,
    table: Mapping[str, Any] | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """How calibrated severity behaves on photographs.

    Every operator acts on the whole of every photograph at severities 0, 0.1, ..., 1, with fixed draws, and evenly
    through its span at the same numbers ("before" calibration). The visibility of a picture is the panel's consensus
    (:class:`~relqa_loss.distortions.votes.Pool`) within all pictures of the run. A step of 0.1 is monotone where
    the visibility does not fall by more than ``EPSILON``; steps between bitwise equal pictures are monotone, and are
    counted apart.

    Args:
        photographs: name -> (3, H, W) in [0, 1], all of one size, at least 128 px.
        distortions: the operators; displacements, which the panel cannot follow, and operators without codec are
            listed and left out.
        table: the calibration's table, for the operators it lists; None for the committed one.
        seed: of the operators' draws.
        workers: threads; None for torch's number. Results do not depend on it.
        progress: called with a line of text after each operator.

    Returns:
        JSON-able: ``steps``, ``monotone``, ``share``, ``bitwise_equal``, ``epsilon``, ``goal``; ``per_operator`` (the
        same four figures, and the median visibilities ``before`` and ``after``); ``strict`` (the same four without the
        step from the untouched picture, where any fall counts and an equal picture does too); ``exceptions``
        (operator, photograph, severity at both ends of the step, fall), the largest first; ``spread`` and
        ``spread_of_all`` (see :func:`spread`); ``left_out`` (operators that stand apart, by reason; those above the
        foot stay in the spread), ``photographs``, ``panel``.

    Raises:
        ValueError: no photograph, or no operator that can be measured.
        MissingExtra: piq is not installed.
    """
    names, crops, bank = panel_subjects(photographs, distortions)
    # What the panel derives of the photographs is worked out before several threads ask for it.
    chunks = for_each({"photographs": lambda: [_chunk(part) for part in crops.split(CHUNK)]}, 1)["photographs"]
    tasks = {}
    for one in bank:
        tasks[one.name] = partial(_ladder, one, chunks, seed)
        if one.levels is not None:
            tasks[f"{one.name} (span)"] = partial(_ladder, _uncalibrated(one), chunks, seed)
    results = for_each(tasks, workers, progress)
    after = torch.stack([results[one.name][0] for one in bank])
    equal = torch.stack([results[one.name][1] for one in bank])
    span_key = [one.name if one.levels is None else f"{one.name} (span)" for one in bank]
    before = torch.stack([results[key][0] for key in span_key])
    pool = Pool(torch.cat((after, before)))
    seen, seen_before = pool.visibility(after), pool.visibility(before)
    report = _steps([one.name for one in bank], names, seen, equal)
    for row, one in enumerate(bank):
        report["per_operator"][one.name] |= {
            "before": _rounded(seen_before[row].quantile(0.5, dim=1)),
            "after": _rounded(seen[row].quantile(0.5, dim=1)),
        }
    known = committed_table() if table is None else table
    left_out = listed(known, distortions)
    kept = in_spread([one.name for one in bank], left_out)
    curves = report["per_operator"]
    report["spread"] = {when: spread({name: curves[name][when] for name in kept}) for when in ("before", "after")} | {
        "operators": len(kept)
    }
    report["spread_of_all"] = {
        when: spread({name: entry[when] for name, entry in curves.items()}) for when in ("before", "after")
    } | {"operators": len(bank)}
    report |= {"left_out": left_out, "photographs": names, "panel": [member.name for member in PANEL], "seed": seed}
    return report


def _uncalibrated(distortion: Distortion) -> Distortion:
    return replace(distortion, levels=None)


def _steps(operators: Sequence[str], photographs: Sequence[str], seen: Tensor, equal: Tensor) -> dict[str, Any]:
    """Counts over steps of visibilities (operators, KNOTS, photographs); ``equal`` has one entry a step."""
    fall = seen[:, :-1] - seen[:, 1:]
    bad = (fall > EPSILON) & ~equal
    exceptions = [
        {
            "operator": operators[row],
            "photograph": photographs[column],
            "from": round(step / (KNOTS - 1), 2),
            "to": round((step + 1) / (KNOTS - 1), 2),
            "fall": round(float(fall[row, step, column]), 4),
        }
        for row, step, column in bad.nonzero().tolist()
    ]

    def counts(wrong: Tensor, same: Tensor) -> dict[str, Any]:
        steps, failed = wrong.numel(), int(wrong.sum())
        return {
            "steps": steps,
            "monotone": steps - failed,
            "share": (steps - failed) / steps,
            "bitwise_equal": int(same.sum()),
        }

    later = slice(1, None)
    return {
        **counts(bad, equal),
        "strict": counts(((fall > 0) | equal)[:, later], equal[:, later]),
        "epsilon": EPSILON,
        "goal": GOAL,
        "per_operator": {name: counts(bad[row], equal[row]) for row, name in enumerate(operators)},
        "exceptions": sorted(exceptions, key=lambda one: -one["fall"]),
    }


def listed(table: Mapping[str, Any], distortions: Sequence[Distortion]) -> dict[str, list[str]]:
    """The operators that stand apart, by reason."""
    names = [one.name for one in distortions]
    return {
        "short_of_target": [name for name in names if name in table.get("short_of_target", ())],
        "above_foot": [name for name in names if name in table.get("above_foot", ())],
        "displacements": [one.name for one in distortions if one.apply is None],
        "codec_missing": [one.name for one in distortions if not can_run(one)],
    }


def in_spread(names: Sequence[str], left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of the operators that the spread is taken over.

    The ones that start above the foot stay in: at the weak end they could do better, and the spread should say so.
    """
    out = {name for reason, group in left_out.items() if reason != "above_foot" for name in group}
    return [name for name in names if name not in out]


def spread(curves: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Spread between operators' curves at each severity.

    Args:
        curves: operator -> visibility at the ``KNOTS`` severities.

    Returns:
        ``sd`` and ``range_10_90`` at each severity, and their means over severities above 0; empty without operators.
    """
    if not curves:
        return {}
    heights = np.array(list(curves.values()), dtype=float)
    deviation = heights.std(axis=0)
    low, high = np.quantile(heights, (0.1, 0.9), axis=0)
    return {
        "sd": [round(float(v), 4) for v in deviation],
        "range_10_90": [round(float(v), 4) for v in high - low],
        "mean_sd": round(float(deviation[1:].mean()), 4),
        "mean_range_10_90": round(float((high - low)[1:].mean()), 4),
    }


def _rounded(curve: Tensor) -> list[float]:
    return [round(value, 4) for value in curve.tolist()]
