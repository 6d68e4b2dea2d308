"""Figure of what restorers make of one photograph (extra ``figures``: matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .figures import PANEL_INCHES, _figure, _finish, _photo, _show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def restoration_figure(rows: Mapping[str, Mapping[str, Tensor]], path: str | Path | None = None) -> Figure:
    """One row for each task, one column for each picture: the input, every loss, the reference.

    Args:
        rows: task -> title -> picture (3, H, W) in [0, 1].
        path: where to write it, or None.

    Raises:
        ValueError: no row, a picture of another form, or an unknown ending.
    """
    if not rows:
        raise ValueError("rows must hold at least one task, got none")
    columns = max(len(pictures) for pictures in rows.values())
    figure = _figure(PANEL_INCHES * columns, PANEL_INCHES * 1.15 * len(rows))
    for row, (task, pictures) in enumerate(rows.items()):
        for column, (title, picture) in enumerate(pictures.items()):
            axes = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            _show(axes, _photo(title, picture), f"{task}: {title}" if column == 0 else title)
    return _finish(figure, path)
