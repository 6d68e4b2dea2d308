"""What the commands share: arguments, tables, JSON, notes."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..files import write_whole
from ..losses import DEFAULT_WEIGHTS, Reduction, RelationalLoss
from .progress import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

EXTRAS = {
    "PIL": "images",
    "imagecodecs": "deep",
    "tifffile": "deep",
    "matplotlib": "figures",
    "lightning": "lightning",
    "piq": "benchmark",
    "scipy": "benchmark",
    "openpyxl": "benchmark",
    "pytorch_msssim": "benchmark",
    "stlpips_pytorch": "jury",
    "pycvvdp": "jury",
    "ssimulacra2": "jury",
    "flip_evaluator": "jury",
}
"""Optional module -> the extra that brings it."""

LARGE, TILE = 4_000_000, 1024
"""Pixels above which a picture is compared in tiles, and their side: the values of one pass, in bounded memory."""

Commands = Any
"""argparse keeps the class of ``add_subparsers()``'s result private."""


class UsageError(ValueError):
    """Arguments that are missing or do not go together, where argparse cannot see it: exit code 2, as for its own."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, like every other error; ``--help`` has the usage."""

    def error(self, message: str) -> NoReturn:
        """End with code 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]  # narrower than typeshed's overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse what is unknown here: argparse would name the program and its help, not the command's."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def debug_flag() -> argparse.ArgumentParser:
    """Parent parser with ``--debug``, accepted before and after the command."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    return parent


def command(commands: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    """A new command with the shared flags."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, parents=[debug_flag()]
    )
    return parser


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """``--weights``."""
    parser.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        help=f"bundled name, folder, or owner/name[@revision] on the Hub (default: {DEFAULT_WEIGHTS})",
    )


def add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """``--weights`` and ``--device``, for commands that judge images."""
    add_weights_argument(parser)
    parser.add_argument("--device", default="cpu", help="where to compute, e.g. cuda (default: cpu)")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--csv``, of which one may be given."""
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="print JSON instead of a table")
    kinds.add_argument("--csv", action="store_true", help="print comma-separated values instead of a table")


def make_loss(args: argparse.Namespace, reduction: Reduction = "mean") -> RelationalLoss:
    """The loss of ``--weights`` on ``--device``."""
    return RelationalLoss(args.weights, reduction=reduction).to(args.device)


def set_threads(threads: int | None) -> None:
    """Set torch's CPU threads; None leaves them.

    Raises:
        ValueError: under 1.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


def names(text: str, between: str = ",") -> list[str]:
    """The names in an option's text, without empty ones; refused if none is left."""
    found = [name.strip() for name in text.split(between) if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"must hold at least one value, got {text!r}")
    return found


def named(path: Path, reason: str) -> str:
    """Why a file cannot be used, with its path unless the reason names it."""
    return reason if str(path) in reason else f"{path}: {reason}"


def check_size(path: Path, image: Tensor, reference_path: Path, reference: Tensor) -> None:
    """ValueError that names both files, unless an image (3, H, W) has the size of its reference."""
    from ..pairing import misfit

    reason = misfit(path, image, reference_path, reference)
    if reason:
        raise ValueError(reason)


def tile_for(image: Tensor) -> int | None:
    """Side of the tiles an image (3, H, W) is compared in, or None where one pass fits into memory."""
    return TILE if image.shape[1] * image.shape[2] > LARGE else None


def missing_module(error: ImportError) -> str:
    """One line for a module that is not installed, with the extra that brings it where there is one."""
    root = (error.name or "").partition(".")[0]
    if root in EXTRAS:
        return f'this needs {root}: pip install "relqa_loss[{EXTRAS[root]}]"'
    return str(error)


def one_line(message: str) -> str:
    """A message on one line; of a traceback inside it (a data worker's error carries one) only the last line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") or "Original Traceback" in line for line in lines):
        lines = lines[-1:]
    return " ".join(" ".join(lines).split())


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns padded to their widest cell; columns of numbers stand right, texts left."""
    numeric = [all(_is_number(row[k]) for row in rows) and bool(rows) for k in range(len(header))]
    widths = [max(len(line[k]) for line in (header, *rows)) for k in range(len(header))]
    for line in (header, *rows):
        cells = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        print("  ".join(cells).rstrip())


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell in ("", "-")
    return True


def print_json(value: object) -> None:
    """Strict JSON on stdout: numbers that are not finite become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def print_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Comma-separated values on stdout, numbers with all their digits; what is not finite stays as Python writes it."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


def write_json(path: Path, value: object) -> None:
    """The same JSON into a file, which holds all of it or what it held before."""
    text = json.dumps(_finite(value), indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_whole(path, text)
    note(f"written: {path}")


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def note(text: str) -> None:
    """A remark for the reader, on stderr so that stdout stays what was asked for."""
    say(text)


def note_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    """Name and count the photographs that were left out."""
    items = list(skipped)
    for name, reason in items:
        note(f"skipped {name}: {reason}")
    if items:
        note(f"{len(items)} photograph{'s' if len(items) > 1 else ''} skipped")
