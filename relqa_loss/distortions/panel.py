"""The panel: closed-form full-reference metrics of different families, without learned weights.

Each member is a function (distorted, reference) -> (B,), images (B, 3, H, W) in [0, 1], higher = worse, about 0
for equal images. Their scales differ: compare ranks or map them to one scale first. All members look at the picture at
viewing scale, about 32 pixels to a degree of visual angle once halved metrics have halved it. Use whole photographs or
crops of at least 256 px.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import MissingExtra
from ..validation import check_pair
from . import filters

Metric = Callable[[Tensor, Tensor], Tensor]

PIXELS_PER_DEGREE = 32.0
"""A picture 512 px high seen from about 3.5 times its height, as in the sessions behind TID2013 and KADID-10k."""

MIN_PANEL_SIDE = 128
"""Below this (64 px once halved) the filters of the metrics no longer fit the picture."""


@dataclass(frozen=True)
class PanelMember:
    """One metric of the panel.

    Attributes:
        name: unique name, ``snake_case``.
        function: (distorted, reference), both (B, 3, H, W) in [0, 1] -> (B,), higher = worse.
        family: what the metric looks at; members of one family share their blind spots.
        sees_colour: False if two pictures of equal luminance are the same to it.
        sees_level: True if it notices a uniform change of brightness.
    """

    name: str
    function: Metric
    family: str
    sees_colour: bool
    sees_level: bool = False


def _piq() -> ModuleType:
    try:
        import piq
    except ImportError as error:
        raise MissingExtra("piq", "benchmark") from error
    return piq


def _prepare(distorted: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Checked, float32, clamped copies: the metrics are defined on [0, 1] only."""
    check_pair("distorted", distorted, "reference", reference)
    if min(distorted.shape[2:]) < MIN_PANEL_SIDE:
        raise ValueError(
            f"distorted must be at least {MIN_PANEL_SIDE}x{MIN_PANEL_SIDE} pixels for the panel, "
            f"got {distorted.shape[2]}x{distorted.shape[3]}"
        )
    return distorted.float().clamp(0, 1), reference.float().clamp(0, 1)


def _viewing_scale(image: Tensor) -> Tensor:
    """Halve a picture that MDSI and VSI would look at unhalved.

    Both divide the shorter side by round(side / 256), so they halve a 512 x 384 photograph but not a 256 px crop of it.
    """
    return image if round(min(image.shape[2:]) / 256) >= 2 else F.avg_pool2d(image, 2)


def gmsd(distorted: Tensor, reference: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2014): luminance only, (B,) >= 0."""
    a, b = _prepare(distorted, reference)
    return _piq().gmsd(a, b, reduction="none").reshape(-1)


def mdsi(distorted: Tensor, reference: Tensor) -> Tensor:
    """Mean deviation similarity index (Nafchi et al. 2016): gradient and chromaticity, (B,) >= 0."""
    a, b = _prepare(distorted, reference)
    return _piq().mdsi(_viewing_scale(a), _viewing_scale(b), reduction="none").reshape(-1)


def vsi_dissimilarity(distorted: Tensor, reference: Tensor) -> Tensor:
    """1 - visual saliency-induced index (Zhang et al. 2014): saliency, gradient and chromaticity, (B,) in [0, 1]."""
    a, b = _prepare(distorted, reference)
    return 1 - _piq().vsi(_viewing_scale(a), _viewing_scale(b), reduction="none").reshape(-1)


def haarpsi_dissimilarity(distorted: Tensor, reference: Tensor) -> Tensor:
    """1 - Haar wavelet perceptual similarity (Reisenhofer et al. 2018), chroma included, (B,) in [0, 1]."""
    a, b = _prepare(distorted, reference)
    return 1 - _piq().haarpsi(a, b, reduction="none").reshape(-1)


# sRGB to CIE XYZ, D65: IEC 61966-2-1.
_RGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
# XYZ to luminance, red-green, blue-yellow: Zhang and Wandell, "A spatial extension of CIELAB" (1996), after Poirson and
# Wandell (1993).
_XYZ_TO_OPPONENT = ((0.279, 0.720, -0.107), (-0.449, 0.290, -0.077), (0.086, -0.590, 0.501))
# Same paper: per opponent channel, (weight, spread in degrees) of Gaussians exp(-r^2 / spread^2). The third luminance
# term (-0.108, 4.3 degrees) is left out: it is wider than a crop and would only subtract the crop's mean brightness.
_CONTRAST_SENSITIVITY = (
    ((0.921, 0.0283), (0.105, 0.133)),
    ((0.531, 0.0392), (0.330, 0.494)),
    ((0.488, 0.0536), (0.371, 0.386)),
)


def _gaussian(plane: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of (B, 1, H, W), mirrored at the borders; sigma in pixels."""
    # Not filters.gaussian_blur nor visibility.local_mean: they add in another order (and the latter cuts its window
    # elsewhere), so their last bits differ, and ranks of these values made the committed severity table.
    radius = min(max(1, math.ceil(3 * sigma)), min(plane.shape[2:]) - 1)
    taps = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(radius + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    for dim, pad in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        size = plane.shape[dim]
        padded = F.pad(plane, pad, mode="reflect")
        # Shifted sums: on the CPU several times faster than a convolution with one channel.
        out = padded.narrow(dim, radius, size) * (taps[0] / total)
        for x in range(1, radius + 1):
            out.add_(padded.narrow(dim, radius - x, size), alpha=taps[x] / total)
            out.add_(padded.narrow(dim, radius + x, size), alpha=taps[x] / total)
        plane = out
    return plane


def _wide_gaussian(plane: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, at a quarter of the resolution where the kernel is wide enough to allow it."""
    if sigma < 2.5:
        return _gaussian(plane, sigma)
    small = F.avg_pool2d(plane, 4, ceil_mode=True, count_include_pad=False)
    # The 4 px box already blurs with a variance of 16 / 12 px^2.
    small = _gaussian(small, math.sqrt(sigma**2 - 16 / 12) / 4)
    return F.interpolate(small, size=plane.shape[2:], mode="bilinear", align_corners=False)


def _seen_lab(image: Tensor) -> Tensor:
    """CIELAB (B, 3, H, W), D65, of sRGB images after the contrast sensitivity of each opponent channel."""
    to_xyz = torch.tensor(_RGB_TO_XYZ, dtype=image.dtype, device=image.device)
    to_opponent = torch.tensor(_XYZ_TO_OPPONENT, dtype=image.dtype, device=image.device)
    opponent = torch.einsum("oc,bchw->bohw", to_opponent @ to_xyz, filters.to_linear(image))
    planes = []
    for channel, terms in enumerate(_CONTRAST_SENSITIVITY):
        plane = opponent[:, channel : channel + 1]
        total = sum(weight for weight, _ in terms)
        blurred = torch.zeros_like(plane)
        for weight, spread in terms:
            sigma = spread * PIXELS_PER_DEGREE / math.sqrt(2)
            blurred = blurred + (weight / total) * _wide_gaussian(plane, sigma)
        planes.append(blurred)
    xyz = torch.einsum("co,bohw->bchw", torch.linalg.inv(to_opponent), torch.cat(planes, 1))
    relative = xyz / to_xyz.sum(1).view(1, 3, 1, 1)
    # CIE 1976 L*a*b* with its linear toe.
    f = torch.where(
        relative > (6 / 29) ** 3, relative.clamp(min=1e-6) ** (1 / 3), relative / (3 * (6 / 29) ** 2) + 4 / 29
    )
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def colour_difference_map(distorted: Tensor, reference: Tensor) -> Tensor:
    """Colour difference of each pixel (B, H, W) in CIE94 units, as the eye resolves it.

    S-CIELAB (Zhang and Wandell 1996): opponent channels are blurred by their contrast sensitivity at
    ``PIXELS_PER_DEGREE`` before CIELAB. The difference is CIE94 (graphic arts) with the geometric mean of both chromas,
    which makes it symmetric; 1 is about just noticeable for large patches.
    """
    a, b = _prepare(distorted, reference)
    lab_a, lab_b = _seen_lab(a), _seen_lab(b)
    chroma_a, chroma_b = lab_a[:, 1:].square().sum(1).sqrt(), lab_b[:, 1:].square().sum(1).sqrt()
    lightness = lab_a[:, 0] - lab_b[:, 0]
    chroma = chroma_a - chroma_b
    hue_squared = ((lab_a[:, 1:] - lab_b[:, 1:]).square().sum(1) - chroma.square()).clamp(min=0)
    mean_chroma = (chroma_a * chroma_b).sqrt()
    squared = lightness.square() + (chroma / (1 + 0.045 * mean_chroma)).square()
    return (squared + hue_squared / (1 + 0.015 * mean_chroma).square()).sqrt()


def _pooled(difference: Tensor, norm: int) -> Tensor:
    return difference.mean(dim=(1, 2)) if norm == 1 else difference.pow(norm).mean(dim=(1, 2)).pow(1 / norm)


def colour_difference(distorted: Tensor, reference: Tensor) -> Tensor:
    """Mean of :func:`colour_difference_map`, (B,) >= 0."""
    return _pooled(colour_difference_map(distorted, reference), 1)


def colour_difference_peak(distorted: Tensor, reference: Tensor) -> Tensor:
    """4-norm of :func:`colour_difference_map`, (B,) >= 0: rare strong errors (a lost block, dead pixels) count."""
    return _pooled(colour_difference_map(distorted, reference), 4)


PANEL: tuple[PanelMember, ...] = (
    PanelMember("gmsd", gmsd, "gradient", sees_colour=False),
    PanelMember("mdsi", mdsi, "gradient and chromaticity", sees_colour=True),
    PanelMember("vsi", vsi_dissimilarity, "saliency", sees_colour=True),
    PanelMember("haarpsi", haarpsi_dissimilarity, "wavelet", sees_colour=True),
    PanelMember("colour_difference", colour_difference, "colour difference", True, sees_level=True),
    PanelMember("colour_difference_peak", colour_difference_peak, "colour difference", True, sees_level=True),
)


@torch.no_grad()
def panel_scores(distorted: Tensor, reference: Tensor) -> Tensor:
    """Every member's dissimilarity: (B, len(PANEL)), higher = worse, columns in the order of ``PANEL``."""
    difference = colour_difference_map(distorted, reference)
    # The two colour members share their map, which costs more than everything else.
    shared = {colour_difference: 1, colour_difference_peak: 4}
    columns = [
        _pooled(difference, shared[member.function])
        if member.function in shared
        else member.function(distorted, reference)
        for member in PANEL
    ]
    return torch.stack(columns, dim=1)
