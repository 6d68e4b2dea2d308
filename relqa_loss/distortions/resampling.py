"""Faults of scaling: lost resolution, pixelation, sampling without a filter, combing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from . import filters
from .record import Distortion

_LEAST_UNFILTERED = 3.0


def _reduced(size: int, factor: float) -> int:
    return max(1, round(size / factor))


def _down_up(images: Tensor, factor: Tensor, down: str, up: str, antialias: bool) -> Tensor:
    """Scale each image down by its own factor and back; modes as in ``F.interpolate``.

    Without a filter, factors below 3 are that of 3 blended in: they would double a few rows only, and a factor of 2
    samples half a pixel off centre, which differs from the picture more than 3 does.
    """
    height, width = images.shape[-2:]
    results = []
    for image, value in zip(images.split(1), factor.tolist(), strict=True):
        used = value if antialias else max(value, _LEAST_UNFILTERED)
        size = (_reduced(height, used), _reduced(width, used))
        scaled = F.interpolate(F.interpolate(image, size, mode=down, antialias=antialias), (height, width), mode=up)
        results.append(scaled if value >= used else torch.lerp(image, scaled, (value - 1) / (used - 1)))
    return torch.cat(results).clamp(0, 1)


def downup_bicubic(images: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    """Bicubic with anti-aliasing down, bicubic up; factor >= 1."""
    return _down_up(images, factor, "bicubic", "bicubic", antialias=True)


def pixelate(images: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    """Means of cells of ``factor`` pixels, shown as flat cells."""
    return _down_up(images, factor, "area", "nearest-exact", antialias=False)


def downup_nearest(images: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    """Every ``factor``-th pixel, repeated: jagged edges."""
    return _down_up(images, factor, "nearest-exact", "nearest-exact", antialias=False)


def aliased_downsample(images: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    """Every ``factor``-th pixel without an anti-aliasing filter, bilinear up: moire and false detail."""
    return _down_up(images, factor, "nearest-exact", "bilinear", antialias=False)


def interlace(images: Tensor, distance: Tensor, generator: Generator) -> Tensor:
    """Combing: every other row displaced sideways by ``distance`` pixels, to a random side."""
    batch, _, height, width = images.shape
    side = filters.uniform((batch,), images, generator).round() * 2 - 1
    odd = (torch.arange(height, device=images.device) % 2 == 1).view(1, 1, height, 1)
    flow = torch.zeros(batch, 2, height, width, dtype=images.dtype, device=images.device)
    flow[:, 0] = (side * distance.to(images)).view(-1, 1, 1)
    return torch.where(odd, filters.displaced(images, flow), images).clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "downup_bicubic", "resampling", {"blur": 1.0}, (1.3, 10.0), downup_bicubic, geometric=True, smooths=True
    ),
    Distortion(
        "pixelate",
        "resampling",
        {"aliasing": 1.0, "blocking": 0.5},
        (1.15, 10.0),
        pixelate,
        geometric=True,
        smooths=True,
    ),
    Distortion(
        "downup_nearest",
        "resampling",
        {"aliasing": 1.0, "blocking": 0.5},
        (1.15, 8.0),
        downup_nearest,
        geometric=True,
        dominance=False,
    ),
    Distortion(
        "aliased_downsample",
        "resampling",
        {"aliasing": 1.0, "blur": 0.5},
        (1.15, 7.0),
        aliased_downsample,
        geometric=True,
        dominance=False,
    ),
    Distortion("interlace", "resampling", {"aliasing": 1.0}, (0.3, 8.0), interlace, geometric=True),
)
