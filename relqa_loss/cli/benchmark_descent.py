"""``relqa benchmark recovery``, ``line`` and ``alignment``: is the loss one that can be descended?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_whole
from .common import (
    Commands,
    add_loss_arguments,
    command,
    make_loss,
    names,
    note,
    note_skipped,
    print_json,
    print_table,
    write_json,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.recovery import Recovery
    from ..evaluation.recovery_losses import Loss
    from ..evaluation.targets import Target
    from ..losses import RelationalLoss


def add_descent(kinds: Commands) -> None:
    """Register ``recovery``, ``line`` and ``alignment`` among the kinds of ``benchmark``."""
    recovery = command(
        kinds, "recovery", "Does descending the loss bring photographs back? PSNR and artefacts, beside other losses."
    )
    _add_crops(recovery, limit=4)
    recovery.add_argument("--steps", type=int, default=300, help="Adam steps (default: 300; the targets allow 500)")
    recovery.add_argument(
        "--with",
        dest="beside",
        type=names,
        default=["l1"],
        metavar="A,B,C",
        help="what else to descend: l1, ms-ssim (extra benchmark), st-lpips (extra jury), the name of an axis for the "
        "loss with that axis alone, axes for all 17 of them, which takes 17 times as long (default: l1)",
    )
    recovery.add_argument("--figure", type=Path, metavar="FILE", help="write a sheet of the first photograph, .webp")
    recovery.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add_loss_arguments(recovery)
    recovery.set_defaults(run=run_recovery)
    line = command(kinds, "line", "Does the distance rise all along the straight line to a degraded copy?")
    line.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of pristine photographs")
    line.add_argument("--limit", type=int, help="use at most this many photographs")
    line.add_argument("--crop", type=int, default=256, help="side of the seeded crops in pixels (default: 256)")
    line.add_argument(
        "--operators", type=names, metavar="A,B,C", help="these operators alone (default: all of the bank)"
    )
    line.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add_loss_arguments(line)
    line.set_defaults(run=run_line)
    alignment = command(kinds, "alignment", "Does the gradient point to the reference? Its angle, beside other losses.")
    _add_crops(alignment, limit=8)
    alignment.add_argument(
        "--with",
        dest="beside",
        type=names,
        default=["l1", "ms-ssim"],
        metavar="A,B,C",
        help="what stands beside it, as for recovery (default: l1,ms-ssim)",
    )
    alignment.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add_loss_arguments(alignment)
    alignment.set_defaults(run=run_alignment)


def _note_verdicts(measured: Mapping[str, Any], targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Every target beside what was measured, on stderr, and as a part of the JSON."""
    from ..evaluation.targets import verdicts

    found = verdicts(measured, targets)
    for one in found:
        title, goal, value, verdict = one.cells()
        note(f"{title}: {value}, target {goal}: {verdict}")
    return [
        {
            "figure": one.target.figure.title,
            "target": one.target.goal,
            "measured": one.measured,
            "verdict": one.verdict,
        }
        for one in found
    ]


def _add_crops(parser: argparse.ArgumentParser, limit: int) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder of pristine photographs")
    parser.add_argument(
        "--limit", type=int, default=limit, help=f"use at most this many photographs (default: {limit})"
    )
    parser.add_argument("--crop", type=int, default=192, help="side of the central crops in pixels (default: 192)")


def _crops_and_losses(
    args: argparse.Namespace,
) -> tuple[list[Tensor], RelationalLoss, dict[str, Loss], dict[str, str]]:
    """Central crops of the photographs; the loss; it and those beside it by title; those that are missing, with why."""
    from ..evaluation.recovery_losses import losses_beside
    from ..images import central_crop, read_folder

    folder = read_folder(args.data, args.limit, args.crop)
    note_skipped(folder.skipped)
    loss_fn = make_loss(args, reduction="none")
    beside, missing = losses_beside(loss_fn, args.beside, args.crop)
    for title, reason in missing.items():
        note(f"left out: {title}, {reason}")
    crops = [central_crop(image, args.crop).to(args.device) for image in folder.images]
    return crops, loss_fn, {"RelationalLoss": loss_fn, **beside}, missing


def run_recovery(args: argparse.Namespace) -> int:
    """Descent from degraded copies."""
    from ..evaluation.engine_cases import of_weights
    from ..evaluation.recovery import check_steps, recovery_table
    from ..evaluation.targets import RECOVERY_CROP, RECOVERY_STEPS, RECOVERY_TARGETS

    # All of these before minutes of work rather than after.
    check_steps(args.steps)
    if args.figure is not None:
        _check_figure(args.figure)
    crops, loss_fn, losses, missing = _crops_and_losses(args)
    recovery = recovery_table(losses, crops, steps=args.steps, progress=note)
    if args.crop != RECOVERY_CROP or args.steps > RECOVERY_STEPS:
        note(f"the targets are meant for crops of {RECOVERY_CROP} pixels and at most {RECOVERY_STEPS} steps")
    targets = _note_verdicts(recovery.table, RECOVERY_TARGETS)
    table = {**recovery.table, "targets": targets, "left_out": missing, **of_weights(loss_fn)}
    print_json(table)
    if args.json is not None:
        write_json(args.json, table)
    if args.figure is not None:
        _write_sheet(recovery, crops[0], args.figure)
    return 0


def run_alignment(args: argparse.Namespace) -> int:
    """Angles of gradients."""
    from ..evaluation.alignment import alignment_table
    from ..evaluation.engine_cases import of_weights

    crops, loss_fn, losses, missing = _crops_and_losses(args)
    table = alignment_table(losses, crops, progress=note)
    print("gradient beside the way from the reference: cosine (share of its energy in the finest detail)")
    titles = list(next(iter(table["degraded"].values())))
    rows = [
        [name, *(f"{by[title]['cosine']:.2f} ({by[title]['finest_share']:.2f})" for title in titles)]
        for name, by in table["degraded"].items()
    ]
    print_table(["", *titles], rows)
    if args.json is not None:
        write_json(args.json, {**table, "left_out": missing, **of_weights(loss_fn)})
    return 0


def _check_figure(path: Path) -> None:
    from ..figures import check_ending

    if path.suffix.lower() != ".webp":
        raise ValueError(f"figure must be a file that ends in .webp, got {path}")
    check_ending(path)


def _write_sheet(recovery: Recovery, reference: Tensor, path: Path) -> None:
    from ..evaluation.psnr import psnr
    from ..figures_failures import as_webp
    from ..figures_recovery import LARGEST, recovery_sheet

    rows = {
        start: [
            *((name, picture, f"{psnr(picture, reference):.1f} dB") for name, picture in pictures.items()),
            ("reference", reference, ""),
        ]
        for start, pictures in recovery.pictures.items()
    }
    write_whole(path, as_webp(recovery_sheet(rows), LARGEST))
    note(f"written: {path}")


def run_line(args: argparse.Namespace) -> int:
    """Distances along straight lines."""
    from ..evaluation.line import line_study
    from ..evaluation.targets import LINE_TARGETS
    from ..images import read_folder

    folder = read_folder(args.data, args.limit)
    note_skipped(folder.skipped)
    photographs = [image.to(args.device) for image in folder.images]
    study = line_study(make_loss(args), photographs, distortions=args.operators, crop=args.crop, progress=note)
    study = {**study, "targets": _note_verdicts(study, LINE_TARGETS)}
    print_json(study)
    if args.json is not None:
        write_json(args.json, study)
    return 0
