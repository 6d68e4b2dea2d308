"""``relqa compare`` and ``relqa rank``: pictures against their reference."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Commands, add_loss_arguments, command, make_loss, note, print_json, print_table

if TYPE_CHECKING:
    from torch import Tensor

    from ..losses import RelationalLoss

SHOWN_AXES = 3


@dataclass(frozen=True)
class Judged:
    """One picture compared with the reference; ``axes`` holds (axis, part, direction), strongest first."""

    path: Path
    distance: float
    psnr: float
    floor: float
    parts: list[float]
    axes: list[tuple[str, float, float]]


def add_commands(commands: Commands) -> None:
    """Register ``compare`` and ``rank``."""
    one = command(commands, "compare", "How far pictures are from a reference, and in what they differ.")
    one.add_argument("reference", metavar="REF", type=Path, help="the original")
    one.add_argument("images", metavar="IMG", type=Path, nargs="+", help="pictures of the same size")
    one.add_argument("--json", action="store_true", help="print JSON instead of a table")
    one.add_argument("--figure", type=Path, help="write maps and the split by axis; one file for each IMG")
    add_loss_arguments(one)
    one.set_defaults(run=run_compare)
    two = command(commands, "rank", "Order pictures by their distance to a reference, nearest first.")
    two.add_argument("reference", metavar="REF", type=Path, help="the original")
    two.add_argument("images", metavar="IMG", type=Path, nargs="+", help="pictures of the same size")
    two.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_loss_arguments(two)
    two.set_defaults(run=run_rank)


def judge(
    loss_fn: RelationalLoss, reference: Tensor, path: Path, device: str, axes: int, figure: Path | None = None
) -> Judged:
    """Compare one file with the reference (3, H, W), and draw it where asked.

    Only numbers are kept: the maps of many large pictures would not fit into memory.

    Raises:
        ValueError: the file cannot be read, or has another size.
    """
    import torch

    from ..images import read_image
    from ..words import strongest

    image = read_image(path)
    if image.shape != reference.shape:
        raise ValueError(
            f"{path} is {image.shape[2]}x{image.shape[1]} pixels, "
            f"the reference {reference.shape[2]}x{reference.shape[1]}: they must have one size"
        )
    with torch.no_grad():
        relation = loss_fn.relate(image[None].to(device), reference[None].to(device))
        found = strongest(relation, axes) if axes else []
    error = float((image.double() - reference.double()).square().mean())
    psnr = -10 * math.log10(error) if error > 0 else math.inf
    distance = float(relation.distance)
    if figure is not None:
        from ..figures import relation_figure

        relation_figure(reference, image, relation, figure, title=f"{path.name}: distance {distance:.4g}")
        note(f"figure: {figure}")
    return Judged(path, distance, psnr, float(relation.floor), relation.parts[0].tolist(), found)


def run_compare(args: argparse.Namespace) -> int:
    """Table or JSON, and figures."""
    from ..images import read_image
    from ..relation import AXES
    from ..words import in_words

    reference = read_image(args.reference)
    loss_fn = make_loss(args)
    axes = len(AXES) if args.json else SHOWN_AXES
    targets = _figure_paths(args.figure, args.images)
    results = [
        judge(loss_fn, reference, path, args.device, axes, target)
        for path, target in zip(args.images, targets, strict=True)
    ]
    best = min(item.distance for item in results)
    if args.json:
        print_json(
            {"reference": str(args.reference), "weights": args.weights, "images": [_as_dict(r, best) for r in results]}
        )
        return 0
    rows = []
    for item in results:
        seen = ", ".join(f"{in_words(axis, direction)} ({part:.3g})" for axis, part, direction in item.axes)
        rows.append(
            [
                str(item.path),
                f"{item.distance:.4g}",
                f"{best - item.distance:.4g}",
                f"{item.psnr:.2f}",
                seen or "no difference",
            ]
        )
    print_table(["image", "distance", "score vs best", "PSNR dB", "most visible, compared with the reference"], rows)
    return 0


def _figure_paths(target: Path | None, images: list[Path]) -> list[Path | None]:
    """One file for one image; for several, the number and name of each are put before the ending."""
    if target is None or len(images) == 1:
        return [target] * len(images)
    return [target.with_name(f"{target.stem}-{k}-{path.stem}{target.suffix}") for k, path in enumerate(images, start=1)]


def _as_dict(item: Judged, best: float) -> dict[str, Any]:
    from ..relation import AXES
    from ..words import in_words

    return {
        "image": str(item.path),
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


def run_rank(args: argparse.Namespace) -> int:
    """Nearest first; equal distances keep the order they were given in."""
    from ..images import read_image

    reference = read_image(args.reference)
    loss_fn = make_loss(args)
    results = sorted(
        (judge(loss_fn, reference, p, args.device, 0) for p in args.images), key=lambda item: item.distance
    )
    if args.json:
        rows = [
            {"rank": k, "image": str(r.path), "distance": r.distance, "psnr": r.psnr} for k, r in enumerate(results, 1)
        ]
        print_json({"reference": str(args.reference), "weights": args.weights, "ranking": rows})
        return 0
    print_table(
        ["rank", "image", "distance", "PSNR dB"],
        [[str(k), str(r.path), f"{r.distance:.4g}", f"{r.psnr:.2f}"] for k, r in enumerate(results, 1)],
    )
    return 0
