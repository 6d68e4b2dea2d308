"""Displaced content. Each operator gives a displacement field (B, 2, H, W) in pixels; the engine warps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from . import filters
from .record import Distortion


def _constant(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    flow = torch.stack((right, down), dim=1).to(images)
    return flow[:, :, None, None].expand(-1, -1, *images.shape[-2:]).contiguous()


def shift_sideways(images: Tensor, distance: Tensor, generator: Generator) -> Tensor:
    """Displacement to the right by ``distance`` pixels (signed)."""
    return _constant(images, distance, torch.zeros_like(distance))


def shift_vertically(images: Tensor, distance: Tensor, generator: Generator) -> Tensor:
    """Displacement downwards by ``distance`` pixels (signed)."""
    return _constant(images, torch.zeros_like(distance), distance)


_CELL = 40
_MOST_CELLS = 8


def elastic_warp(images: Tensor, reach: Tensor, generator: Generator) -> Tensor:
    """Smooth random displacement, swells of about 40 pixels; reach = its longest vector in pixels."""
    batch, _, height, width = images.shape
    grid = tuple(2 + min(_MOST_CELLS, max(1, round(side / _CELL))) for side in (height, width))
    draw = filters.normal((batch, 2, *grid), images, generator)
    field = F.interpolate(draw, (height, width), mode="bicubic", align_corners=True)
    longest = field.square().sum(1, keepdim=True).amax((2, 3), keepdim=True).sqrt()
    return field / longest * filters.column(reach, images)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "shift_right",
        "geometry",
        {"shift_x": 1.0},
        (0.3, 4.0),
        flow=shift_sideways,
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "shift_left",
        "geometry",
        {"shift_x": -1.0},
        (-0.3, -4.0),
        flow=shift_sideways,
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "shift_down",
        "geometry",
        {"shift_y": 1.0},
        (0.3, 4.0),
        flow=shift_vertically,
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "shift_up",
        "geometry",
        {"shift_y": -1.0},
        (-0.3, -4.0),
        flow=shift_vertically,
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "elastic_warp",
        "geometry",
        {"shift_x": 1.0, "shift_y": 1.0},
        (0.5, 8.0),
        flow=elastic_warp,
        dominance=False,
        inclusion=False,
    ),
)
