"""Tone and colour: brightness, contrast, saturation, casts, and too few levels.

Each operator moves one axis and leaves the others alone as far as the gamut allows: contrast acts on luma, saturation
and casts on chroma.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import filters
from .draws import Randomness
from .quantisation import contour_banding, dither, palette, posterize
from .record import Distortion


def offset(images: Tensor, amount: Tensor, generator: Randomness) -> Tensor:
    """Add ``amount`` (signed, units of the full range) to all channels."""
    return (images + filters.column(amount, images)).clamp(0, 1)


def gamma(images: Tensor, exponent: Tensor, generator: Randomness) -> Tensor:
    """Raise the encoded values to ``exponent``: above 1 darkens the midtones, below 1 lightens them."""
    # a tiny floor keeps 0 ** exponent from ever meeting an infinite slope
    return (images.clamp(min=1e-8) ** filters.column(exponent, images)).clamp(0, 1)


def raise_contrast(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Stretch luma about the picture's mean by ``factor`` >= 1.

    Chroma grows by the square root of it, which about makes up for the colour that black and white swallow.
    """
    gain = filters.column(factor, images)
    y = filters.luma(images)
    mean = y.mean((2, 3), keepdim=True)
    return (mean + gain * (y - mean) + gain.sqrt() * (images - y)).clamp(0, 1)


def lower_contrast(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Scale luma about the picture's mean by ``factor`` <= 1; chroma kept."""
    y = filters.luma(images)
    mean = y.mean((2, 3), keepdim=True)
    return (images + (filters.column(factor, images) - 1) * (y - mean)).clamp(0, 1)


def fade(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Scale all channels towards the grey of the picture's mean luma by ``factor``: a faded print."""
    mean = filters.luma(images).mean((2, 3), keepdim=True)
    return (mean + filters.column(factor, images) * (images - mean)).clamp(0, 1)


def saturation(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
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


def cast_blue(images: Tensor, amount: Tensor, generator: Randomness) -> Tensor:
    """Add ``amount`` (signed, units of the full range) of blue at constant luma; negative is yellow."""
    return _cast(images, amount, _BLUE)


def cast_red(images: Tensor, amount: Tensor, generator: Randomness) -> Tensor:
    """Add ``amount`` (signed, units of the full range) of red at constant luma; negative is green."""
    return _cast(images, amount, _RED)


def exposure(images: Tensor, stops: Tensor, generator: Randomness) -> Tensor:
    """Double linear light ``stops`` times and let what exceeds white burn out."""
    return filters.to_encoded(filters.to_linear(images) * filters.column(torch.exp2(stops), images))


# BT.709, the luminance of linear sRGB.
_LUMINANCE = (0.2126, 0.7152, 0.0722)


def white_balance(images: Tensor, stops: Tensor, generator: Randomness) -> Tensor:
    """Wrong white balance: linear red doubled and blue halved ``stops`` times, white kept at its luminance.

    Above 0 warm, below 0 cool.
    """
    factor = filters.column(torch.exp2(stops), images)
    red, green, blue = _LUMINANCE
    gains = torch.cat((factor, torch.ones_like(factor), 1 / factor), dim=1)
    gains = gains / (red * factor + green + blue / factor)
    return filters.to_encoded(filters.to_linear(images) * gains)


def turn_hue(images: Tensor, degrees: Tensor, generator: Randomness) -> Tensor:
    """Turn the chroma of every pixel by the same angle in the plane of Cb and Cr; luma kept."""
    y, chroma = filters.split_chroma(images)
    # Cb and Cr are the colour differences over twice the share of light that the two other channels have (BT.601).
    blue_scale, red_scale = 2 * (1 - filters.LUMA[2]), 2 * (1 - filters.LUMA[0])
    angle = filters.column(torch.deg2rad(degrees), images)
    cos, sin = angle.cos(), angle.sin()
    cb, cr = chroma[:, 0:1] / blue_scale, chroma[:, 1:2] / red_scale
    turned = torch.cat(((cb * cos - cr * sin) * blue_scale, (cb * sin + cr * cos) * red_scale), dim=1)
    return filters.join_chroma(y, turned).clamp(0, 1)


_FAINT = 4 / 255


def _hue_pattern(before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """Which way the colour of each pixel went: blue and red parts of a vector of length 1, shorter where grey."""
    red, green, blue = (after - before).unbind(1)
    towards_blue, towards_red = blue - (red + green) / 2, red - green
    length = (towards_blue**2 + towards_red**2 + _FAINT**2).sqrt()
    return {"tint_blue": towards_blue / length, "tint_red": towards_red / length}


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "brighten",
        "tone",
        {"brightness": 1.0},
        (0.012, 0.35),
        offset,
        geometric=True,
        inclusion=False,
        source="offset of encoded values; own range, from just visible to a third of the full range",
    ),
    Distortion(
        "darken",
        "tone",
        {"brightness": -1.0},
        (-0.012, -0.35),
        offset,
        geometric=True,
        inclusion=False,
        source="offset of encoded values; own range, from just visible to a third of the full range",
    ),
    Distortion(
        "gamma_lighten",
        "tone",
        {"brightness": 1.0, "contrast": -0.5, "saturation": -0.4},
        (0.965, 0.33),
        gamma,
        geometric=True,
        inclusion=False,
        source="power law on encoded values; own range, about 1 / 3 at the end",
    ),
    Distortion(
        "gamma_darken",
        "tone",
        {"brightness": -1.0},
        (1.04, 3.2),
        gamma,
        geometric=True,
        inclusion=False,
        source="power law on encoded values; own range, about 3 at the end",
    ),
    Distortion(
        "contrast_up",
        "tone",
        {"contrast": 1.0},
        (1.045, 2.8),
        raise_contrast,
        geometric=True,
        inclusion=False,
        source="contrast change of TID2013 (17) and KADID-10k (25), about the mean luma; own range",
    ),
    Distortion(
        "contrast_down",
        "tone",
        {"contrast": -1.0},
        (0.94, 0.15),
        lower_contrast,
        inclusion=False,
        smooths=True,
        source="contrast change of TID2013 (17) and KADID-10k (25), about the mean luma; own range",
    ),
    Distortion(
        "fade",
        "tone",
        {"contrast": -1.0, "saturation": -1.0},
        (0.945, 0.15),
        fade,
        inclusion=False,
        smooths=True,
        source="own construction: a print that fades to grey, to 15% of its range",
    ),
    Distortion(
        "saturate",
        "tone",
        {"saturation": 1.0},
        (1.2, 9.0),
        saturation,
        geometric=True,
        inclusion=False,
        source="change of colour saturation of TID2013 (18) and KADID-10k (7, 8), upwards; own range",
    ),
    Distortion(
        "desaturate",
        "tone",
        {"saturation": -1.0},
        (0.82, 0.0),
        saturation,
        inclusion=False,
        smooths=True,
        source="change of colour saturation of TID2013 (18) and KADID-10k (7, 8), downwards until grey",
    ),
    Distortion(
        "tint_blue",
        "tone",
        {"tint_blue": 1.0},
        (0.01, 0.35),
        cast_blue,
        geometric=True,
        inclusion=False,
        source="own construction: a cast along one axis at constant luma; own range",
    ),
    Distortion(
        "tint_yellow",
        "tone",
        {"tint_blue": -1.0},
        (-0.01, -0.35),
        cast_blue,
        geometric=True,
        inclusion=False,
        source="own construction: a cast along one axis at constant luma; own range",
    ),
    Distortion(
        "tint_red",
        "tone",
        {"tint_red": 1.0},
        (0.007, 0.22),
        cast_red,
        geometric=True,
        inclusion=False,
        source="own construction: a cast along one axis at constant luma; own range",
    ),
    Distortion(
        "tint_green",
        "tone",
        {"tint_red": -1.0},
        (-0.007, -0.22),
        cast_red,
        geometric=True,
        inclusion=False,
        source="own construction: a cast along one axis at constant luma; own range",
    ),
    Distortion(
        "posterize",
        "tone",
        {"banding": 1.0},
        (40.0, 3.0),
        posterize,
        geometric=True,
        dominance=False,
        inclusion=False,
        source="uniform quantisation of TID2013 (7) and KADID-10k (22); own range",
    ),
    Distortion(
        "contour_banding",
        "tone",
        {"banding": 1.0},
        (5.7, 1.05),
        contour_banding,
        dominance=False,
        inclusion=False,
        source="own construction: contours as coarse video quantisation leaves them in skies; own range",
    ),
    Distortion(
        "clipping",
        "tone",
        {"brightness": 1.0},
        (0.12, 2.4),
        exposure,
        geometric=True,
        inclusion=False,
        source="own construction: over-exposed by up to 2.4 stops, in linear light (IEC 61966-2-1)",
    ),
    Distortion(
        "warm",
        "tone",
        {"tint_blue": -1.0, "tint_red": 0.75},
        (0.05, 1.4),
        white_balance,
        geometric=True,
        inclusion=False,
        source="own construction: channel gains in linear light as in von Kries adaptation; own range",
    ),
    Distortion(
        "cool",
        "tone",
        {"tint_blue": 1.0, "tint_red": -0.75},
        (-0.05, -1.4),
        white_balance,
        geometric=True,
        inclusion=False,
        source="own construction: channel gains in linear light as in von Kries adaptation; own range",
    ),
    Distortion(
        "hue",
        "tone",
        {"tint_blue": 1.0, "tint_red": 1.0},
        (7.5, 180.0),
        turn_hue,
        geometric=True,
        inclusion=False,
        source="own construction: rotation in the plane of Cb and Cr (BT.601), up to the opposite hue",
        profile=_hue_pattern,
        one_direction=False,
    ),
    Distortion(
        "dither",
        "tone",
        {"noise": 1.0, "chroma_noise": 1.0},
        (24.0, 2.0),
        dither,
        geometric=True,
        dominance=False,
        inclusion=False,
        source="quantisation with dither of TID2013 (22); thresholds: R2 sequence of M. Roberts, 2018; own range",
    ),
    Distortion(
        "palette",
        "tone",
        {"banding": 1.0},
        (4.8, 1.2),
        palette,
        dominance=False,
        inclusion=False,
        source="colour quantisation of KADID-10k (6); own construction of the palette, own range",
    ),
)
"""Flattening attenuates noise that came before it: ``smooths``. Rounding may hide it or bring it out: no dominance."""
