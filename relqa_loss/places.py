"""Where a relation is strongest: connected areas of one axis and one sign."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .relation import Relation, axis_index
from .words import in_words, strongest

CELLS = 96
"""Cells along the longer side of a picture in which areas are looked for: finer detail belongs to the maps."""
EDGE = 0.35
"""An area reaches to where the map, averaged over a cell, falls below this share of its own axis' peak."""
FAINT = 0.15
"""Share of the strongest area's peak below which an area is not worth naming."""
AXES_CONSIDERED = 8


@dataclass(frozen=True)
class Place:
    """One area of a picture in which one axis has one sign.

    Attributes:
        axis: one of ``AXES``.
        words: what the sign says of the first image there, e.g. ``"blurrier"``.
        left, top, width, height: box around the area, in pixels; it stays inside the picture.
        share: of the picture's pixels that the area covers, in (0, 1]; a box may hold much that the area does not.
        value: mean of the signed map over the area, in the map's units.
        weight: |value| times share: what the area adds to the mean of |map|; places are ordered by it.
    """

    axis: str
    words: str
    left: int
    top: int
    width: int
    height: int
    share: float
    value: float
    weight: float


def strongest_places(relation: Relation, count: int, item: int = 0) -> list[Place]:
    """The areas of a picture that weigh most, over all its strong axes.

    Args:
        relation: from ``loss_fn.relate``; its maps get decoded.
        count: how many at most, at least 1.
        item: which pair of the batch.

    Returns:
        Places, heaviest first; none for equal images.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    found: list[Place] = []
    for axis, _, _ in strongest(relation, AXES_CONSIDERED, item):
        signed = relation.maps[item, axis_index(axis)].detach().to("cpu", torch.float32)
        found += _places(axis, signed)
    loudest = max((abs(place.value) for place in found), default=0.0)
    kept = [place for place in found if abs(place.value) > FAINT * loudest]
    return sorted(kept, key=lambda place: -place.weight)[:count]


def _places(axis: str, signed: Tensor) -> list[Place]:
    height, width = signed.shape
    cell = max(1, math.ceil(max(height, width) / CELLS))
    means = F.avg_pool2d(signed[None, None], cell, ceil_mode=True)[0, 0]
    edge = EDGE * float(means.abs().max())
    places = []
    for sign in (1.0, -1.0):
        inside = sign * means > edge
        labels = _connected(inside)
        for label in labels[inside].unique().tolist():
            area = labels == label
            rows, columns = area.any(dim=1).nonzero().flatten(), area.any(dim=0).nonzero().flatten()
            top, left = int(rows[0]) * cell, int(columns[0]) * cell
            bottom, right = min((int(rows[-1]) + 1) * cell, height), min((int(columns[-1]) + 1) * cell, width)
            value, share = float(means[area].mean()), float(area.sum()) / area.numel()
            places.append(
                Place(
                    axis,
                    in_words(axis, sign),
                    left,
                    top,
                    right - left,
                    bottom - top,
                    share,
                    value,
                    abs(value) * share,
                )
            )
    return places


def _connected(inside: Tensor) -> Tensor:
    """Label of each cell (H, W), equal for cells that touch, corners included; 0 outside."""
    labels = torch.arange(1, inside.numel() + 1, dtype=torch.float64).view(inside.shape) * inside
    while True:
        # The largest label floods its area, one cell a step.
        grown = F.max_pool2d(labels[None], 3, stride=1, padding=1)[0] * inside
        if torch.equal(grown, labels):
            return labels
        labels = grown
