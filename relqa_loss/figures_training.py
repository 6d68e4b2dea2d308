"""Training curves from the metrics logs of runs (extra ``figures``: matplotlib)."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import NARROW, WIDE, _figure, _finish
from .validation import unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING = "training"
VALIDATION = "validation_"
"""What begins the name of a figure taken on validation photographs."""

RUN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, for readers who see colours in any of the common ways."""
LEFT_OUT = ("seconds",)
FEW = 30
"""Points up to which each is marked."""
STEEP = 50.0
"""Largest over smallest value from which on a panel is logarithmic."""

Points = list[tuple[float, float]]


def training_curves(
    metrics: str | Path | Mapping[str, str | Path],
    path: str | Path | None = None,
    *,
    names: Collection[str] | None = None,
    width: float = WIDE,
) -> Figure:
    """Every number of metrics logs over the training step: a panel each, what was validated dashed in the same panel.

    Args:
        metrics: a log with one JSON object a line: ``step`` and any numbers, e.g. ``loss``; or label -> log of several
            runs, up to six, which share the panels.
        path: where to write the figure; its ending picks the format (SVG and PDF keep text as text). None writes
            nothing.
        names: the numbers to draw, without ``validation_``; all but the seconds if None.
        width: in inches.

    Raises:
        FileNotFoundError: no such log.
        ValueError: a broken line before the last (the last may be half written), no step with a number, a name that no
            log has, no log, or more than six.
        MissingExtra: matplotlib is not installed.
    """
    logs = dict(metrics) if isinstance(metrics, Mapping) else {TRAINING: metrics}
    if not 1 <= len(logs) <= len(RUN_COLOURS):
        raise ValueError(f"metrics must hold 1 to {len(RUN_COLOURS)} logs, got {len(logs)}")
    runs = {label: _read_curves(Path(log)) for label, log in logs.items()}
    found = list(dict.fromkeys(name.removeprefix(VALIDATION) for curves in runs.values() for name in curves))
    for name in names or ():
        if name not in found:
            raise ValueError(unknown_name("number", name, found))
    shown = [name for name in found if (name not in LEFT_OUT if names is None else name in names)]
    columns = min(len(shown), 3 if width > (WIDE + NARROW) / 2 else 2)
    rows = math.ceil(len(shown) / columns)
    figure = _figure(width, rows * 1.5 + 0.5)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, name in zip(panels, shown, strict=False):
        for (label, curves), colour in zip(runs.items(), RUN_COLOURS, strict=False):
            _draw(panel, curves.get(name), colour, label, "-")
            _draw(
                panel,
                curves.get(VALIDATION + name),
                colour,
                "validation" if label == TRAINING else f"{label}, validation",
                "--",
            )
        _dress(panel, name)
    for panel in panels[max(0, len(shown) - columns) : len(shown)]:
        panel.set_xlabel("step", fontsize=8)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    lines = {line.get_label(): line for panel in panels for line in panel.lines}
    if len(lines) > 1:
        across = 4 if columns == 3 else 2
        figure.legend(
            list(lines.values()), list(lines), loc="outside lower center", ncols=across, fontsize=8, frameon=False
        )
    return _finish(figure, path)


def _draw(panel: Axes, points: Points | None, colour: str, label: str, style: str) -> None:
    if not points:
        return
    steps, values = zip(*points, strict=True)
    marker = "." if len(points) <= FEW else None
    panel.plot(steps, values, color=colour, linestyle=style, linewidth=1.1, marker=marker, markersize=4, label=label)


def _dress(panel: Axes, name: str) -> None:
    values = [value for line in panel.lines for value in np.asarray(line.get_ydata(), dtype=float)]
    if min(values) > 0 and max(values) > STEEP * min(values):
        panel.set_yscale("log")
    else:
        panel.locator_params(axis="y", nbins=4)
    panel.locator_params(axis="x", nbins=4)
    panel.set_title(name, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(True, linewidth=0.4, alpha=0.5)
    panel.spines[["top", "right"]].set_visible(False)


def _read_curves(log: Path) -> dict[str, Points]:
    """Name -> (step, value) points in order of the log; booleans, texts and non-finite numbers are left out."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    curves: dict[str, Points] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record: Any = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                continue
            raise ValueError(f"{log}, line {number} is not JSON: {error.msg}") from error
        if not isinstance(record, dict) or "step" not in record:
            continue
        for name, value in record.items():
            number_like = isinstance(value, int | float) and not isinstance(value, bool)
            if name != "step" and number_like and math.isfinite(value):
                curves.setdefault(name, []).append((record["step"], value))
    if not curves:
        raise ValueError(f"{log} holds no line with a step and a number")
    return curves
