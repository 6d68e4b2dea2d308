"""Figure of how time and memory grow with pixels (extra ``figures``: matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import GREY, ORANGE, PURPLE, _figure, _finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = (("side", "one picture, its side doubles", ORANGE, "o"), ("batch", "batch doubles", PURPLE, "s"))
COSTS = (("ms", "time_exponent", "forward + backward, ms"), ("peak_mib", "memory_exponent", "peak memory, MiB"))


def growth_figure(report: Mapping[str, Any], path: str | Path | None = None) -> Figure:
    """Time and peak memory against pixels, both axes logarithmic, with each exponent in the legend.

    Args:
        report: of ``relqa benchmark growth``, as its JSON holds it.
        path: where to write it, if anywhere; the ending chooses the format (.svg and .pdf are vectors).

    Raises:
        MissingExtra: matplotlib is not installed.
        ValueError: a format that matplotlib cannot write.
    """
    figure = _figure(8.4, 3.6)
    for axes, (cost, exponent, label) in zip(figure.subplots(1, 2), COSTS, strict=True):
        _panel(axes, report, cost, exponent)
        axes.set_ylabel(label, fontsize=9)
    return _finish(figure, path)


def _panel(axes: Axes, report: Mapping[str, Any], cost: str, exponent: str) -> None:
    for key, words, colour, marker in SERIES:
        points = report[key]["points"]
        pixels, costs = [one["pixels"] for one in points], [one[cost] for one in points]
        label = f"{words}: exponent {report[key][exponent]:.2f}"
        axes.plot(pixels, costs, color=colour, marker=marker, markersize=4, linewidth=1.4, label=label)
    # What an exponent of 1 looks like, through the largest picture.
    first, last = report["side"]["points"][0], report["side"]["points"][-1]
    ends = first["pixels"], last["pixels"]
    proportional = [last[cost] * pixels / last["pixels"] for pixels in ends]
    axes.plot(ends, proportional, color=GREY, linewidth=0.8, linestyle="--", label="in proportion to pixels")
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("pixels in the batch", fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(True, linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
