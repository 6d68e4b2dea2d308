"""Faults of the sensor: grain, colour speckle, rows, hot and flipped pixels."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from . import filters
from .record import Distortion


def luma_noise(images: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """White Gaussian noise, equal in the three channels; sigma in units of the full range."""
    batch, _, height, width = images.shape
    draw = filters.normal((batch, 1, height, width), images, generator)
    return (images + filters.column(sigma, images) * draw).clamp(0, 1)


_READ_SHARE = 0.1


def shot_noise(images: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """Photon and read noise, independent per channel in linear light; sigma = deviation of a white pixel.

    The Poisson-Gaussian model in its heteroscedastic normal form: variance = a * light + b, with a = sigma^2 and
    sqrt(b) = 0.1 sigma (Foi et al., "Practical Poissonian-Gaussian noise modeling", 2008, for the form).
    """
    light = filters.to_linear(images)
    deviation = filters.column(sigma, images) * torch.sqrt(light + _READ_SHARE**2)
    return filters.to_encoded(light + deviation * filters.normal(tuple(images.shape), images, generator))


def _grain(shape: tuple[int, ...], images: Tensor, generator: Generator, size: float) -> Tensor:
    """Correlated noise of unit deviation: white noise through a Gaussian of ``size`` pixels."""
    draw = filters.fixed_gaussian(filters.normal(shape, images, generator), size)
    return draw / draw.std((2, 3), keepdim=True)


def chroma_noise(images: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """Colour speckle of about two pixels at constant luma; sigma of B - Y and R - Y in units of the full range."""
    batch, _, height, width = images.shape
    y, chroma = filters.split_chroma(images)
    draw = _grain((batch, 2, height, width), images, generator, 0.8)
    return filters.join_chroma(y, chroma + filters.column(sigma, images) * draw).clamp(0, 1)


def film_grain(images: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """Soft luminance grain, strongest in the midtones; sigma at mid grey in units of the full range."""
    batch, _, height, width = images.shape
    y = filters.luma(images)
    midtone = 0.3 + 0.7 * (4 * y * (1 - y))
    draw = _grain((batch, 1, height, width), images, generator, 1.0)
    return (images + filters.column(sigma, images) * midtone * draw).clamp(0, 1)


def row_noise(images: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """One Gaussian offset for each row, as from unequal read-out amplifiers; sigma in units of the full range."""
    draw = filters.normal((images.shape[0], 1, images.shape[2], 1), images, generator)
    return (images + filters.column(sigma, images) * draw).clamp(0, 1)


def hot_pixels(images: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """Pixels stuck at a saturated colour (one or two channels full, the rest empty); share of all pixels."""
    batch, _, height, width = images.shape
    place = filters.uniform((batch, 1, height, width), images, generator)
    hue = filters.uniform((batch, 1, height, width), images, generator)
    code = (hue * 6).floor() + 1
    # the binary digits of 1..6: every saturated colour, neither black nor white
    colour = torch.cat([torch.remainder(torch.div(code, 2**k, rounding_mode="floor"), 2) for k in range(3)], dim=1)
    return torch.where(place < filters.column(share, images), colour, images).clamp(0, 1)


def impulse_noise(images: Tensor, share: Tensor, generator: Generator) -> Tensor:
    """Salt and pepper: pixels flipped to black or white; share of all pixels."""
    batch, _, height, width = images.shape
    place = filters.uniform((batch, 1, height, width), images, generator)
    value = filters.uniform((batch, 1, height, width), images, generator).round()
    return torch.where(place < filters.column(share, images), value, images).clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion("luma_noise", "sensor", {"noise": 1.0}, (0.01, 0.28), luma_noise, geometric=True),
    Distortion(
        "shot_noise",
        "sensor",
        {"noise": 1.0, "chroma_noise": 1.0},
        (0.01, 0.4),
        shot_noise,
        geometric=True,
        source="Foi et al. 2008, Poisson-Gaussian model",
    ),
    Distortion("chroma_noise", "sensor", {"chroma_noise": 1.0}, (0.012, 0.3), chroma_noise, geometric=True),
    Distortion("film_grain", "sensor", {"noise": 1.0}, (0.01, 0.2), film_grain, geometric=True),
    Distortion("row_noise", "sensor", {"noise": 1.0}, (0.006, 0.2), row_noise, geometric=True),
    Distortion("hot_pixels", "sensor", {"impulse": 1.0}, (2e-4, 0.06), hot_pixels, geometric=True),
    Distortion("impulse_noise", "sensor", {"impulse": 1.0}, (2e-4, 0.15), impulse_noise, geometric=True),
)
