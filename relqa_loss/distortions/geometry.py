"""Displaced content. Each operator gives a displacement field (B, 2, H, W) in pixels; the engine warps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters
from .draws import Randomness
from .record import Distortion


def _constant(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    flow = torch.stack((right, down), dim=1).to(images)
    return flow[:, :, None, None].expand(-1, -1, *images.shape[-2:]).contiguous()


def shift_sideways(images: Tensor, distance: Tensor, generator: Randomness) -> Tensor:
    """Displacement to the right by ``distance`` pixels (signed)."""
    return _constant(images, distance, torch.zeros_like(distance))


def shift_vertically(images: Tensor, distance: Tensor, generator: Randomness) -> Tensor:
    """Displacement downwards by ``distance`` pixels (signed)."""
    return _constant(images, torch.zeros_like(distance), distance)


_CELL = 40
_MOST_CELLS = 8


def elastic_warp(images: Tensor, reach: Tensor, generator: Randomness) -> Tensor:
    """Smooth random displacement, swells of about 40 pixels; reach = its longest vector in pixels."""
    batch, _, height, width = images.shape
    grid = tuple(2 + min(_MOST_CELLS, max(1, round(side / _CELL))) for side in (height, width))
    draw = filters.normal((batch, 2, *grid), images, generator)
    field = F.interpolate(draw, (height, width), mode="bicubic", align_corners=True)
    longest = field.square().sum(1, keepdim=True).amax((2, 3), keepdim=True).sqrt()
    return field / longest * filters.column(reach, images)


FARTHEST = 0.3
"""Displacement of the corners, at most, as a share of their distance from the centre: from a third on, a small picture
would fold."""


def _either_way(reach: Tensor, half: float, images: Tensor, generator: Randomness) -> Tensor:
    """``reach`` (B,) as (B, 1, 1, 1), below ``FARTHEST * half``, with a sign that the draw decides."""
    draw = filters.uniform((images.shape[0],), images, generator).view(-1, 1, 1, 1)
    reach = filters.below(filters.column(reach, images), FARTHEST * half)
    return reach * torch.where(draw < 0.5, -1.0, 1.0).to(images)


def _from_centre(images: Tensor) -> tuple[Tensor, float]:
    """Offsets (1, 2, H, W) of the pixels from the centre, (x, y), and the distance of the corners, in pixels."""
    x, y = filters.centred_coordinates(images)
    height, width = images.shape[-2:]
    half = math.hypot(height - 1, width - 1) / 2
    return half * torch.stack((x.expand(1, height, width), y.expand(1, height, width)), dim=1), half


def rotation(images: Tensor, reach: Tensor, generator: Randomness) -> Tensor:
    """Turn about the centre, either way; reach = displacement of the corners in pixels, less in very small pictures."""
    offset, half = _from_centre(images)
    # the chord of a turn by an angle is 2 sin(angle / 2) radii long
    angle = 2 * torch.asin(_either_way(reach, half, images, generator) / (2 * half))
    x, y = offset[:, :1], offset[:, 1:]
    # what ends at the offset started where the turn back leads
    start = torch.cat((x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()), dim=1)
    return offset - start


def zoom(images: Tensor, reach: Tensor, generator: Randomness) -> Tensor:
    """Magnify or reduce about the centre; reach as for :func:`rotation`."""
    offset, half = _from_centre(images)
    return offset * (_either_way(reach, half, images, generator) / half)


def barrel(images: Tensor, reach: Tensor, generator: Randomness) -> Tensor:
    """Lens distortion about the centre, barrel or pincushion; reach as for :func:`rotation`.

    The displacement grows with the cube of the distance from the centre: the first radial term of Brown, "Decentering
    distortion of lenses" (1966).
    """
    offset, half = _from_centre(images)
    squared = (offset / half).square().sum(1, keepdim=True)
    return offset * squared * (_either_way(reach, half, images, generator) / half)


_SHIFT_SPAN = "own construction: from a third of a pixel to one unit of the shift axes, 4 pixels"
_WARP_SPAN = "own construction: the longest displacement is twice that of the shifts, most of the field below it"


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "shift_right",
        "geometry",
        {"shift_x": 1.0},
        (0.3, 4.0),
        flow=shift_sideways,
        source=_SHIFT_SPAN,
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "shift_left",
        "geometry",
        {"shift_x": -1.0},
        (-0.3, -4.0),
        flow=shift_sideways,
        source=_SHIFT_SPAN,
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "shift_down",
        "geometry",
        {"shift_y": 1.0},
        (0.3, 4.0),
        flow=shift_vertically,
        source=_SHIFT_SPAN,
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "shift_up",
        "geometry",
        {"shift_y": -1.0},
        (-0.3, -4.0),
        flow=shift_vertically,
        source=_SHIFT_SPAN,
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "elastic_warp",
        "geometry",
        {"shift_x": 1.0, "shift_y": 1.0},
        (0.5, 8.0),
        flow=elastic_warp,
        source=_WARP_SPAN,
        dominance=False,
        one_direction=False,
        inclusion=False,
    ),
    Distortion(
        "rotation",
        "geometry",
        {"shift_x": 1.0, "shift_y": 1.0},
        (0.5, 8.0),
        flow=rotation,
        source=_WARP_SPAN,
        dominance=False,
        one_direction=False,
        inclusion=False,
    ),
    Distortion(
        "zoom",
        "geometry",
        {"shift_x": 1.0, "shift_y": 1.0},
        (0.5, 8.0),
        flow=zoom,
        source=_WARP_SPAN,
        dominance=False,
        one_direction=False,
        inclusion=False,
    ),
    Distortion(
        "barrel",
        "geometry",
        {"shift_x": 1.0, "shift_y": 1.0},
        (0.5, 8.0),
        flow=barrel,
        source="Brown 1966, first radial term; range as of the other warps",
        dominance=False,
        one_direction=False,
        inclusion=False,
    ),
)
