"""Regions: soft masks that say where an operator acts, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..validation import unknown_name
from . import filters
from .draws import Randomness

# Smooth fields are built on a grid this many times coarser than the picture and then enlarged.
_REDUCTION = 4
# BT.709, the luminance of the sRGB primaries: it says where a picture looks dark or bright. The operators split colour
# as JPEG does, with filters.LUMA.
_LUMINANCE = (0.2126, 0.7152, 0.0722)


def _uniform(images: Tensor, generator: Randomness, low: float, high: float) -> Tensor:
    """One number in [low, high) for each image: (B, 1, 1, 1)."""
    return low + (high - low) * filters.uniform((images.shape[0], 1, 1, 1), images, generator)


def _low_size(images: Tensor) -> tuple[int, int]:
    height, width = images.shape[-2:]
    return max(8, height // _REDUCTION), max(8, width // _REDUCTION)


def _smooth_field(images: Tensor, generator: Randomness) -> Tensor:
    """Random field (B, 1, h, w) at reduced size: two octaves of Gaussian noise on coarse grids."""
    height, width = images.shape[-2:]
    size = _low_size(images)
    field = torch.zeros(images.shape[0], 1, *size, device=images.device, dtype=images.dtype)
    share = _uniform(images, generator, 0.1, 0.7)
    for cells, amplitude in ((3, 1 - share), (7, share)):
        rows = min(24, math.ceil(cells * height / min(height, width)))
        columns = min(24, math.ceil(cells * width / min(height, width)))
        noise = filters.normal((images.shape[0], 1, rows, columns), images, generator)
        field = field + amplitude * F.interpolate(noise, size=size, mode="bicubic", align_corners=True)
    return field


def _above(field: Tensor, images: Tensor, coverage: Tensor, softness: Tensor) -> Tensor:
    """Masks where a field is among its highest values.

    Args:
        field: (B, 1, h, w) at reduced size.
        images: (B, 3, H, W), for the size of the result.
        coverage: (B, K) in [0, 1]: share of the picture where each mask is above one half.
        softness: (B, 1, 1, 1): width of the soft edge in standard deviations of the field.

    Returns:
        (B, K, H, W) in [0, 1], exactly 0 and 1 away from the edge; larger coverage is nowhere smaller.
    """
    spread, mean = torch.std_mean(field, dim=(2, 3), keepdim=True)
    field = (field - mean) / (spread + 1e-6)
    ordered = field.flatten(1).sort(dim=1, descending=True).values
    place = (coverage * (ordered.shape[1] - 1)).round().long()
    threshold = ordered.gather(1, place)[:, :, None, None]
    large = F.interpolate(field, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return ((large - threshold) / softness + 0.5).clamp(0, 1)


def _whole(images: Tensor, generator: Randomness) -> Tensor:
    return torch.ones_like(images[:, :1])


def _soft(images: Tensor, generator: Randomness) -> Tensor:
    field = _smooth_field(images, generator)
    coverage = _uniform(images, generator, 0.15, 0.7).flatten(1)
    return _above(field, images, coverage, _uniform(images, generator, 0.1, 0.8))


def _axes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates from the centre: x (1, 1, 1, W) and y (1, 1, H, 1)."""
    height, width = images.shape[-2:]
    xs = torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2
    ys = torch.arange(height, device=images.device, dtype=images.dtype) - (height - 1) / 2
    return xs.view(1, 1, 1, -1), ys.view(1, 1, -1, 1)


def _gradient(images: Tensor, generator: Randomness) -> Tensor:
    height, width = images.shape[-2:]
    xs, ys = _axes(images)
    angle = _uniform(images, generator, 0.0, 2 * math.pi)
    cos, sin = angle.cos(), angle.sin()
    # Divided by the extent of the picture along this direction: -0.5 ... 0.5.
    linear = (xs * cos + ys * sin) / (width * cos.abs() + height * sin.abs())
    centre_x = _uniform(images, generator, -0.4, 0.4) * width
    centre_y = _uniform(images, generator, -0.4, 0.4) * height
    radial = 0.5 - ((xs - centre_x).square() + (ys - centre_y).square()).sqrt() / (0.75 * math.hypot(height, width))
    inverted = _uniform(images, generator, 0.0, 1.0) < 0.3
    radial = torch.where(inverted, -radial, radial)
    is_linear = _uniform(images, generator, 0.0, 1.0) < 0.5
    length = _uniform(images, generator, 0.5, 1.0)
    return (torch.where(is_linear, linear, radial) / length + 0.5).clamp(0, 1)


def _image_driven(images: Tensor, generator: Randomness) -> Tensor:
    weights = torch.tensor(_LUMINANCE, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    luma = (images * weights).sum(dim=1, keepdim=True)
    size = _low_size(images)
    steps_x = F.pad((luma[..., 1:] - luma[..., :-1]).abs(), (0, 1))
    steps_y = F.pad((luma[..., 1:, :] - luma[..., :-1, :]).abs(), (0, 0, 0, 1))
    pooled = F.adaptive_avg_pool2d(torch.cat((luma, luma.square(), steps_x + steps_y), dim=1), size)
    light, square, edges = pooled.split(1, dim=1)
    texture = F.avg_pool2d((square - light.square()).clamp_min(0), 5, stride=1, padding=2, count_include_pad=False)
    features = torch.cat((-light, light, edges, texture.sqrt()), dim=1)
    features = F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
    choice = (_uniform(images, generator, 0.0, 1.0) * 4).long().clamp(max=3)
    field = features.gather(1, choice.expand(-1, 1, *size))
    coverage = _uniform(images, generator, 0.2, 0.6).flatten(1)
    return _above(field, images, coverage, _uniform(images, generator, 0.3, 1.2))


def _shape(images: Tensor, generator: Randomness) -> Tensor:
    height, width = images.shape[-2:]
    side = min(height, width)
    xs, ys = _axes(images)
    x = xs - _uniform(images, generator, -0.35, 0.35) * width
    y = ys - _uniform(images, generator, -0.35, 0.35) * height
    angle = _uniform(images, generator, 0.0, math.pi)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    half_u = (_uniform(images, generator, 0.08, 0.3) * side).clamp_min(2.0)
    half_v = (_uniform(images, generator, 0.08, 0.3) * side).clamp_min(2.0)
    rectangle = torch.maximum(u.abs() - half_u, v.abs() - half_v)
    ellipse = (((u / half_u).square() + (v / half_v).square()).sqrt() - 1) * torch.minimum(half_u, half_v)
    is_rectangle = _uniform(images, generator, 0.0, 1.0) < 0.5
    edge = _uniform(images, generator, 1.0, 3.0)
    # Half inside, half outside of the outline, in pixels.
    return (0.5 - torch.where(is_rectangle, rectangle, ellipse) / edge).clamp(0, 1)


_DRAW: dict[str, Callable[[Tensor, Randomness], Tensor]] = {
    "whole": _whole,
    "soft": _soft,
    "gradient": _gradient,
    "image": _image_driven,
    "shape": _shape,
}

REGIONS: tuple[str, ...] = tuple(_DRAW)
"""Kinds of region: the whole picture; smooth random blobs with a soft edge; a linear or radial ramp; driven by the
picture (shadows, highlights, edges or texture); one small rectangle or ellipse."""

NESTED = "nested"
"""Region kind of inclusion tiers, which also needs an extent: see :func:`grown_regions`."""


def draw_region(kind: str, images: Tensor, generator: Randomness) -> Tensor:
    """Random region of one kind for each image.

    Args:
        kind: one of ``REGIONS``.
        images: (B, 3, H, W) in [0, 1]; ``image`` regions follow their content, the others only their size.
        generator: source of all randomness, on the device of ``images``.

    Returns:
        (B, 1, H, W) in [0, 1]: 0 = the operator does not act, 1 = it acts in full.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in _DRAW:
        raise ValueError(unknown_name("region", kind, REGIONS))
    return _DRAW[kind](images, generator)


def grown_regions(images: Tensor, extents: Tensor, generator: Randomness) -> Tensor:
    """Regions cut from one random smooth field at several extents, so that each holds all smaller ones.

    Args:
        images: (B, 3, H, W), for batch, size, dtype and device.
        extents: (B, K) in [0, 1], shares of the picture that are covered.
        generator: source of all randomness: one draw gives the same field for any extents.

    Returns:
        (B, K, H, W) in [0, 1]: a larger extent is nowhere smaller.
    """
    field = _smooth_field(images, generator)
    return _above(field, images, extents.to(images, non_blocking=True), _uniform(images, generator, 0.1, 0.8))


def nested_regions(images: Tensor, count: int, generator: Randomness) -> Tensor:
    """A stack of growing, nested regions (B, count, 1, H, W) in [0, 1], from a sixth of the picture to most of it.

    Args:
        images: (B, 3, H, W), for batch, size, dtype and device.
        count: how many.
        generator: source of all randomness, on the device of ``images``.

    Raises:
        ValueError: count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    extents = torch.linspace(1 / 6, 0.9, count, device=images.device, dtype=images.dtype)
    return grown_regions(images, extents.expand(images.shape[0], -1), generator).unsqueeze(2)
