"""Figure of several outputs for one original, side by side (extra ``figures``: matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .figures import (
    GAP,
    GREY,
    HEAD,
    LEGEND,
    LETTERS_PER_INCH,
    MARGIN,
    TITLE,
    WIDE,
    _at,
    _figure,
    _finish,
    _photo,
    _show,
    _show_map,
    colour_limit,
)
from .figures_training import RUN_COLOURS
from .relation import AXES, Relation, axis_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_METHODS = 5
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
"""Beside the colours, so that bars can be told apart in print without any."""
MOST_AXES = 6
BARS_HIGH, SCALE = 1.3, 0.55
"""Inches of the bars, and of the scale left of them."""


def methods_figure(
    ref: Tensor,
    outputs: Mapping[str, tuple[Tensor, Relation]],
    path: str | Path | None = None,
    *,
    axis: str | None = None,
    title: str | None = None,
    width: float = WIDE,
) -> Figure:
    """The original and each output, below each the signed map of one axis, below all their distances split by axis.

    Args:
        ref: (3, H, W) in [0, 1].
        outputs: name -> (image (3, H, W) in [0, 1], ``loss_fn.relate`` of it with ``ref``), one to five.
        path: where to write the figure; its ending picks the format (SVG and PDF keep text as text). None writes
            nothing.
        axis: whose maps; by default the one that adds most to all the distances together.
        title: headline; none by default.
        width: in inches.

    Raises:
        ValueError: no output or more than five, pictures of another shape, or an unknown axis.
        MissingExtra: matplotlib is not installed.
    """
    if not 1 <= len(outputs) <= MOST_METHODS:
        raise ValueError(f"outputs must hold 1 to {MOST_METHODS} pictures, got {len(outputs)}")
    original = _photo("ref", ref)
    photos = {name: _photo(name, image) for name, (image, _) in outputs.items()}
    for name, photo in photos.items():
        if photo.shape != original.shape:
            raise ValueError(
                f"{name} must have the size of ref, {tuple(original.shape[:2])}, got {tuple(photo.shape[:2])}"
            )
    relations = {name: relation for name, (_, relation) in outputs.items()}
    parts = {name: relation.parts[0].detach().float().cpu() for name, relation in relations.items()}
    together = sum(parts.values(), start=parts[next(iter(parts))] * 0)
    chosen = AXES[int(together.argmax())] if axis is None else AXES[axis_index(axis)]
    columns = 1 + len(outputs)
    head = HEAD if title else MARGIN
    across = (width - MARGIN) / columns - GAP
    down = across * original.shape[0] / original.shape[1]
    second = head + 2 * TITLE + down + TITLE
    third = second + TITLE + down + LEGEND
    figure = _figure(width, third + BARS_HIGH + 2 * TITLE, paper=True)
    lefts = [MARGIN + k * (across + GAP) for k in range(columns)]
    _show(_at(figure, lefts[0], head + 2 * TITLE, across, down), original, "reference", size=8)
    limit = colour_limit([relation[chosen][0] for relation in relations.values()])
    for left, (name, photo) in zip(lefts[1:], photos.items(), strict=True):
        # Of a path the end tells more than the beginning.
        letters = round(across * LETTERS_PER_INCH)
        caption = name if len(name) <= letters else f"…{name[1 - letters :]}"
        distance = float(relations[name].distance[0].detach())
        top = _at(figure, left, head + 2 * TITLE, across, down)
        _show(top, photo, f"{caption}\ndistance {distance:.3g}", size=8)
        below = _at(figure, left, second + TITLE, across, down)
        _show_map(figure, below, photo, relations[name][chosen][0], chosen, limit)
    order = together.argsort(descending=True)[:MOST_AXES].tolist()
    bars = _at(figure, SCALE, third + TITLE, width - SCALE - MARGIN, BARS_HIGH)
    _grouped_bars(bars, {name: {AXES[k]: float(one[k]) for k in order} for name, one in parts.items()})
    if title:
        figure.suptitle(title, fontsize=10)
    return _finish(figure, path)


def _grouped_bars(axes: Axes, values: Mapping[str, Mapping[str, float]]) -> None:
    """One group an axis, one bar an output."""
    names = list(next(iter(values.values())))
    height = 0.8 / len(values)
    for k, (label, parts) in enumerate(values.items()):
        places = [n + (k - (len(values) - 1) / 2) * height for n in range(len(names))]
        axes.bar(
            places,
            [parts[name] for name in names],
            width=height,
            color=RUN_COLOURS[k],
            hatch=HATCHES[k],
            edgecolor="white",
            linewidth=0.4,
            label=label,
        )
    axes.set_xticks(range(len(names)), labels=names, fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.locator_params(axis="y", nbins=4)
    axes.set_ylabel("part of the distance", fontsize=7)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        fontsize=7, frameon=False, ncols=len(values), loc="lower left", bbox_to_anchor=(0, 0.98), borderaxespad=0
    )
