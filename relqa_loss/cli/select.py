"""``relqa select``: which of several folders of outputs is best?"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    Commands,
    add_loss_arguments,
    check_size,
    command,
    make_loss,
    note,
    note_skipped,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from torch import Tensor


def add_commands(commands: Commands) -> None:
    """Register ``select``."""
    parser = command(commands, "select", "Compare folders of outputs on the same references and name the best.")
    parser.add_argument("--ref", required=True, type=Path, metavar="DIR", help="folder of originals")
    parser.add_argument(
        "outputs",
        metavar="OUTPUTS",
        type=Path,
        nargs="+",
        help="folders with one output for each original, of its name",
    )
    parser.add_argument("--level", type=float, default=0.95, help="confidence a verdict needs (default: 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_loss_arguments(parser)
    parser.set_defaults(run=run)


def read_pairs(
    reference: Path, outputs: list[Path]
) -> tuple[list[str], list[Tensor], list[list[Tensor]], list[tuple[str, str]]]:
    """Photographs present in every folder, paired by their name without ending.

    Returns:
        (names, references, outputs of each folder, skipped): a photograph that cannot be read in one folder is left out
        of all.

    Raises:
        ValueError: an output is missing or has another size than its reference, two files of a folder share a name, or
            nothing readable is left.
    """
    from ..images import list_images

    folders = [_by_stem(list_images(folder), folder) for folder in (reference, *outputs)]
    wanted = sorted(folders[0])
    for folder, files in zip(outputs, folders[1:], strict=True):
        missing = [name for name in wanted if name not in files]
        if missing:
            raise ValueError(
                f"{folder} lacks outputs for {len(missing)} of {len(wanted)} references, e.g. {missing[0]!r}"
            )
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    pictures: list[list[Tensor]] = [[] for _ in folders]
    for name in wanted:
        row = _read_row([files[name] for files in folders])
        if isinstance(row, str):
            skipped.append((name, row))
            continue
        names.append(name)
        for column, image in zip(pictures, row, strict=True):
            column.append(image)
    if not names:
        raise ValueError(f"none of the {len(wanted)} photographs can be read in all folders; first: {skipped[0][1]}")
    return names, pictures[0], pictures[1:], skipped


def _read_row(paths: list[Path]) -> list[Tensor] | str:
    """A reference and its outputs, or the reason why they cannot be used."""
    from ..images import read_each

    row: list[Tensor] = []
    for path, image in read_each(paths):
        if isinstance(image, str):
            return image if str(path) in image else f"{path}: {image}"
        check_size(path, image, paths[0], row[0] if row else image)
        row.append(image)
    return row


def _by_stem(paths: list[Path], folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise ValueError(
                f"{folder} holds two photographs named {path.stem!r}: {found[path.stem].name} and {path.name}"
            )
        found[path.stem] = path
    return found


def run(args: argparse.Namespace) -> int:
    """Each folder against the best before it, then a ranking by mean distance."""
    from ..selection import CheckpointSelector, highest_confidence

    names, references, outputs, skipped = read_pairs(args.ref, args.outputs)
    note_skipped(skipped)
    selector = CheckpointSelector(references, make_loss(args), level=args.level, seed=args.seed)
    reach = highest_confidence(len(names))
    if reach < args.level and len(outputs) > 1:
        note(
            f"{len(names)} reference{'s' if len(names) > 1 else ''} cannot reach the confidence {args.level:g} "
            f"asked for (at most {reach:g}): every comparison stays undecided, and the first folder stays the best"
        )
    verdicts = [selector.update(images, str(folder)) for folder, images in zip(args.outputs, outputs, strict=True)]
    ranked = sorted(verdicts, key=lambda verdict: verdict.distance)
    if args.json:
        print_json(
            {
                "references": names,
                "skipped": [name for name, _ in skipped],
                "best": selector.incumbent,
                "ranking": [v.tag for v in ranked],
                "verdicts": [asdict(v) for v in verdicts],
            }
        )
        return 0
    rows = []
    for verdict in verdicts:
        if verdict.against is None:
            rows.append([verdict.tag, f"{verdict.distance:.4g}", "first", "-", "-", "", ""])
            continue
        why = ", ".join(f"{axis} {change:+.2g}" for axis, change in verdict.reasons())
        rate = "-" if math.isnan(verdict.win_rate) else f"{verdict.win_rate:.2f}"
        rows.append(
            [
                verdict.tag,
                f"{verdict.distance:.4g}",
                verdict.decision,
                f"{verdict.confidence:.3f}",
                rate,
                verdict.against,
                why,
            ]
        )
    print_table(
        ["outputs", "distance", "verdict", "confidence", "win rate", "against", "changes (negative: improved)"], rows
    )
    print(f"\nby mean distance over {len(names)} photographs: " + " < ".join(v.tag for v in ranked))
    print(f"best: {selector.incumbent}")
    if ranked[0].tag != selector.incumbent:
        print(f"note: {ranked[0].tag} has the smaller mean, but its lead is within chance at level {args.level:g}")
    return 0
