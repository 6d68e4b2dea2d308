"""Faults of the lens: blur, colour fringes, vignetting, stray light."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from . import filters
from .record import Distortion


def gaussian_blur(images: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """Gaussian blur; sigma in pixels."""
    return filters.gaussian_blur(images, sigma).clamp(0, 1)


def _kernel_grid(radius: int, images: Tensor) -> tuple[Tensor, Tensor]:
    steps = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    return steps.view(1, 1, -1), steps.view(1, -1, 1)


def defocus_blur(images: Tensor, disk_radius: Tensor, generator: Generator) -> Tensor:
    """Uniform disk, the point spread of an ideal lens out of focus; radius in pixels, rim anti-aliased."""
    disk_radius = disk_radius.to(images)
    x, y = _kernel_grid(math.ceil(float(disk_radius.max()) + 0.5), images)
    kernels = (disk_radius.view(-1, 1, 1) + 0.5 - torch.sqrt(x * x + y * y)).clamp(0, 1)
    return filters.spectral_filter(images, kernels / kernels.sum((1, 2), keepdim=True)).clamp(0, 1)


def motion_blur(images: Tensor, length: Tensor, generator: Generator) -> Tensor:
    """Straight camera motion in a random direction; length in pixels (1 = none), line anti-aliased."""
    angle = (filters.uniform((images.shape[0],), images, generator) * math.pi).view(-1, 1, 1)
    length = length.to(images)
    x, y = _kernel_grid(math.ceil(float(length.max()) / 2 + 1), images)
    along = x * torch.cos(angle) + y * torch.sin(angle)
    across = y * torch.cos(angle) - x * torch.sin(angle)
    kernels = (length.view(-1, 1, 1) / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(min=0)
    return filters.spectral_filter(images, kernels / kernels.sum((1, 2), keepdim=True)).clamp(0, 1)


def _displace_red_and_blue(images: Tensor, red_flow: Tensor) -> Tensor:
    """Red moved by ``red_flow`` (B, 2, H, W), blue by its opposite, green kept."""
    red = filters.displaced(images[:, 0:1], red_flow)
    blue = filters.displaced(images[:, 2:3], -red_flow)
    return torch.cat((red, images[:, 1:2], blue), dim=1).clamp(0, 1)


def chromatic_aberration(images: Tensor, reach: Tensor, generator: Generator) -> Tensor:
    """Lateral chromatic aberration: red magnified, blue reduced; reach = displacement at the corners in pixels."""
    x, y = filters.centred_coordinates(images)
    flow = torch.stack(torch.broadcast_tensors(x, y), dim=1)
    return _displace_red_and_blue(images, flow * filters.column(reach, images))


def channel_shift(images: Tensor, distance: Tensor, generator: Generator) -> Tensor:
    """Registration error: red and blue displaced in opposite random directions; distance in pixels."""
    angle = filters.uniform((images.shape[0],), images, generator) * (2 * math.pi)
    flow = torch.stack((torch.cos(angle), torch.sin(angle)), dim=1)[:, :, None, None]
    flow = flow.expand(-1, -1, *images.shape[-2:])
    return _displace_red_and_blue(images, flow * filters.column(distance, images))


def vignetting(images: Tensor, tangent: Tensor, generator: Generator) -> Tensor:
    """Natural vignetting, the cosine-fourth law in linear light; tangent of the field angle at the corners."""
    x, y = filters.centred_coordinates(images)
    radius_squared = (x * x + y * y).unsqueeze(1)
    gain = 1 / (1 + filters.column(tangent, images) ** 2 * radius_squared) ** 2
    return filters.to_encoded(filters.to_linear(images) * gain)


_VEIL_FLOOR = 0.4


def veiling_glare(images: Tensor, fraction: Tensor, generator: Generator) -> Tensor:
    """Stray light: a share ``fraction`` of the linear light is replaced by an even veil.

    The veil is white at 0.4 + 0.6 x the picture's mean light, so it never darkens a picture.
    """
    light = filters.to_linear(images)
    veil = _VEIL_FLOOR + (1 - _VEIL_FLOOR) * filters.luma(light).mean((2, 3), keepdim=True)
    return filters.to_encoded(torch.lerp(light, veil.expand_as(light), filters.column(fraction, images)))


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion("gaussian_blur", "optics", {"blur": 1.0}, (0.4, 5.0), gaussian_blur, geometric=True, smooths=True),
    Distortion("defocus_blur", "optics", {"blur": 1.0}, (0.6, 8.0), defocus_blur, geometric=True, smooths=True),
    Distortion("motion_blur", "optics", {"blur": 1.0}, (1.6, 28.0), motion_blur, geometric=True, smooths=True),
    Distortion("chromatic_aberration", "optics", {"fringing": 1.0}, (0.6, 9.0), chromatic_aberration, geometric=True),
    Distortion("channel_shift", "optics", {"fringing": 1.0}, (0.3, 5.0), channel_shift, geometric=True),
    Distortion(
        "vignetting",
        "optics",
        {"brightness": -1.0},
        (0.3, 2.2),
        vignetting,
        source="cosine-fourth law of illumination",
        inclusion=False,
        smooths=True,
    ),
    Distortion(
        "veiling_glare",
        "optics",
        {"contrast": -1.0, "brightness": 0.7},
        (0.01, 0.6),
        veiling_glare,
        geometric=True,
        inclusion=False,
        smooths=True,
    ),
)
"""Vignetting and glare attenuate noise that came before them, hence ``smooths``."""
