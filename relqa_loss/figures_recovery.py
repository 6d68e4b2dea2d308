"""Sheet of pictures that descents brought back (extra ``figures``: matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .figures import _figure, _photo
from .figures_failures import WEBP_DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 400_000
"""Bytes that the sheet may take: it is committed beside the figures it shows."""

GAP, CAPTION, HEAD, MARGIN = 6, 18, 26, 28
"""Pixels between pictures, for the line below each, for the titles of the columns, for those of the rows."""


def recovery_sheet(
    rows: Mapping[str, Sequence[tuple[str, Tensor, str]]],
) -> Figure:
    """One row a start, one column a picture, each pixel of a picture one pixel of the sheet at ``WEBP_DPI``.

    Any other scale would draw grids of its own over pictures that are looked at for grids and grain.

    Args:
        rows: title of the row -> (title of the column, (3, H, W) in [0, 1], line below the picture); the titles of the
            first row stand for all.

    Raises:
        ValueError: no rows, rows of different length, pictures of a wrong shape or of different sizes.
        MissingExtra: matplotlib is not installed.
    """
    lengths = {len(row) for row in rows.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"rows must hold pictures, equally many each, got {sorted(lengths) or 'none'}")
    columns = lengths.pop()
    photos = [[_photo("picture", picture) for _, picture, _ in row] for row in rows.values()]
    sizes = {tuple(photo.shape[:2]) for line in photos for photo in line}
    if len(sizes) != 1:
        raise ValueError(f"pictures must have one size, got {sorted(sizes)}")
    high, wide = sizes.pop()
    width = MARGIN + columns * (wide + GAP)
    height = HEAD + len(rows) * (high + CAPTION + GAP)
    figure = _figure(width / WEBP_DPI, height / WEBP_DPI)
    figure.set_dpi(WEBP_DPI)
    figure.set_layout_engine("none")
    for y, (title, row) in enumerate(rows.items()):
        top = height - HEAD - y * (high + CAPTION + GAP)
        figure.text(
            MARGIN / 2 / width, (top - high / 2) / height, title, rotation=90, fontsize=9, ha="center", va="center"
        )
        for x, (head, _, caption) in enumerate(row):
            left = MARGIN + x * (wide + GAP)
            axes = figure.add_axes((left / width, (top - high) / height, wide / width, high / height))
            axes.imshow(photos[y][x].numpy(), interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            middle = (left + wide / 2) / width
            figure.text(middle, (top - high - 3) / height, caption, fontsize=8, ha="center", va="top")
            if y == 0:
                figure.text(middle, (height - HEAD / 2) / height, head, fontsize=9, ha="center", va="center")
    return figure
