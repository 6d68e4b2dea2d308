"""A pair of pictures tile by tile: the values of one pass over the whole, in the memory of one tile.

The networks look at bounded neighbourhoods (``DistortionPredictor.margin``, ``map_margin``) and normalise over none,
and a distance is made of means over the picture. So a tile is computed in a window with that margin around it, aligned
to the coarsest cells, and what it adds to the means is added up; what differs from one pass is the order of the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .layers import Encoder, at_least_float32, padding_to_multiple
from .predictor import DistortionPredictor, PairFeatures
from .relation import AXES
from .scorer import DENSITY_STRIDE, JUDGEMENT_STRIDES, Densities, DistanceTerms, RelationalScorer, pixel_error

Part = TypeVar("Part")

STRIDE = Encoder.stride


def check_tile(tile: object) -> int:
    """``tile`` itself, if it is a side that tiles can have.

    Raises:
        TypeError: not an int.
        ValueError: not a positive multiple of 16.
    """
    if isinstance(tile, bool) or not isinstance(tile, int):
        raise TypeError(f"tile must be an int, the side of a tile in pixels, or None, got {tile!r}")
    if tile < STRIDE or tile % STRIDE:
        near = max(STRIDE, round(tile / STRIDE) * STRIDE)
        raise ValueError(f"tile must be a positive multiple of {STRIDE} pixels, got {tile}; did you mean {near}?")
    return tile


@dataclass(frozen=True)
class Span:
    """Rows or columns ``start`` to ``stop`` of a picture, computed in a window from ``low`` to ``high``."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def window(self) -> slice:
        """The window in the picture."""
        return slice(self.low, self.high)

    @property
    def pixels(self) -> slice:
        """The span in its window."""
        return slice(self.start - self.low, self.stop - self.low)

    def cells(self, stride: int) -> slice:
        """The span in the features of its window at ``stride``, with the padding after the picture's last pixel."""
        stop = self.stop + -self.stop % STRIDE
        return slice((self.start - self.low) // stride, (stop - self.low) // stride)


def spans(length: int, tile: int, margin: int) -> list[Span]:
    """Cut ``length`` pixels into the fewest spans of at most ``tile`` pixels, of nearly equal size.

    Args:
        length: side of the picture.
        tile: multiple of 16, and so are all borders between spans.
        margin: pixels, multiple of 16, that a window has beyond its span where the picture has them.
    """
    count = -(-length // tile)
    even = -(-length // count)
    step = even + -even % STRIDE
    return [
        Span(start, min(start + step, length), max(start - margin, 0), min(start + step + margin, length))
        for start in range(0, length, step)
    ]


class _Sums(NamedTuple):
    """What a tile adds: sums of the shares of density and squared density, (B, len(AXES)) or (B, 1), of error (B,)."""

    density: Tensor
    square: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class TiledPair:
    """Two pictures of one shape, to be compared tile by tile.

    With gradients asked for, each tile is computed again in the backward pass, so that memory stays bounded there too.

    Attributes:
        predictor: gives the features.
        scorer: gives densities and judgement.
        axis_weights: (len(AXES),) factor of each part.
        unit_range: brings images to [0, 1] and to the networks' dtype.
        a: (B, 3, H, W) in the caller's range.
        b: same shape.
        weight: (B, 1, H, W) of mean 1 per image, or None.
        tile: side of a tile in pixels; windows are up to twice ``predictor.margin`` larger, for maps
            ``predictor.map_margin``.
        named: as in :class:`.whole_pair.WholePair`.
    """

    predictor: DistortionPredictor
    scorer: RelationalScorer
    axis_weights: Tensor
    unit_range: Callable[[Tensor], Tensor]
    a: Tensor
    b: Tensor
    weight: Tensor | None
    tile: int
    named: bool

    def terms(self) -> DistanceTerms:
        """Distance terms with the axes' factors."""
        total: _Sums | None = None
        weights = () if self.weight is None else (self.weight,)
        for rows, columns, windows in self._windows(self.predictor.margin, self.a, self.b, *weights):
            part = self._run(partial(self._sums, rows, columns), windows)
            total = part if total is None else _Sums(*(x + y for x, y in zip(total, part, strict=True)))
        if total is None:
            raise AssertionError("a picture has at least one tile")
        height, width = self.a.shape[-2:]
        cells = height * width / DENSITY_STRIDE**2
        terms = self.scorer.combine(total.density / cells, total.square / cells, total.error / (3 * height * width))
        factors = self.axis_weights if self.named else self.axis_weights[:1]
        return DistanceTerms(terms.parts * factors, terms.floor)

    def judgement(self) -> Tensor:
        """The unanchored judgement (B,) of :meth:`RelationalScorer.judge`."""
        total: Tensor | None = None
        for rows, columns, windows in self._windows(self.predictor.map_margin, self.a, self.b):
            part = self._run(partial(self._judgement, rows, columns), windows)
            total = part if total is None else total + part
        if total is None:
            raise AssertionError("a picture has at least one tile")
        return total

    def maps(self) -> Tensor:
        """Signed maps (B, len(AXES), H, W)."""
        height, width = self.a.shape[-2:]
        pieces = (
            (rows, columns, self._run(partial(self._maps, rows, columns), windows))
            for rows, columns, windows in self._windows(self.predictor.map_margin, self.a, self.b)
        )
        if self._records():
            strips: dict[Span, list[Tensor]] = {}
            for rows, _, piece in pieces:
                strips.setdefault(rows, []).append(piece)
            return torch.cat([torch.cat(strip, dim=3) for strip in strips.values()], dim=2)
        whole: Tensor | None = None
        for rows, columns, piece in pieces:
            if whole is None:
                whole = piece.new_empty((self.a.shape[0], len(AXES), height, width))
            whole[..., rows.start : rows.stop, columns.start : columns.stop] = piece
        if whole is None:
            raise AssertionError("a picture has at least one tile")
        return whole

    def images(self) -> tuple[Tensor, Tensor]:
        """Both pictures in [0, 1]."""
        return self.unit_range(self.a), self.unit_range(self.b)

    def _windows(self, margin: int, *images: Tensor) -> Iterator[tuple[Span, Span, tuple[Tensor, ...]]]:
        """Each tile with the windows, ``margin`` larger, of every image (B, C, H, W)."""
        height, width = self.a.shape[-2:]
        for rows in spans(height, self.tile, margin):
            # Rows first: the gradient of a cut is a picture of the size that was cut from.
            strips = [image[:, :, rows.window] for image in images]
            for columns in spans(width, self.tile, margin):
                yield rows, columns, tuple(strip[..., columns.window] for strip in strips)

    def _records(self) -> bool:
        return torch.is_grad_enabled() and (self.a.requires_grad or self.b.requires_grad)

    def _run(self, function: Callable[..., Part], windows: tuple[Tensor, ...]) -> Part:
        if self._records():
            part: Part = checkpoint(function, *windows, use_reentrant=False, preserve_rng_state=False)
            return part
        with torch.no_grad():
            return function(*windows)

    def _pair(self, a: Tensor, b: Tensor) -> PairFeatures:
        return self.predictor.relate(a, b, self.predictor.encode(a), self.predictor.encode(b), named=self.named)

    def _sums(self, rows: Span, columns: Span, a: Tensor, b: Tensor, weight: Tensor | None = None) -> _Sums:
        a, b = self.unit_range(a), self.unit_range(b)
        pair = self._pair(a, b)
        inside = (..., rows.pixels, columns.pixels)
        here = a.new_ones((1, 1, *a.shape[-2:]))[inside] if weight is None else weight[inside]
        bottom, right = padding_to_multiple(here.shape[-2], here.shape[-1], STRIDE)
        cell_weight = F.avg_pool2d(F.pad(at_least_float32(here), (0, right, 0, bottom)), DENSITY_STRIDE)
        cells = (..., rows.cells(DENSITY_STRIDE), columns.cells(DENSITY_STRIDE))
        densities, squares = Densities(*(part[cells] for part in self.scorer.densities(pair))).by_axis()
        return _Sums(
            (densities * cell_weight).sum(dim=(2, 3)),
            (squares * cell_weight).sum(dim=(2, 3)),
            (pixel_error(a[inside], b[inside]) * here).sum(dim=(1, 2, 3)),
        )

    def _judgement(self, rows: Span, columns: Span, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.unit_range(a), self.unit_range(b)
        pair = self._pair(a, b)
        maps = self.predictor.confine(self.predictor.gated_maps(pair, a, b), a, b)
        total = torch.zeros((), device=a.device)
        for stride, values in zip(JUDGEMENT_STRIDES, self.scorer.judgements(pair, maps), strict=True):
            added = values[..., rows.cells(stride), columns.cells(stride)].sum(dim=(1, 2, 3))
            total = total + added / self._cells(stride)
        return total

    def _maps(self, rows: Span, columns: Span, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.unit_range(a), self.unit_range(b)
        maps = self.predictor.gated_maps(self._pair(a, b), a, b)
        return self.predictor.decode(maps, a, b)[..., rows.pixels, columns.pixels]

    def _cells(self, stride: int) -> int:
        """Cells of the padded picture at ``stride``."""
        height, width = self.a.shape[-2:]
        bottom, right = padding_to_multiple(height, width, STRIDE)
        return (height + bottom) * (width + right) // stride**2
