"""``relqa compare`` and ``relqa rank``: pictures against their originals."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_whole
from .common import (
    Commands,
    UsageError,
    add_loss_arguments,
    add_output_arguments,
    command,
    make_loss,
    note,
    print_csv,
    print_json,
    print_table,
    tile_for,
)
from .pairs import Pair, Pairs

if TYPE_CHECKING:
    from torch import Tensor

    from ..losses import RelationalLoss
    from ..relation import Relation
    from ..report import Report

SHOWN_AXES = 3
MOST_SIDE_BY_SIDE = 5


@dataclass(frozen=True)
class Judged:
    """One pair in numbers; ``axes`` holds (axis, part, direction), strongest first."""

    pair: Pair
    distance: float
    psnr: float
    floor: float
    parts: list[float]
    axes: list[tuple[str, float, float]]


def add_commands(commands: Commands) -> None:
    """Register ``compare`` and ``rank``."""
    one = command(commands, "compare", "How far pictures are from their originals, and in what they differ.")
    one.add_argument("reference", metavar="REF", type=Path, help="the original, or a folder of originals")
    one.add_argument(
        "images",
        metavar="IMG",
        type=Path,
        nargs="+",
        help="pictures of the same size; or folders, whose pictures have the names of their originals",
    )
    add_output_arguments(one)
    one.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="draw maps and the split by axis (PNG, PDF, SVG); one file for each IMG",
    )
    one.add_argument(
        "--panel", type=Path, metavar="FILE", help="draw up to five IMG side by side with the map of one axis, and bars"
    )
    one.add_argument("--html", type=Path, metavar="FILE", help="write one page to look at in a browser, network or not")
    one.add_argument(
        "--html-pictures",
        type=int,
        metavar="N",
        help="pairs whose pictures the page holds, the worst first (default: 24); all are in its index",
    )
    add_loss_arguments(one)
    one.set_defaults(run=run_compare)
    two = command(commands, "rank", "Order pictures by their distance to an original, nearest first.")
    two.add_argument("reference", metavar="REF", type=Path, help="the original")
    two.add_argument("images", metavar="IMG", type=Path, nargs="+", help="pictures of the same size")
    add_output_arguments(two)
    add_loss_arguments(two)
    two.set_defaults(run=run_rank)


def relate(loss_fn: RelationalLoss, image: Tensor, reference: Tensor, device: str) -> Relation:
    """The picture compared with the reference, (3, H, W) each."""
    return loss_fn.relate(image[None].to(device), reference[None].to(device), tile=tile_for(image))


def judge(pair: Pair, relation: Relation, psnr: float, axes: int) -> Judged:
    """The numbers of a pair: the maps of many large pictures would not fit into memory."""
    from ..words import strongest

    found = strongest(relation, axes) if axes else []
    return Judged(pair, float(relation.distance), psnr, float(relation.floor), relation.parts[0].tolist(), found)


def run_compare(args: argparse.Namespace) -> int:
    """Table, JSON or CSV, figures and a page."""
    import torch

    from ..evaluation.psnr import psnr
    from ..relation import AXES

    _check_targets(args)
    pairs = Pairs(args.reference, args.images)
    loss_fn = make_loss(args)
    report = None if args.html is None else _new_report(args)
    outputs: dict[str, tuple[Tensor, Relation]] = {}
    axes = len(AXES) if args.json else 0 if args.csv else SHOWN_AXES
    targets = _figure_paths(args.figure, pairs)
    labels = {} if args.panel is None else _labels(args.images)
    results = []
    for pair, reference, image in pairs:
        decibels = psnr(image, reference)
        with torch.no_grad():
            relation = relate(loss_fn, image, reference, args.device)
            results.append(judge(pair, relation, decibels, axes))
            target = targets[pair.place]
            if target is not None:
                _draw(pair, reference, image, relation, target)
            if report is not None:
                _add(report, pair, reference, image, relation, decibels)
        if args.panel is not None:
            outputs[labels[pair.image]] = (image, relation)
    if args.panel is not None:
        # One original stands for all: a panel is refused for folders.
        _draw_panel(reference, outputs, args.panel)
    if report is not None:
        _write_page(report, pairs, args.html)
    show = _print_json if args.json else _print_csv if args.csv else _print_tables
    show(args, pairs, results)
    return pairs.exit_code()


def _check_targets(args: argparse.Namespace) -> None:
    """What cannot be written is said before the work, not after it."""
    for target in (args.figure, args.panel):
        if target is not None:
            from ..figures import check_ending, figure_path

            check_ending(figure_path(target))
    if args.panel is not None and (args.reference.is_dir() or len(args.images) > MOST_SIDE_BY_SIDE):
        raise UsageError(
            f"--panel: for one REF and up to {MOST_SIDE_BY_SIDE} IMG, got {len(args.images)} of a "
            f"{'folder' if args.reference.is_dir() else 'picture'}"
        )
    if args.panel is not None:
        for place, image in enumerate(args.images):
            if image in args.images[:place]:
                raise UsageError(f"--panel: IMG must be different pictures, got {image} twice")
    if args.html_pictures is not None and args.html is None:
        raise UsageError("--html-pictures: only with --html")
    if args.html is not None and args.html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html must be a file that ends in .html, got {args.html}")


def _figure_paths(target: Path | None, pairs: Pairs) -> list[Path | None]:
    """One file for one image; for several, the number and name of each are put before the ending."""
    if target is None or len(pairs.all) == 1:
        return [target] * len(pairs.all)
    return [target.with_name(f"{target.stem}-{pair.place + 1}-{pair.image.stem}{target.suffix}") for pair in pairs.all]


def _draw(pair: Pair, reference: Tensor, image: Tensor, relation: Relation, target: Path) -> None:
    from ..figures import figure_path, relation_figure
    from ..images import readable

    title = f"{readable(pair.image.name)}: distance {float(relation.distance):.4g}"
    relation_figure(reference, image, relation, target, title=title)
    note(f"figure: {figure_path(target)}")


def _labels(images: Sequence[Path]) -> dict[Path, str]:
    """Names of different images, or their whole paths where two have one name."""
    from ..images import readable

    alike = len({image.stem for image in images}) < len(images)
    return {image: readable(str(image) if alike else image.stem) for image in images}


def _draw_panel(reference: Tensor, outputs: dict[str, tuple[Tensor, Relation]], target: Path) -> None:
    from ..figures import figure_path
    from ..figures_methods import methods_figure

    methods_figure(reference, outputs, target)
    note(f"figure: {figure_path(target)}")


def _new_report(args: argparse.Namespace) -> Report:
    from .. import __version__
    from ..report import PICTURES, Report

    title = f"{', '.join(path.name or str(path) for path in args.images[:3])}{' …' if len(args.images) > 3 else ''}"
    return Report(
        f"{title} compared with {args.reference.name or args.reference}",
        f"relqa_loss {__version__}, weights {args.weights}",
        pictures=PICTURES if args.html_pictures is None else args.html_pictures,
    )


def _add(report: Report, pair: Pair, reference: Tensor, image: Tensor, relation: Relation, decibels: float) -> None:
    name = pair.image.name if pair.group is None else f"{pair.group.name}/{pair.image.name}"
    group = f"all, against {pair.reference.name}" if pair.group is None else str(pair.group)
    report.add(name, image, pair.reference.name, reference, relation, psnr=decibels, group=group)


def _write_page(report: Report, pairs: Pairs, target: Path) -> None:
    for image, reason in pairs.skipped:
        report.skip(image, reason)
    write_whole(target, report.html())
    note(f"page: {target}")


def _best(results: list[Judged]) -> dict[Path, float]:
    """Smallest distance to each original."""
    best: dict[Path, float] = {}
    for item in results:
        reference = item.pair.reference
        best[reference] = min(best.get(reference, item.distance), item.distance)
    return best


def _summaries(results: list[Judged]) -> list[dict[str, Any]]:
    """One for each folder."""
    folders: dict[Path, list[Judged]] = {}
    for item in results:
        if item.pair.group is not None:
            folders.setdefault(item.pair.group, []).append(item)
    return [
        {
            "folder": str(folder),
            "pictures": len(items),
            "mean_distance": statistics.fmean(item.distance for item in items),
            "median_distance": statistics.median(item.distance for item in items),
            "largest_distance": (worst := max(items, key=lambda item: item.distance)).distance,
            "worst": str(worst.pair.image),
            "mean_psnr": statistics.fmean(item.psnr for item in items),
        }
        for folder, items in folders.items()
    ]


def _print_json(args: argparse.Namespace, pairs: Pairs, results: list[Judged]) -> None:
    best = _best(results)
    summary = {"summary": _summaries(results)} if pairs.folders else {}
    print_json(
        {
            "reference": str(args.reference),
            "weights": args.weights,
            "images": [_as_dict(item, best[item.pair.reference]) for item in results],
            **summary,
            "skipped": pairs.skipped_rows(),
        }
    )


def _as_dict(item: Judged, best: float) -> dict[str, Any]:
    from ..relation import AXES
    from ..words import in_words

    return {
        "image": str(item.pair.image),
        "reference": str(item.pair.reference),
        "distance": item.distance,
        "score_vs_best": best - item.distance,
        "psnr": item.psnr,
        "floor": item.floor,
        "parts": dict(zip(AXES, item.parts, strict=True)),
        "dominant": [
            {"axis": axis, "part": part, "direction": direction, "words": in_words(axis, direction)}
            for axis, part, direction in item.axes
        ],
    }


def _print_csv(args: argparse.Namespace, pairs: Pairs, results: list[Judged]) -> None:
    from ..relation import AXES

    rows = [[r.pair.image, r.pair.reference, r.distance, r.psnr, r.floor, *r.parts] for r in results]
    print_csv(["image", "reference", "distance", "psnr", "floor", *AXES], rows)


def _print_tables(args: argparse.Namespace, pairs: Pairs, results: list[Judged]) -> None:
    from ..words import in_words

    best = _best(results)
    rows = []
    for item in results:
        seen = ", ".join(f"{in_words(axis, direction)} ({part:.3g})" for axis, part, direction in item.axes)
        rows.append(
            [
                str(item.pair.image),
                f"{item.distance:.4g}",
                f"{best[item.pair.reference] - item.distance:.4g}",
                f"{item.psnr:.2f}",
                seen or "no difference",
            ]
        )
    print_table(["image", "distance", "score vs best", "PSNR dB", "most visible, compared with the reference"], rows)
    if not pairs.folders:
        return
    print()
    print_table(
        ["folder", "pictures", "mean distance", "median", "largest", "of", "mean PSNR dB"],
        [
            [
                each["folder"],
                str(each["pictures"]),
                *(f"{each[key]:.4g}" for key in ("mean_distance", "median_distance", "largest_distance")),
                Path(each["worst"]).name,
                f"{each['mean_psnr']:.2f}",
            ]
            for each in _summaries(results)
        ],
    )


def run_rank(args: argparse.Namespace) -> int:
    """Nearest first; equal distances keep the order they were given in."""
    import torch

    from ..evaluation.psnr import psnr

    if args.reference.is_dir():
        raise ValueError(f"REF must be one picture, got the folder {args.reference}; relqa select compares folders")
    pairs = Pairs(args.reference, args.images)
    loss_fn = make_loss(args)
    results = []
    for pair, reference, image in pairs:
        with torch.no_grad():
            relation = relate(loss_fn, image, reference, args.device)
            results.append(judge(pair, relation, psnr(image, reference), 0))
    results.sort(key=lambda item: item.distance)
    if args.csv:
        print_csv(
            ["rank", "image", "distance", "psnr"],
            [[k, r.pair.image, r.distance, r.psnr] for k, r in enumerate(results, 1)],
        )
        return pairs.exit_code()
    if args.json:
        rows = [
            {"rank": k, "image": str(r.pair.image), "distance": r.distance, "psnr": r.psnr}
            for k, r in enumerate(results, 1)
        ]
        print_json(
            {
                "reference": str(args.reference),
                "weights": args.weights,
                "ranking": rows,
                "skipped": pairs.skipped_rows(),
            }
        )
        return pairs.exit_code()
    print_table(
        ["rank", "image", "distance", "PSNR dB"],
        [[str(k), str(r.pair.image), f"{r.distance:.4g}", f"{r.psnr:.2f}"] for k, r in enumerate(results, 1)],
    )
    return pairs.exit_code()
