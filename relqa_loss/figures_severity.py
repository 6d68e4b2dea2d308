"""Figure of severity curves, before and after calibration (extra ``figures``: matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .images import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER = "#8a8a8a", "#e08214"

COLUMNS = 8

Curves = dict[str, Sequence[float]]
"""Operator -> visibility at evenly spaced severities from 0 to 1."""


def curve_figure(before: Curves, after: Curves, targets: Sequence[float] | None = None) -> Figure:
    """All curves before and after, with the middle 80 % of operators shaded, and one small panel an operator.

    Args:
        before: operator -> visibility at evenly spaced severities, evenly through the span.
        after: the same, calibrated.
        targets: the common visibility at these severities, drawn dashed; None for the operators' median.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "figures") from error
    rows = math.ceil(len(after) / COLUMNS)
    figure = Figure(figsize=(14, 4.2 + 1.25 * rows), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[4.2, 1.25 * rows])
    upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    common = np.median(list(after.values()), axis=0).tolist() if targets is None else list(targets)
    overlays = upper.subplots(1, 2, sharey=True)
    for axes, curves, title, colour in (
        (overlays[0], before, "before: evenly through the span", BEFORE),
        (overlays[1], after, "after: calibrated severity", AFTER),
    ):
        _overlay(axes, curves, common, colour)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("severity", fontsize=8)
    overlays[0].set_ylabel("visibility (rank within the panel)", fontsize=8)
    panels = np.atleast_2d(lower.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False))
    knots = np.linspace(0, 1, len(common))
    for axes in panels.flat[len(after) :]:
        axes.set_axis_off()
    for axes, name in zip(panels.flat, sorted(after), strict=False):
        axes.plot(knots, common, color="black", linewidth=0.6, linestyle="--")
        axes.plot(knots, before[name], color=BEFORE, linewidth=1)
        axes.plot(knots, after[name], color=AFTER, linewidth=1.4)
        axes.set_title(name, fontsize=7, pad=2)
        axes.tick_params(labelsize=6, length=2)
        axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def _overlay(axes: Axes, curves: Curves, common: Sequence[float], colour: str) -> None:
    knots = np.linspace(0, 1, len(common))
    heights = np.array(list(curves.values()), dtype=float)
    low, high = np.quantile(heights, (0.1, 0.9), axis=0)
    axes.fill_between(knots, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(knots, heights.T, color=colour, linewidth=0.6, alpha=0.8)
    axes.plot(knots, common, color="black", linewidth=1, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
