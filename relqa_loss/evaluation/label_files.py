"""Label files and folders of published datasets: found whatever their case, read with errors that name the line."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from ..images import MissingExtra

Cell = str | float | None
"""Of a table of labels; a blank one is None."""

SHOWN = 5
"""How many file names an error shows."""


def find_file(root: Path, name: str, title: str) -> Path:
    """File of this name, whatever its case, directly in ``root``; ValueError that says what is missing."""
    for path in sorted(root.iterdir()):
        if path.name.lower() == name.lower() and path.is_file():
            return path
    raise ValueError(f"{title}: no label file {name} in {root}; root must be the folder that holds it")


def find_folder(root: Path, name: str) -> Path:
    """Folder of this name, whatever its case, directly in ``root``; ValueError that says what is missing."""
    for path in sorted(root.iterdir()):
        if path.name.lower() == name.lower() and path.is_dir():
            return path
    raise ValueError(f"no folder {name} in {root}")


def file_index(folder: Path) -> dict[str, Path]:
    """Files anywhere below a folder by their names in lower case; hidden ones are left out."""
    return {path.name.lower(): path for path in sorted(folder.rglob("*")) if not path.name.startswith(".")}


def missing_files(title: str, missing: Sequence[str], total: int, where: str) -> ValueError:
    """The error for images that labels name and that are not there."""
    shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
    return ValueError(f"{title}: {len(missing)} of {total} images are missing {where}: {shown}")


def check_sizes(distorted_file: Path, distorted: Tensor, reference_file: Path, reference: Tensor) -> None:
    """ValueError that names both files, unless the images (1, 3, H, W) have one size."""
    if distorted.shape != reference.shape:
        raise ValueError(
            f"{distorted_file} is {distorted.shape[3]}x{distorted.shape[2]} pixels, its reference {reference_file} "
            f"{reference.shape[3]}x{reference.shape[2]}"
        )


def to_number(labels: Path, number: int, text: object) -> float:
    """A finite number out of a label file; ValueError with the file and the line otherwise."""
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{labels}, line {number}: expected a number, got {text!r}")
    return value


def lines(labels: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1."""
    try:
        text = labels.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {labels}: {error}") from error
    for number, line in enumerate(io.StringIO(text), start=1):
        if line.strip():
            yield number, line.strip()


def columns(labels: Path, number: int, cells: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """The cells of one line, if there are as many as ``names``; ValueError with file and line otherwise."""
    if len(cells) != len(names):
        wanted = f"{len(names)} columns ({', '.join(names)})"
        raise ValueError(f"{labels}, line {number}: expected {wanted}, got {len(cells)}: {' '.join(cells)!r}")
    return cells


def image_name(labels: Path, number: int, image: str, pattern: str, title: str) -> re.Match[str]:
    """A file name matched against ``pattern``, whatever its case; ValueError with file and line otherwise."""
    match = re.fullmatch(pattern, image, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{labels}, line {number}: {image!r} is not the name of an image of {title}")
    return match


def type_name(labels: Path, number: int, kind: int, types: Sequence[str]) -> str:
    """Name of the distortion of number ``kind``, counted from 1; ValueError with file and line otherwise."""
    if not 1 <= kind <= len(types):
        raise ValueError(f"{labels}, line {number}: distortion types run from 1 to {len(types)}, got {kind}")
    return types[kind - 1]


def as_text(cell: Cell) -> str:
    """A cell as a file name has it: whole numbers without a point."""
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def read_sheet(path: Path, sheet: str) -> list[tuple[Cell, ...]]:
    """Rows of one sheet of an ``.xlsx`` workbook, from its first row and column on.

    Raises:
        ValueError: not a workbook, or no such sheet in it (the sheets there are named).
        MissingExtra: openpyxl is not installed.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise MissingExtra("openpyxl", "benchmark") from error
    try:
        # Not read_only: that mode believes the size that the file says of itself.
        book = load_workbook(path, data_only=True)
    except (zipfile.BadZipFile, SyntaxError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is not a workbook that can be read: {error}") from error
    sheets = {one.title: one for one in book.worksheets}
    if sheet not in sheets:
        raise ValueError(f"{path} has no sheet {sheet!r} (its sheets: {', '.join(sheets) or 'none'})")
    return list(sheets[sheet].iter_rows(min_row=1, min_col=1, values_only=True))


def matlab_vector(path: Path, key: str) -> list[object]:
    """Values of a MATLAB row or column; of a cell array of texts, the texts."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise MissingExtra("SciPy", "benchmark") from error
    try:
        content = loadmat(path)
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a MATLAB file that can be read: {error}") from error
    if key not in content:
        there = sorted(name for name in content if not name.startswith("__"))
        raise ValueError(f"{path} lacks {key!r} (it holds: {', '.join(there) or 'nothing'})")
    return [_unwrap(value) for value in content[key].ravel()]


def _unwrap(value: object) -> object:
    """A text out of the 1-element arrays that SciPy makes of the cells of a cell array."""
    while not isinstance(value, str | bytes) and isinstance(value, Iterable):
        inner = list(value)
        if len(inner) != 1:
            return value
        value = inner[0]
    return value
