"""``relqa compare`` and ``relqa rank``: pictures against their reference."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Commands, add_loss_arguments, check_size, command, make_loss, note, print_json, print_table

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


class Pictures:
    """A reference and the pictures that can be compared with it; the others are named on stderr and counted.

    Args:
        reference: file of the original.
        paths: files of the pictures.

    Raises:
        ValueError: the reference cannot be used.
    """

    def __init__(self, reference: Path, paths: list[Path]) -> None:
        from ..images import read_each

        ((_, original),) = read_each([reference])
        if isinstance(original, str):
            raise ValueError(original if str(reference) in original else f"{reference}: {original}")
        self.reference = original
        self.skipped: list[tuple[str, str]] = []
        self._name = reference
        self._paths = paths

    def __iter__(self) -> Iterator[tuple[int, Path, Tensor]]:
        """(place among the paths, path, image (3, H, W)), read one by one.

        Raises:
            ValueError: not one picture can be compared.
        """
        from ..images import read_each

        self.skipped = []
        for place, (path, image) in enumerate(read_each(self._paths)):
            reason = image if isinstance(image, str) else self._misfit(path, image)
            if isinstance(image, str) or reason:
                self.skipped.append((str(path), reason))
                # A single picture that fails is the error of the command, which says it once.
                if len(self._paths) > 1:
                    note(f"skipped {path}: {reason}")
            else:
                yield place, path, image
        if len(self.skipped) == len(self._paths):
            name, reason = self.skipped[0]
            if len(self._paths) == 1:
                raise ValueError(reason if name in reason else f"{name}: {reason}")
            raise ValueError(f"none of the {len(self._paths)} pictures can be compared with {self._name}")

    def _misfit(self, path: Path, image: Tensor) -> str:
        try:
            check_size(path, image, self._name, self.reference)
        except ValueError as error:
            return str(error)
        return ""

    def skipped_rows(self) -> list[dict[str, str]]:
        """The skipped pictures, for JSON."""
        return [{"image": path, "reason": reason} for path, reason in self.skipped]

    def exit_code(self) -> int:
        """1 if a picture was skipped, else 0."""
        return 1 if self.skipped else 0


def judge(
    loss_fn: RelationalLoss,
    reference: Tensor,
    path: Path,
    image: Tensor,
    device: str,
    axes: int,
    figure: Path | None = None,
) -> Judged:
    """Compare one picture (3, H, W) with the reference of its size, and draw it where asked.

    Only numbers are kept: the maps of many large pictures would not fit into memory.
    """
    import torch

    from ..evaluation.psnr import psnr
    from ..words import strongest

    with torch.no_grad():
        relation = loss_fn.relate(image[None].to(device), reference[None].to(device))
        found = strongest(relation, axes) if axes else []
    distance = float(relation.distance)
    if figure is not None:
        from ..figures import figure_path, relation_figure

        relation_figure(reference, image, relation, figure, title=f"{path.name}: distance {distance:.4g}")
        note(f"figure: {figure_path(figure)}")
    return Judged(path, distance, psnr(image, reference), float(relation.floor), relation.parts[0].tolist(), found)


def run_compare(args: argparse.Namespace) -> int:
    """Table or JSON, and figures."""
    from ..relation import AXES
    from ..words import in_words

    pictures = Pictures(args.reference, args.images)
    loss_fn = make_loss(args)
    axes = len(AXES) if args.json else SHOWN_AXES
    targets = _figure_paths(args.figure, args.images)
    results = [
        judge(loss_fn, pictures.reference, path, image, args.device, axes, targets[place])
        for place, path, image in pictures
    ]
    best = min(item.distance for item in results)
    if args.json:
        print_json(
            {
                "reference": str(args.reference),
                "weights": args.weights,
                "images": [_as_dict(r, best) for r in results],
                "skipped": pictures.skipped_rows(),
            }
        )
        return pictures.exit_code()
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
    return pictures.exit_code()


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
    pictures = Pictures(args.reference, args.images)
    loss_fn = make_loss(args)
    results = sorted(
        (judge(loss_fn, pictures.reference, path, image, args.device, 0) for _, path, image in pictures),
        key=lambda item: item.distance,
    )
    if args.json:
        rows = [
            {"rank": k, "image": str(r.path), "distance": r.distance, "psnr": r.psnr} for k, r in enumerate(results, 1)
        ]
        print_json(
            {
                "reference": str(args.reference),
                "weights": args.weights,
                "ranking": rows,
                "skipped": pictures.skipped_rows(),
            }
        )
        return pictures.exit_code()
    print_table(
        ["rank", "image", "distance", "PSNR dB"],
        [[str(k), str(r.path), f"{r.distance:.4g}", f"{r.psnr:.2f}"] for k, r in enumerate(results, 1)],
    )
    return pictures.exit_code()
