"""Figures of the distortion engine: the grid of all operators, and one recipe with its target maps.

Extra ``figures``: matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import __version__
from .distortions import Component, Distortion, DistortionEngine, Triplet
from .distortions.catalogue import summary
from .figures import DIVERGING, DPI, PANEL_INCHES, _figure, _finish, _photo, _show, _show_map, colour_limit
from .images import to_bytes
from .relation import AXES, PIXELS_PER_UNIT_SHIFT
from .validation import MIN_SIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEVERITIES = (0.25, 0.5, 0.75, 1.0)
REGION = "soft"
SIDE = 160
MOST_MAPS = 4
"""Axes shown in one map tile: one fills it, up to four share it."""

_GAP, _MARGIN, _GUTTER = 4, 28, 44
_HEADING, _LABEL, _SCALE = 50, 24, 26
_ASPECT = 1.25
"""Height over width that the grid aims at with its number of columns."""


@dataclass(frozen=True)
class GridRow:
    """One operator of the grid.

    Attributes:
        distortion: the operator.
        parameters: its native parameter at each severity.
        pictures: (K + 1, 3, S, S): the whole picture at each severity, then the strongest inside one region.
        maps: (axis, (S, S)) for the axes that count as a right answer: signed targets of the last picture.
    """

    distortion: Distortion
    parameters: tuple[float, ...]
    pictures: Tensor
    maps: tuple[tuple[str, Tensor], ...]


def grid_photo(photo: Tensor, side: int) -> Tensor:
    """Central square of a photograph (3, H, W), reduced to (3, side, side); never enlarged.

    Raises:
        ValueError: ``side`` is below 16, or larger than the photograph.
    """
    least = min(photo.shape[1:])
    if not MIN_SIDE <= side <= least:
        raise ValueError(f"side must be {MIN_SIDE} to {least} pixels for this photograph, got {side}")
    top, left = (photo.shape[1] - least) // 2, (photo.shape[2] - least) // 2
    square = photo[None, :, top : top + least, left : left + least].float()
    if least == side:
        return square[0]
    return F.interpolate(square, (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)


def grid_rows(
    photo: Tensor,
    distortions: Sequence[Distortion],
    severities: Sequence[float] = SEVERITIES,
    *,
    region: str = REGION,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[GridRow]:
    """Render what the grid shows: every operator with one seed, so that rising severity is the same draw, stronger.

    Args:
        photo: (3, S, S) in [0, 1].
        distortions: the operators, which can run here.
        severities: rising, in [0, 1].
        region: kind of the region of the last picture.
        seed: of operators and region.
        progress: called with (done, all) after each operator.

    Raises:
        ValueError: no severities, or some outside [0, 1]; an unknown region.
        MissingExtra: a codec is missing.
    """
    if not severities:
        raise ValueError("severities must hold at least one number, got none")
    engine = DistortionEngine(list(distortions))
    strongest = max(severities)
    rows = []
    for done, one in enumerate(distortions, start=1):
        recipes = [(Component(one.name, severity, "whole", seed),) for severity in severities]
        recipes.append((Component(one.name, strongest, region, seed),))
        triplet = engine.render(photo.expand(len(recipes), -1, -1, -1), recipes)
        axes = sorted(one.right_axes, key=lambda axis: -abs(one.effects[axis]))[:MOST_MAPS]
        parameters = one.parameter(torch.tensor(severities, dtype=torch.float64)).tolist()
        maps = tuple((axis, triplet.maps[-1, AXES.index(axis)]) for axis in axes)
        rows.append(GridRow(one, tuple(parameters), triplet.distorted, maps))
        if progress is not None:
            progress(done, len(distortions))
    return rows


def distortion_grid(
    photo: Tensor,
    distortions: Sequence[Distortion],
    path: str | Path | None = None,
    *,
    severities: Sequence[float] = SEVERITIES,
    region: str = REGION,
    seed: int = 0,
    side: int = SIDE,
    title: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Figure:
    """Every operator at rising severity, the strongest inside one region, and the target map of that.

    Tiles are drawn pixel for pixel in a raster format. All maps share one colour scale.

    Args:
        photo: (3, H, W) in [0, 1]; its central square is reduced to ``side`` pixels before anything is done to it.
        distortions: the operators, which can run here; those of one family should stand together.
        path: where to write the figure; its ending picks the format. None writes nothing.
        severities: rising, in [0, 1].
        region: kind of the region in which the maps are shown.
        seed: of operators and region.
        side: of a tile, in pixels.
        title: what the photograph is called.
        progress: called with (done, all) after each operator.

    Raises:
        ValueError: a size, a severity or a region that is not possible, or a format matplotlib cannot write.
        MissingExtra: matplotlib is not installed, or a codec is missing.
    """
    reference = grid_photo(photo, side)
    rows = grid_rows(reference, distortions, severities, region=region, seed=seed, progress=progress)
    block = (len(severities) + 2) * (side + _GAP) - _GAP
    columns = _best_columns(rows, block, side)
    width = max(2 * _MARGIN + len(columns) * (block + _GUTTER) - _GUTTER, 2 * _MARGIN + side + 700)
    head = 2 * _MARGIN + max(side, 112)
    height = head + max(_column_height(column, side) for column in columns) + _MARGIN
    figure = _figure(width / DPI, height / DPI)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    _place_image(axes, to_bytes(reference), _MARGIN, _MARGIN)
    _header(axes, rows, title, _MARGIN + side + 24, _MARGIN, region)
    begun = None
    for k, column in enumerate(columns):
        titles = [f"severity {s:g}" for s in severities] + [f"{max(severities):g}, {region} region", "its target map"]
        _draw_column(axes, column, _MARGIN + k * (block + _GUTTER), head, side, titles, begun)
        begun = column[-1].distortion.family
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axes.set_axis_off()
    return _finish(figure, path)


def recipe_figure(triplet: Triplet, path: str | Path | None = None, *, title: str | None = None) -> Figure:
    """One picture before and after its recipe, the weight of its targets, and every target map that is not empty.

    Args:
        triplet: of one image.
        path: where to write the figure; None writes nothing.
        title: headline.

    Raises:
        ValueError: several images.
        MissingExtra: matplotlib is not installed.
    """
    before, after = _photo("triplet.reference", triplet.reference), _photo("triplet.distorted", triplet.distorted)
    maps = [(axis, triplet.maps[0, k]) for k, axis in enumerate(AXES) if bool(triplet.maps[0, k].any())]
    count = 3 + len(maps)
    columns = min(count, 4 if count > 6 else 3)
    lines = math.ceil(count / columns)
    tall = min(max(before.shape[0] / before.shape[1], 0.5), 2.0)
    figure = _figure(columns * PANEL_INCHES, lines * (PANEL_INCHES * tall + 0.75))
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    _show(panels[0], before, "reference")
    _show(panels[1], after, "distorted")
    panels[2].imshow(triplet.weight[0].float().cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    panels[2].set_title("weight: black 0, white 1", fontsize=9)
    limit = colour_limit([signed for _, signed in maps])
    for panel, (axis, signed) in zip(panels[3:], maps, strict=False):
        _show_map(figure, panel, after, signed, axis, limit)
    for panel in (panels[2], *panels[count:]):
        panel.set_axis_off()
        panel.set_anchor("N")
    if title:
        figure.suptitle(title, fontsize=11)
    return _finish(figure, path)


def _map_pixels(picture: Tensor, signed: Tensor) -> np.ndarray:
    """A signed map (S, S), which saturates at 1, over the grey picture (3, S, S): (S, S, 3) uint8."""
    from matplotlib import colormaps

    values = signed.detach().float().cpu().clamp(-1, 1)
    colours = torch.from_numpy(colormaps[DIVERGING]((values.numpy() + 1) / 2)[..., :3]).float()
    grey = ((picture.detach().float().cpu().mean(0) + 0.3) / 1.6)[..., None]
    opacity = (values.abs().sqrt() * 0.85)[..., None]
    return to_bytes((grey * (1 - opacity) + colours * opacity).permute(2, 0, 1))


def _map_tile(row: GridRow) -> np.ndarray:
    """The maps of a row in one tile (S, S, 3): one fills it, two to four take a quarter each."""
    picture = row.pictures[-1]
    side = picture.shape[-1]
    if len(row.maps) == 1:
        return _map_pixels(picture, row.maps[0][1])
    tile = np.full((side, side, 3), 255, dtype=np.uint8)
    for (top, left), (_, signed) in zip(_quarters(side), row.maps, strict=False):
        half = (side - _GAP) // 2
        small = F.interpolate(torch.cat((picture, signed[None]))[None].float(), (half, half), mode="area")[0]
        tile[top : top + half, left : left + half] = _map_pixels(small[:3], small[3])
    return tile


def _quarters(side: int) -> list[tuple[int, int]]:
    far = side - (side - _GAP) // 2
    return [(0, 0), (0, far), (far, 0), (far, far)]


def _families(rows: Sequence[GridRow]) -> int:
    return sum(k == 0 or rows[k - 1].distortion.family != row.distortion.family for k, row in enumerate(rows))


def _column_height(rows: Sequence[GridRow], side: int) -> int:
    return _SCALE + _families(rows) * _HEADING + len(rows) * (_LABEL + side + _GAP)


def _best_columns(rows: Sequence[GridRow], block: int, side: int) -> list[list[GridRow]]:
    """The rows in as many columns as bring the figure nearest to the wanted aspect."""

    def misfit(columns: list[list[GridRow]]) -> float:
        height = max(_column_height(column, side) for column in columns)
        return abs(math.log(height / (len(columns) * block) / _ASPECT))

    return min((_split(rows, count, side) for count in range(1, min(len(rows), 8) + 1)), key=misfit)


def _split(rows: Sequence[GridRow], count: int, side: int) -> list[list[GridRow]]:
    """The rows in order, in at most ``count`` columns whose highest is as low as possible."""
    limit = _column_height(rows[:1], side)
    while True:
        columns: list[list[GridRow]] = [[]]
        for row in rows:
            if columns[-1] and _column_height([*columns[-1], row], side) > limit:
                columns.append([])
            columns[-1].append(row)
        if len(columns) <= count:
            return columns
        limit += _LABEL


def _place_image(axes: Axes, pixels: np.ndarray, x: float, y: float) -> None:
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(x, x + width, y + height, y), interpolation="nearest")


def _text_width(text: str, points: float, weight: str = "normal") -> float:
    """Width of a text in pixels of the figure."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, size=points, prop=FontProperties(weight=weight))
    return float(path.get_extents().width) * DPI / 72


def _header(axes: Axes, rows: Sequence[GridRow], title: str | None, x: float, y: float, region: str) -> None:
    axes.text(
        x, y, f"{len(rows)} distortion operators at rising severity", fontsize=14, weight="bold", va="top", ha="left"
    )
    about = f"{'' if title is None else f'{title}, '}relqa_loss {__version__}. Left: the untouched picture."
    axes.text(x, y + 34, about, fontsize=8, va="top", ha="left")
    bar = np.linspace(-1, 1, 240)
    from matplotlib import colormaps

    _place_image(
        axes, np.repeat((colormaps[DIVERGING]((bar + 1) / 2)[None, :, :3] * 255).astype(np.uint8), 14, 0), x, y + 62
    )
    for place, label in ((0, "-1"), (120, "0"), (240, "+1")):
        axes.text(x + place, y + 80, label, fontsize=7, va="top", ha="center")
    meaning = (
        f"target map inside a {region} region: less of the axis ◂ ▸ more of it.\n"
        f"1 = full effect at severity 1, or a displacement of {PIXELS_PER_UNIT_SHIFT:g} tile pixels; more saturates."
    )
    axes.text(x + 262, y + 60, meaning, fontsize=7, va="top", ha="left", linespacing=1.5)


def _draw_column(
    axes: Axes, rows: Sequence[GridRow], x: float, y: float, side: int, titles: Sequence[str], begun: str | None
) -> None:
    """One column of operators under ``titles``, one a tile; ``begun`` is the family that ends the column before."""
    block = len(titles) * (side + _GAP) - _GAP
    for k, text in enumerate(titles):
        axes.text(x + k * (side + _GAP) + side / 2, y + 14, text, fontsize=7, va="baseline", ha="center", color="0.35")
    y += _SCALE
    family = None
    for row in rows:
        if row.distortion.family != family:
            family = row.distortion.family
            heading = f"{family}, continued" if family == begun else family
            axes.text(x, y + _HEADING - 16, heading, fontsize=12, weight="bold", va="bottom", ha="left")
            axes.plot([x, x + block], [y + _HEADING - 12] * 2, color="0.2", linewidth=1.0)
            y += _HEADING
        _draw_row(axes, row, x, y, side, block)
        y += _LABEL + side + _GAP


def _draw_row(axes: Axes, row: GridRow, x: float, y: float, side: int, block: int) -> None:
    name = row.distortion.name
    axes.text(x, y + _LABEL - 6, name, fontsize=8, weight="bold", va="baseline", ha="left")
    taken = _text_width(name, 8, "bold") + 12
    line = _shortened(summary(row.distortion).replace("``", ""), 6.5, block - taken)
    axes.text(x + taken, y + _LABEL - 6, line, fontsize=6.5, va="baseline", ha="left", color="0.35")
    strip = np.full((side, block, 3), 255, dtype=np.uint8)
    tiles = [*(to_bytes(picture) for picture in row.pictures), _map_tile(row)]
    for k, tile in enumerate(tiles):
        strip[:, k * (side + _GAP) : k * (side + _GAP) + side] = tile
    _place_image(axes, strip, x, y + _LABEL)
    foot = y + _LABEL + side - 5
    for k, parameter in enumerate(row.parameters):
        _on_tile(axes, x + k * (side + _GAP) + 5, foot, f"{parameter:.3g}")
    left = x + (len(tiles) - 1) * (side + _GAP)
    half = (side - _GAP) // 2
    for (axis, _), (top, across) in zip(row.maps, _quarters(side), strict=False):
        bottom = side if len(row.maps) == 1 else top + half
        effect = row.distortion.effects[axis]
        _on_tile(
            axes, left + across + 4, y + _LABEL + bottom - 5, f"{axis} {effect:+g}" if len(row.maps) == 1 else axis
        )


def _on_tile(axes: Axes, x: float, y: float, text: str) -> None:
    box = {"boxstyle": "square,pad=0.15", "facecolor": "black", "alpha": 0.6, "linewidth": 0}
    axes.text(x, y, text, fontsize=5.5, color="white", va="bottom", ha="left", bbox=box)


def _shortened(text: str, points: float, width: float) -> str:
    """As much of a text as fits into ``width`` pixels, whole words."""
    if _text_width(text, points) <= width:
        return text
    words = text.split()
    while words and _text_width(" ".join(words) + " …", points) > width:
        words.pop()
    return " ".join(words) + " …"
