"""Figures: signed maps over a photograph, comparison panels, training curves (extra ``figures``: matplotlib).

What draws returns a matplotlib ``Figure`` and, given a path, writes it to :func:`figure_path` of it; no display and no
global state are touched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .images import MissingExtra
from .relation import AXES, Relation
from .words import AXIS_WORDS, strongest

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


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "figures") from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
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
    known = sorted(_figure(1, 1).canvas.get_supported_filetypes())
    if Path(path).suffix[1:].lower() not in known:
        raise ValueError(f"cannot write the figure {Path(path).name!r}: the ending must be one of {', '.join(known)}")


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        target = figure_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(target)
        except ValueError as error:
            raise ValueError(f"cannot write the figure {target}: {error}") from error
    return figure


def _photo(name: str, image: Tensor) -> Tensor:
    """(3, H, W) or (1, 3, H, W) in [0, 1] -> (H, W, 3) float on the CPU, clamped."""
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"{name} must have shape (3, H, W), got {tuple(image.shape)}")
    return image.detach().to("cpu", torch.float32).clamp(0, 1).permute(1, 2, 0)


def _show(axes: Axes, pixels: Tensor, title: str) -> None:
    axes.imshow(pixels.numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    axes.set_anchor("N")


def _colour_limit(maps: Sequence[Tensor]) -> float:
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
    legend.set_label(f"{minus}  ◂  ▸  {plus}", fontsize=7)


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


def _part_bars(axes: Axes, relation: Relation, item: int) -> None:
    parts = dict(zip(AXES, relation.parts[item].detach().float().cpu().tolist(), strict=True))
    parts["(floor)"] = float(relation.floor[item].detach())
    directions = {name: direction for name, _, direction in strongest(relation, len(AXES), item)}
    colours = dict.fromkeys(parts, GREY)
    for name, direction in directions.items():
        colours[name] = ORANGE if direction > 0 else PURPLE
    order = sorted(parts, key=lambda name: -parts[name])
    _bars(axes, {name: parts[name] for name in order}, "distance split by axis", colours)
    axes.set_xlabel("orange: more in the image, purple: less", fontsize=7)


def relation_figure(
    ref: Tensor,
    img: Tensor,
    relation: Relation,
    path: str | Path | None = None,
    *,
    count: int = 4,
    item: int = 0,
    title: str | None = None,
) -> Figure:
    """The reference, the image, its strongest signed maps and the distance split by axis.

    Args:
        ref: (3, H, W) in [0, 1].
        img: (3, H, W) in [0, 1].
        relation: ``loss_fn.relate(img, ref)``: the image compared with the reference.
        path: where to write the figure; its ending picks the format. None writes nothing.
        count: how many maps at most.
        item: which pair of the relation's batch this is.
        title: headline; by default the distance.

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
    columns = math.ceil((2 + len(chosen)) / 2)
    tall = min(max(picture.shape[0] / picture.shape[1], 0.5), 2.0)
    figure = _figure((columns + 1.1) * PANEL_INCHES, 2 * (PANEL_INCHES * tall + 0.75))
    grid = figure.add_gridspec(2, columns + 1, width_ratios=[1.0] * columns + [1.1])
    panels = [figure.add_subplot(grid[k // columns, k % columns]) for k in range(2 + len(chosen))]
    _show(panels[0], original, "reference")
    _show(panels[1], picture, "image")
    limit = _colour_limit([relation[axis][item] for axis, _, _ in chosen])
    for panel, (axis, _, _) in zip(panels[2:], chosen, strict=True):
        _show_map(figure, panel, picture, relation[axis][item], axis, limit)
    _part_bars(figure.add_subplot(grid[:, columns]), relation, item)
    figure.suptitle(title or f"distance {float(relation.distance[item].detach()):.4g}", fontsize=11)
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
    figure = _figure(columns * PANEL_INCHES, 2 * PANEL_INCHES + 1.3)
    # Two figures in one: the wide labels of the bars must not push the maps above them apart.
    rows = figure.add_gridspec(2, 1, height_ratios=[1.15, 1.0])
    top, bottom = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
    upper = [top.add_subplot(1, columns, k + 1) for k in range(2 + len(chosen))]
    _show(upper[0], original, "reference")
    _show(upper[1], picture, "image")
    limit = _colour_limit([relation[axis][0] for axis, _, _ in chosen])
    for panel, (axis, _, _) in zip(upper[2:], chosen, strict=True):
        _show_map(top, panel, picture, relation[axis][0], axis, limit)
    grid = bottom.add_gridspec(1, columns)
    for k, (caption, pixels) in enumerate(extra):
        _show(bottom.add_subplot(grid[0, k]), _photo(caption, pixels), caption)
    _part_bars(bottom.add_subplot(grid[0, len(extra) :]), relation, 0)
    figure.suptitle(title or f"distance {float(relation.distance[0].detach()):.4g}", fontsize=11)
    return _finish(figure, path)


def training_curves(metrics: str | Path, path: str | Path | None = None) -> Figure:
    """Every number of a metrics log over the training step, one small panel each.

    Args:
        metrics: a log with one JSON object a line: ``step`` and any numbers, e.g. ``loss``.
        path: where to write the figure; None writes nothing.

    Raises:
        FileNotFoundError: no such log.
        ValueError: a broken line before the last (the last may be half written), or no step with a number.
        MissingExtra: matplotlib is not installed.
    """
    curves = _read_curves(Path(metrics))
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = _figure(columns * 3.4, rows * 2.3)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (name, points) in zip(panels, curves.items(), strict=False):
        steps, values = zip(*points, strict=True)
        panel.plot(steps, values, color=PURPLE, linewidth=1.0, marker="." if len(steps) < 30 else None)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    figure.supxlabel("step", fontsize=8)
    return _finish(figure, path)


def _read_curves(log: Path) -> dict[str, list[tuple[float, float]]]:
    """Name -> (step, value) points in order of the log; booleans, texts and non-finite numbers are left out."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    curves: dict[str, list[tuple[float, float]]] = {}
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
