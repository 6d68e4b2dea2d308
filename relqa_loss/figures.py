"""Figures: signed maps over a photograph, comparison panels, and what all figures share (extra ``figures``).

What draws returns a matplotlib ``Figure`` and, given a path, writes it to :func:`figure_path` of it; no display and no
global state are touched.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .files import write_whole
from .images import MissingExtra
from .relation import AXES, Relation
from .words import AXIS_WORDS, MIXED_BELOW, strongest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

DIVERGING = "PuOr_r"
"""Diverging map that colour-blind readers can tell apart (ColorBrewer PuOr): orange is positive, purple negative."""
ORANGE, PURPLE, GREY = "#e08214", "#8073ac", "#8a8a8a"
CLIP_QUANTILE = 0.995
"""Quantile of |map| at which the colours saturate, so that one hot pixel does not wash out the rest."""
PANEL_INCHES = 2.9
DPI = 130
WIDE, NARROW = 7.1, 3.45
"""Inches across two columns and one column of a paper: figures for one are drawn at that size, not shrunk to it."""
PAPER_DPI = 220
HEAD, TITLE, LEGEND, GAP, MARGIN = 0.32, 0.24, 0.62, 0.16, 0.08
"""Inches of a headline, of the title above a panel and the legend below it, between panels, and around them."""
LABELS, BARS, BARS_HIGH, UNDER_BARS = 0.95, 1.65, 1.9, 0.55
"""Inches of the names of bars, of the bars across and down, and of what stands below them."""
MOST_BARS = 10
"""Axes with a bar of their own; the others share one."""
SHORT_LEGEND = 22
"""Letters of both ends of a legend that fit on one line."""
LETTERS_PER_INCH = 14
"""Of a caption."""


def _figure(width: float, height: float, *, paper: bool = False) -> Figure:
    """An empty figure of a size in inches.

    Args:
        width: in inches.
        height: in inches.
        paper: at ``PAPER_DPI``, and what draws places everything itself with :func:`_at`.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "figures") from error
    figure = Figure(figsize=(width, height), dpi=PAPER_DPI if paper else DPI, layout=None if paper else "constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_path(path: str | Path) -> Path:
    """The file a figure is written to: ``path``, with ``.png`` put behind a name that has no ending."""
    path = Path(path)
    return path if path.suffix else path.with_name(f"{path.name.rstrip('.')}.png")


def check_ending(path: str | Path) -> None:
    """Raise unless a figure can be written to ``path``: cheap, before what takes long.

    Raises:
        ValueError: the ending names no format of matplotlib.
        MissingExtra: matplotlib is not installed.
    """
    # PGF keeps its pictures in further files.
    known = sorted(set(_figure(1, 1).canvas.get_supported_filetypes()) - {"pgf"})
    if Path(path).suffix[1:].lower() not in known:
        raise ValueError(f"cannot write the figure {Path(path).name!r}: the ending must be one of {', '.join(known)}")


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        import matplotlib

        target = figure_path(path)
        dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(target.suffix.lower())
        try:
            # Text stays text in SVG and PDF, and equal figures are equal bytes. savefig takes these from the global
            # settings only, which are put back at once.
            file = io.BytesIO()
            with matplotlib.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "relqa_loss"}):
                figure.savefig(file, format=target.suffix[1:].lower(), metadata=dated)
            write_whole(target, file.getvalue())
        except ValueError as error:
            raise ValueError(f"cannot write the figure {target}: {error}") from error
    return figure


def as_image_tag(figure: Figure) -> str:
    """A figure as an ``<img>`` that holds its PNG, at the size it has on paper."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="signed maps and the distance split by axis" style="width:{figure.get_figwidth()}in" ' + (
        f'src="data:image/png;base64,{text}">'
    )


def _photo(name: str, image: Tensor) -> Tensor:
    """(3, H, W) or (1, 3, H, W) in [0, 1] -> (H, W, 3) float on the CPU, clamped."""
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"{name} must have shape (3, H, W), got {tuple(image.shape)}")
    return image.detach().to("cpu", torch.float32).clamp(0, 1).permute(1, 2, 0)


def _at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner: legends and captions then have the room they need."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def _show(axes: Axes, pixels: Tensor, title: str, size: float = 9) -> None:
    axes.imshow(pixels.numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=size)
    axes.set_axis_off()
    axes.set_anchor("N")


def colour_limit(maps: Sequence[Tensor]) -> float:
    """One limit for all maps of a figure: colours that can be compared, and a map of almost nothing looks it."""
    limit = 1e-8
    for signed in maps:
        magnitude = signed.detach().abs().flatten().float()
        # A strided sample is enough, and torch.quantile refuses more than 2 ** 24 values.
        sample = magnitude[:: max(1, magnitude.numel() // 1_000_000)]
        limit = max(limit, float(torch.quantile(sample, CLIP_QUANTILE)), float(magnitude.max()) * 0.05)
    return limit


def _show_map(figure: Figure | SubFigure, axes: Axes, photo: Tensor, signed: Tensor, axis: str, limit: float) -> None:
    """One signed map over the greyscale photograph, with a zero-centred legend; zero is transparent."""
    signed = signed.detach().to("cpu", torch.float32)
    grey = photo.mean(dim=2)
    axes.imshow(grey.numpy(), cmap="gray", vmin=-0.3, vmax=1.3, interpolation="nearest")
    opacity = (signed.abs() / limit).clamp(0, 1).sqrt() * 0.85
    drawn = axes.imshow(
        signed.numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit, alpha=opacity.numpy(), interpolation="nearest"
    )
    axes.set_title(axis, fontsize=9)
    axes.set_axis_off()
    axes.set_anchor("N")
    from matplotlib.cm import ScalarMappable

    # Drawn from a mappable of its own: one made from the overlay would inherit its per-pixel opacity.
    # Inset, so that the map keeps the size of the photographs beside it.
    place = axes.inset_axes((0.03, -0.07, 0.94, 0.04))
    legend = figure.colorbar(ScalarMappable(drawn.norm, drawn.cmap), cax=place, orientation="horizontal")
    plus, minus = AXIS_WORDS[axis]
    legend.set_ticks([-limit, 0.0, limit], labels=[f"-{limit:.2g}", "0", f"+{limit:.2g}"])
    legend.ax.tick_params(labelsize=7, length=2)
    # Small panels have no room for both on one line.
    between = "  ◂  ▸  " if len(minus) + len(plus) < SHORT_LEGEND else " ◂\n▸ "
    legend.set_label(f"{minus}{between}{plus}", fontsize=7)


def _bars(axes: Axes, values: dict[str, float], title: str, colours: dict[str, str]) -> None:
    names = list(values)
    positions = range(len(names))
    axes.barh(list(positions), list(values.values()), color=[colours[name] for name in names], height=0.75)
    axes.set_yticks(list(positions), labels=names, fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=9)


def _part_bars(axes: Axes, relation: Relation, item: int, image_name: str = "image") -> None:
    found = dict(zip(AXES, relation.parts[item].detach().float().cpu().tolist(), strict=True))
    order = sorted(found, key=lambda name: -found[name])
    parts = {name: found[name] for name in order[:MOST_BARS]}
    parts["(other axes)"] = sum(found[name] for name in order[MOST_BARS:])
    parts["(floor)"] = float(relation.floor[item].detach())
    directions = {name: direction for name, _, direction in strongest(relation, len(AXES), item)}
    colours = dict.fromkeys(parts, GREY)
    for name, direction in directions.items():
        if abs(direction) >= MIXED_BELOW:
            colours[name] = ORANGE if direction > 0 else PURPLE
    _bars(axes, parts, "distance split by axis", colours)
    axes.set_xlabel(f"orange: more in the {image_name}\npurple: less, grey: mixed", fontsize=7)


def relation_figure(
    ref: Tensor,
    img: Tensor,
    relation: Relation,
    path: str | Path | None = None,
    *,
    count: int = 4,
    item: int = 0,
    title: str | None = None,
    width: float = WIDE,
    names: tuple[str, str] = ("reference", "image"),
) -> Figure:
    """The reference, the image, its strongest signed maps and the distance split by axis.

    Args:
        ref: (3, H, W) in [0, 1].
        img: (3, H, W) in [0, 1].
        relation: ``loss_fn.relate(img, ref)``: the image compared with the reference.
        path: where to write the figure; its ending picks the format (SVG and PDF keep text as text). None writes
            nothing.
        count: how many maps at most.
        item: which pair of the relation's batch this is.
        title: headline; by default the distance.
        width: in inches; up to the middle between ``NARROW`` and ``WIDE`` panels stand in two columns above the split
            by axis, then in two or three beside it.
        names: what reference and image are called.

    Raises:
        ValueError: shapes that do not belong together, or a format matplotlib cannot write.
        MissingExtra: matplotlib is not installed.
    """
    original, picture = _photo("ref", ref), _photo("img", img)
    if original.shape != picture.shape or tuple(relation.maps.shape[-2:]) != tuple(picture.shape[:2]):
        raise ValueError(
            f"ref, img and the maps must have one size, got {tuple(original.shape[:2])}, {tuple(picture.shape[:2])} "
            f"and {tuple(relation.maps.shape[-2:])}"
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    chosen = strongest(relation, count, item)
    beside = width > (WIDE + NARROW) / 2
    kinds = [False, False, *[True] * len(chosen)]
    # Four would leave one alone in its row.
    columns = 3 if beside and len(kinds) != 4 else 2
    across = (width - (BARS + LABELS if beside else 0) - MARGIN) / columns - GAP
    down = across * min(max(picture.shape[0] / picture.shape[1], 0.5), 2.0)
    rows = [any(kinds[k : k + columns]) for k in range(0, len(kinds), columns)]
    tops = [HEAD + sum(TITLE + down + (LEGEND if maps else GAP) for maps in rows[:k]) for k in range(len(rows) + 1)]
    bars_top = HEAD + TITLE if beside else tops[-1] + TITLE
    figure = _figure(width, max(tops[-1], bars_top + BARS_HIGH + UNDER_BARS), paper=True)
    panels = [
        _at(figure, MARGIN + (k % columns) * (across + GAP), tops[k // columns] + TITLE, across, down)
        for k in range(len(kinds))
    ]
    _show(panels[0], original, names[0])
    _show(panels[1], picture, names[1])
    limit = colour_limit([relation[axis][item] for axis, _, _ in chosen])
    for panel, (axis, _, _) in zip(panels[2:], chosen, strict=True):
        _show_map(figure, panel, picture, relation[axis][item], axis, limit)
    left = width - BARS if beside else LABELS
    bars = _at(figure, left, bars_top, width - left - MARGIN, BARS_HIGH)
    _part_bars(bars, relation, item, names[1])
    figure.suptitle(title or f"distance {float(relation.distance[item].detach()):.4g}", fontsize=10)
    return _finish(figure, path)


def comparison_panel(
    ref: Tensor,
    img: Tensor,
    relation: Relation,
    extra: Sequence[tuple[str, Tensor]],
    path: str | Path | None = None,
    *,
    count: int = 3,
    title: str | None = None,
) -> Figure:
    """A pair with its strongest maps in one row, and further captioned pictures with the split by axis in a second.

    Args:
        ref: (3, H, W) in [0, 1].
        img: (3, H, W) in [0, 1].
        relation: ``loss_fn.relate(img, ref)``.
        extra: (caption, (3, h, w) in [0, 1]) for the second row, e.g. a crop before and after restoration.
        path: where to write the figure; None writes nothing.
        count: how many maps at most.
        title: headline; by default the distance.

    Raises:
        ValueError: pictures of a wrong shape.
        MissingExtra: matplotlib is not installed.
    """
    original, picture = _photo("ref", ref), _photo("img", img)
    chosen = strongest(relation, count)
    columns = max(2 + len(chosen), 1 + len(extra))
    across = (WIDE - MARGIN) / columns - GAP
    down = across * min(max(picture.shape[0] / picture.shape[1], 0.5), 2.0)
    second = HEAD + TITLE + down + LEGEND
    figure = _figure(WIDE, second + 2 * TITLE + max(across, BARS_HIGH) + UNDER_BARS, paper=True)
    upper = [_at(figure, MARGIN + k * (across + GAP), HEAD + TITLE, across, down) for k in range(2 + len(chosen))]
    _show(upper[0], original, "reference")
    _show(upper[1], picture, "image")
    limit = colour_limit([relation[axis][0] for axis, _, _ in chosen])
    for place, (axis, _, _) in zip(upper[2:], chosen, strict=True):
        _show_map(figure, place, picture, relation[axis][0], axis, limit)
    letters = round(across * LETTERS_PER_INCH)
    for k, (caption, pixels) in enumerate(extra):
        place = _at(figure, MARGIN + k * (across + GAP), second + 2 * TITLE, across, across)
        _show(place, _photo(caption, pixels), textwrap.fill(caption, letters), size=8)
    left = MARGIN + len(extra) * (across + GAP) + LABELS
    _part_bars(_at(figure, left, second + 2 * TITLE, WIDE - left - MARGIN, BARS_HIGH), relation, 0)
    figure.suptitle(title or f"distance {float(relation.distance[0].detach()):.4g}", fontsize=10)
    return _finish(figure, path)
