"""Tone and colour: brightness, contrast, saturation, casts, and too few levels.

Each operator moves one axis and leaves the others alone as far as the gamut allows: contrast acts on luma, saturation
and casts on chroma.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from . import filters
from .record import Distortion


def offset(images: Tensor, amount: Tensor, generator: Generator) -> Tensor:
    """Add ``amount`` (signed, units of the full range) to all channels."""
    return (images + filters.column(amount, images)).clamp(0, 1)


def gamma(images: Tensor, exponent: Tensor, generator: Generator) -> Tensor:
    """Raise the encoded values to ``exponent``: above 1 darkens the midtones, below 1 lightens them."""
    # a tiny floor keeps 0 ** exponent from ever meeting an infinite slope
    return (images.clamp(min=1e-8) ** filters.column(exponent, images)).clamp(0, 1)


def raise_contrast(images: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    """Stretch luma about the picture's mean by ``factor`` >= 1.

    Chroma grows by the square root of it, which about makes up for the colour that black and white swallow.
    """
    gain = filters.column(factor, images)
    y = filters.luma(images)
    mean = y.mean((2, 3), keepdim=True)
    return (mean + gain * (y - mean) + gain.sqrt() * (images - y)).clamp(0, 1)


def lower_contrast(images: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    """Scale luma about the picture's mean by ``factor`` <= 1; chroma kept."""
    y = filters.luma(images)
    mean = y.mean((2, 3), keepdim=True)
    return (images + (filters.column(factor, images) - 1) * (y - mean)).clamp(0, 1)


def fade(images: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    """Scale all channels towards the grey of the picture's mean luma by ``factor``: a faded print."""
    mean = filters.luma(images).mean((2, 3), keepdim=True)
    return (mean + filters.column(factor, images) * (images - mean)).clamp(0, 1)


def saturation(images: Tensor, factor: Tensor, generator: Generator) -> Tensor:
    """Scale chroma by ``factor``; luma kept."""
    y = filters.luma(images)
    return (y + filters.column(factor, images) * (images - y)).clamp(0, 1)


# Casts of zero luma along two independent directions: B - (R + G) / 2 and R - G, neither moving the other.
_BLUE = (-0.114 / 0.886, -0.114 / 0.886, 1.0)
_RED_GREEN_RATIO = (0.299 + 0.114 / 2) / (0.587 + 0.114 / 2)
_RED = (1.0, -_RED_GREEN_RATIO, (1.0 - _RED_GREEN_RATIO) / 2)


def _cast(images: Tensor, amount: Tensor, direction: tuple[float, float, float]) -> Tensor:
    vector = torch.tensor(direction, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images + filters.column(amount, images) * vector).clamp(0, 1)


def cast_blue(images: Tensor, amount: Tensor, generator: Generator) -> Tensor:
    """Add ``amount`` (signed, units of the full range) of blue at constant luma; negative is yellow."""
    return _cast(images, amount, _BLUE)


def cast_red(images: Tensor, amount: Tensor, generator: Generator) -> Tensor:
    """Add ``amount`` (signed, units of the full range) of red at constant luma; negative is green."""
    return _cast(images, amount, _RED)


def posterize(images: Tensor, levels: Tensor, generator: Generator) -> Tensor:
    """Round each channel to ``levels`` even steps (fractional counts allowed)."""
    step = 1 / (filters.column(levels, images) - 1)
    return (torch.round(images / step) * step).clamp(0, 1)


def contour_banding(images: Tensor, step: Tensor, generator: Generator) -> Tensor:
    """Contours in smooth areas: the soft base of luma is rounded to ``step`` (full range = 1), fine detail stays."""
    base = filters.fixed_gaussian(filters.luma(images), 2.0)
    width = filters.column(step, images)
    return (images + torch.round(base / width) * width - base).clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion("brighten", "tone", {"brightness": 1.0}, (0.02, 0.35), offset, inclusion=False),
    Distortion("darken", "tone", {"brightness": -1.0}, (-0.02, -0.35), offset, inclusion=False),
    Distortion(
        "gamma_lighten",
        "tone",
        {"brightness": 1.0, "contrast": -0.5},
        (0.94, 0.33),
        gamma,
        geometric=True,
        inclusion=False,
    ),
    Distortion("gamma_darken", "tone", {"brightness": -1.0}, (1.06, 3.2), gamma, geometric=True, inclusion=False),
    Distortion("contrast_up", "tone", {"contrast": 1.0}, (1.06, 2.5), raise_contrast, geometric=True, inclusion=False),
    Distortion(
        "contrast_down", "tone", {"contrast": -1.0}, (0.93, 0.15), lower_contrast, inclusion=False, smooths=True
    ),
    Distortion(
        "fade", "tone", {"contrast": -1.0, "saturation": -1.0}, (0.94, 0.15), fade, inclusion=False, smooths=True
    ),
    Distortion("saturate", "tone", {"saturation": 1.0}, (1.12, 4.0), saturation, geometric=True, inclusion=False),
    Distortion("desaturate", "tone", {"saturation": -1.0}, (0.9, 0.0), saturation, inclusion=False, smooths=True),
    Distortion("tint_blue", "tone", {"tint_blue": 1.0}, (0.03, 0.4), cast_blue, inclusion=False),
    Distortion("tint_yellow", "tone", {"tint_blue": -1.0}, (-0.03, -0.4), cast_blue, inclusion=False),
    Distortion("tint_red", "tone", {"tint_red": 1.0}, (0.015, 0.25), cast_red, inclusion=False),
    Distortion("tint_green", "tone", {"tint_red": -1.0}, (-0.015, -0.25), cast_red, inclusion=False),
    Distortion(
        "posterize", "tone", {"banding": 1.0}, (40.0, 3.0), posterize, geometric=True, dominance=False, inclusion=False
    ),
    Distortion(
        "contour_banding",
        "tone",
        {"banding": 1.0},
        (0.02, 0.35),
        contour_banding,
        geometric=True,
        dominance=False,
        inclusion=False,
    ),
)
"""Flattening attenuates noise that came before it: ``smooths``. Rounding may hide it or bring it out: no dominance."""
