"""``relqa select``: which of several folders of outputs is best, and which cannot be told apart?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    Commands,
    UsageError,
    add_loss_arguments,
    add_output_arguments,
    check_size,
    command,
    make_loss,
    named,
    note,
    note_skipped,
    print_csv,
    print_json,
    print_table,
    tile_for,
)
from .progress import tracked

if TYPE_CHECKING:
    from ..losses import RelationalLoss
    from ..pairing import Paired
    from ..selection import ImageScore, Ranking, Verdict


def add_commands(commands: Commands) -> None:
    """Register ``select``."""
    parser = command(
        commands, "select", "Rank folders of outputs on the same references, and say which cannot be told apart."
    )
    parser.add_argument("--ref", required=True, type=Path, metavar="DIR", help="folder of originals")
    parser.add_argument(
        "outputs",
        metavar="OUTPUTS",
        type=Path,
        nargs="+",
        help="folders with one output for each original, of its name",
    )
    parser.add_argument("--level", type=float, default=0.95, help="confidence a verdict needs (default: 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    add_output_arguments(parser)
    add_loss_arguments(parser)
    parser.set_defaults(run=run)


def pair_all(reference: Path, outputs: Sequence[Path]) -> Paired:
    """The folders paired by name; outputs without an original are named on stderr and left out.

    Raises:
        ValueError: a folder given twice (``UsageError``), one that lacks an output, or two files of a folder that share
            a name.
    """
    from ..pairing import pair_folders

    for place, folder in enumerate(outputs):
        if folder in outputs[:place]:
            raise UsageError(f"OUTPUTS must be different folders, got {folder} twice")
    paired = pair_folders(reference, outputs)
    for folder, names in paired.lacking:
        count = len(names) + len(paired.names)
        raise ValueError(f"{folder} lacks outputs for {len(names)} of {count} references, e.g. {names[0]!r}")
    if paired.unasked:
        several = "s have" if len(paired.unasked) > 1 else " has"
        note(f"{len(paired.unasked)} output{several} no original: left out, e.g. {paired.unasked[0]}")
    return paired


def score_row(loss_fn: RelationalLoss, paths: Sequence[Path]) -> list[ImageScore] | str:
    """Scores of one photograph's outputs, or why it cannot be used; the original and one output are held at a time.

    Args:
        loss_fn: what compares.
        paths: the original's file, then the outputs'.

    Raises:
        ValueError: an output has another size than its original.
    """
    from ..images import read_each
    from ..selection import score_image

    original = None
    row: list[ImageScore] = []
    for path, image in read_each(paths):
        if isinstance(image, str):
            return named(path, image)
        if original is None:
            original = image
            continue
        check_size(path, image, paths[0], original)
        row.append(score_image(loss_fn, image, original, name=str(path), tile=tile_for(image)))
    return row


def run(args: argparse.Namespace) -> int:
    """Score photograph by photograph, rank, print."""
    from ..selection import Tally, check_level, rank

    check_level(args.level)
    paired = pair_all(args.ref, args.outputs)
    loss_fn = make_loss(args)
    tallies = {str(folder): Tally(loss_fn) for folder in args.outputs}
    skipped: list[tuple[str, str]] = []
    for name, paths in tracked(list(zip(paired.names, paired.paths, strict=True)), "comparing"):
        row = score_row(loss_fn, paths)
        if isinstance(row, str):
            skipped.append((name, row))
            continue
        for tally, one in zip(tallies.values(), row, strict=True):
            tally.put(one, name)
    note_skipped(skipped)
    if len(skipped) == len(paired.names):
        raise ValueError(f"none of the {len(skipped)} photographs can be read in all folders; first: {skipped[0][1]}")
    ranking = rank({tag: tally.scores() for tag, tally in tallies.items()}, level=args.level, seed=args.seed)
    _note_reach(ranking)
    if args.json:
        print_json(
            {
                "best": ranking.best,
                **asdict(ranking),
                "references": [name for name in paired.names if name not in dict(skipped)],
                "skipped": [{"photograph": name, "reason": reason} for name, reason in skipped],
                "weights": args.weights,
            }
        )
    elif args.csv:
        print_ranking_csv(ranking)
    else:
        print_ranking(ranking)
    return 1 if skipped else 0


def _note_reach(ranking: Ranking) -> None:
    """Say so where even images that all agree could not tell two folders apart."""
    from ..selection import highest_confidence

    pairs = len(ranking.verdicts)
    reach = max(0.0, 1.0 - pairs * (1.0 - highest_confidence(ranking.images)))
    if pairs and reach < ranking.level:
        note(
            f"{ranking.images} photograph{'s' if ranking.images > 1 else ''} cannot reach the confidence "
            f"{ranking.level:g} asked for in {pairs} comparison{'s' if pairs > 1 else ''} (at most {reach:g}): "
            "every one stays undecided"
        )


def print_ranking(ranking: Ranking) -> None:
    """The table, each folder beside the one with the smallest mean, and what cannot be told apart."""
    beside = ranking.against(ranking.places[0].tag)
    rows = []
    for place in ranking.places:
        where = f"{place.best}" if place.best == place.worst else f"{place.best} to {place.worst}"
        rows.append([where, place.tag, f"{place.distance:.4g}", *_cells(beside.get(place.tag))])
    print_table(["place", "outputs", "distance", "beside the first", "confidence", "win rate", "in what"], rows)
    print()
    for group in ranking.groups:
        if len(group) > 1:
            print(f"cannot be told apart at {ranking.level:g}: {', '.join(group)}")
    print(f"best of {len(ranking.places)} on {ranking.images} photographs: {', '.join(ranking.best)}")


def print_ranking_csv(ranking: Ranking) -> None:
    """One row a folder, in order: its places, and how it compares with the first row's, whose own cells stay empty."""
    first = ranking.places[0].tag
    beside = ranking.against(first)
    rows: list[list[object]] = []
    for place in ranking.places:
        row: list[object] = [place.best, place.worst, place.tag, place.distance]
        if (verdict := beside.get(place.tag)) is None:
            row += [""] * 7
        else:
            row += [verdict.decision, verdict.score, verdict.confidence, verdict.win_rate, *verdict.win_interval]
            row.append(verdict.why())
        rows.append(row)
    print_csv(
        [
            "best_place", "worst_place", "outputs", "distance",
            "decision", "score", "confidence", "win_rate", "win_rate_low", "win_rate_high", "in_what",
        ],
        rows,
    )  # fmt: skip


def _cells(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["-", "-", "-", ""]
    low, high = verdict.win_interval
    return [
        verdict.decision,
        f"{verdict.confidence:.3f}",
        f"{verdict.win_rate:.2f} ({low:.2f} to {high:.2f})",
        verdict.why(),
    ]
