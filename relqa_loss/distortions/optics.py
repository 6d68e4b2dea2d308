"""Faults of the lens and of the film: blur, colour fringes, vignetting, stray light, halation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import filters
from .draws import Randomness
from .record import Distortion
from .warp import warp


def gaussian_blur(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Gaussian blur; sigma in pixels."""
    return filters.gaussian_blur(images, sigma).clamp(0, 1)


def _kernel_grid(radius: int, images: Tensor) -> tuple[Tensor, Tensor]:
    steps = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    return steps.view(1, 1, -1), steps.view(1, -1, 1)


def defocus_blur(images: Tensor, disk_radius: Tensor, generator: Randomness) -> Tensor:
    """Uniform disk, the point spread of an ideal lens out of focus; radius in pixels, rim anti-aliased."""
    x, y = _kernel_grid(math.ceil(float(disk_radius.max()) + 0.5), images)
    kernels = (disk_radius.to(images, non_blocking=True).view(-1, 1, 1) + 0.5 - torch.sqrt(x * x + y * y)).clamp(0, 1)
    return filters.spectral_filter(images, kernels / kernels.sum((1, 2), keepdim=True)).clamp(0, 1)


def motion_blur(images: Tensor, length: Tensor, generator: Randomness) -> Tensor:
    """Straight camera motion in a random direction; length in pixels (1 = none), line anti-aliased."""
    angle = (filters.uniform((images.shape[0],), images, generator) * math.pi).view(-1, 1, 1)
    x, y = _kernel_grid(math.ceil(float(length.max()) / 2 + 1), images)
    half = length.to(images, non_blocking=True).view(-1, 1, 1) / 2
    along = x * torch.cos(angle) + y * torch.sin(angle)
    across = y * torch.cos(angle) - x * torch.sin(angle)
    kernels = (half + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(min=0)
    return filters.spectral_filter(images, kernels / kernels.sum((1, 2), keepdim=True)).clamp(0, 1)


def _displace_red_and_blue(images: Tensor, red_flow: Tensor) -> Tensor:
    """Red moved by ``red_flow`` (B, 2, H, W), blue by its opposite, green kept."""
    moved = warp(torch.cat((images[:, 0:1], images[:, 2:3])), torch.cat((red_flow, -red_flow)))
    red, blue = moved.chunk(2)
    return torch.cat((red, images[:, 1:2], blue), dim=1).clamp(0, 1)


def chromatic_aberration(images: Tensor, reach: Tensor, generator: Randomness) -> Tensor:
    """Lateral chromatic aberration: red magnified, blue reduced; reach = displacement at the corners in pixels.

    Less than a third of their distance from the centre: fringes, in pictures of a few pixels too.
    """
    x, y = filters.centred_coordinates(images)
    flow = torch.stack(torch.broadcast_tensors(x, y), dim=1)
    third = math.hypot(images.shape[-2] - 1, images.shape[-1] - 1) / 6
    return _displace_red_and_blue(images, flow * filters.below(filters.column(reach, images), third))


def channel_shift(images: Tensor, distance: Tensor, generator: Randomness) -> Tensor:
    """Registration error: red and blue displaced in opposite random directions; distance in pixels."""
    angle = filters.uniform((images.shape[0],), images, generator) * (2 * math.pi)
    flow = torch.stack((torch.cos(angle), torch.sin(angle)), dim=1)[:, :, None, None]
    flow = flow.expand(-1, -1, *images.shape[-2:])
    return _displace_red_and_blue(images, flow * filters.column(distance, images))


def vignetting(images: Tensor, tangent: Tensor, generator: Randomness) -> Tensor:
    """Natural vignetting, the cosine-fourth law in linear light; tangent of the field angle at the corners."""
    x, y = filters.centred_coordinates(images)
    radius_squared = (x * x + y * y).unsqueeze(1)
    gain = 1 / (1 + filters.column(tangent, images) ** 2 * radius_squared) ** 2
    return filters.to_encoded(filters.to_linear(images) * gain)


_DARK = 0.02


def _fall_off(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """How much of the local brightness is gone, relative to where most of it is."""
    first, second = filters.fixed_gaussian(torch.cat((filters.luma(before), filters.luma(after)), dim=1), 4.0).unbind(1)
    lost = (1 - (second + _DARK) / (first + _DARK)).clamp(min=0)
    share = lost / lost.amax((1, 2), keepdim=True).clamp(min=1e-3)
    return {"brightness": share, "saturation": share}


_VEIL_FLOOR = 0.4


def veiling_glare(images: Tensor, fraction: Tensor, generator: Randomness) -> Tensor:
    """Stray light: a share ``fraction`` of the linear light is replaced by an even veil.

    The veil is white at 0.4 + 0.6 x the picture's mean light, so it never darkens a picture.
    """
    light = filters.to_linear(images)
    veil = _VEIL_FLOOR + (1 - _VEIL_FLOOR) * filters.luma(light).mean((2, 3), keepdim=True)
    return filters.to_encoded(torch.lerp(light, veil.expand_as(light), filters.column(fraction, images)))


# Light that the film base sends back reaches the red-sensitive layer first, then green, then hardly blue.
_HALO = (1.0, 0.3, 0.08)
_HALO_SIGMA = (3.0, 10.0)


def halation(images: Tensor, strength: Tensor, generator: Randomness) -> Tensor:
    """Red glow around highlights, in linear light; strength = light sent back, in units of that of the highlights.

    Highlights are what exceeds half of the picture's greatest luminance. A narrow and a wide Gaussian, of 3 and 10
    pixels, share the glow evenly.
    """
    light = filters.to_linear(images)
    bright = filters.luma(light)
    threshold = bright.amax((2, 3), keepdim=True) / 2
    source = 2 * (bright - threshold).clamp(min=0)
    narrow, wide = (filters.fixed_gaussian(source, sigma) for sigma in _HALO_SIGMA)
    colour = torch.tensor(_HALO, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return filters.to_encoded(light + filters.column(strength, images) * colour * (narrow + wide) / 2)


def _glow(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """Where the glow has landed: the gain of red, relative to its greatest."""
    gain = (after[:, 0] - before[:, 0]).clamp(min=0)
    share = gain / gain.amax((1, 2), keepdim=True).clamp(min=1e-3)
    return {"tint_red": share, "brightness": share, "tint_blue": share}


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "gaussian_blur",
        "optics",
        {"blur": 1.0},
        (0.5, 5.0),
        gaussian_blur,
        geometric=True,
        smooths=True,
        source="Gaussian blur of TID2013 (8) and KADID-10k (1); own range, from just visible to severe",
    ),
    Distortion(
        "defocus_blur",
        "optics",
        {"blur": 1.0},
        (0.63, 8.0),
        defocus_blur,
        geometric=True,
        smooths=True,
        source="geometric optics: a uniform disk, the lens blur of KADID-10k (2); own range",
    ),
    Distortion(
        "motion_blur",
        "optics",
        {"blur": 1.0},
        (1.7, 28.0),
        motion_blur,
        geometric=True,
        smooths=True,
        source="straight motion at constant speed, the motion blur of KADID-10k (3); own range",
    ),
    Distortion(
        "chromatic_aberration",
        "optics",
        {"fringing": 1.0},
        (0.6, 13.0),
        chromatic_aberration,
        geometric=True,
        source="TID2013 (23): lateral aberration, magnification that grows with wavelength; own range",
    ),
    Distortion(
        "channel_shift",
        "optics",
        {"fringing": 1.0},
        (0.25, 5.0),
        channel_shift,
        geometric=True,
        source="own construction: channels out of register, from a quarter of a pixel; own range",
    ),
    Distortion(
        "vignetting",
        "optics",
        {"brightness": -1.0, "saturation": -0.4},
        (0.3, 2.2),
        vignetting,
        source="cosine-fourth law of illumination; own range, the corner seen at up to 66 degrees",
        inclusion=False,
        smooths=True,
        profile=_fall_off,
    ),
    Distortion(
        "veiling_glare",
        "optics",
        {"contrast": -1.0, "brightness": 0.7, "saturation": -0.7},
        (0.006, 0.6),
        veiling_glare,
        geometric=True,
        source="veiling glare index of ISO 9358 (stray light as a share of the field's), own range",
        inclusion=False,
        smooths=True,
    ),
    Distortion(
        "halation",
        "optics",
        {"brightness": 1.0, "tint_red": 0.7, "tint_blue": -0.7},
        (0.25, 16.0),
        halation,
        geometric=True,
        inclusion=False,
        source="own construction: spread of highlights in the film base; own colour, reach and range",
        profile=_glow,
    ),
)
"""Vignetting and glare attenuate noise that came before them, hence ``smooths``."""
