"""Colour difference as the eye resolves it (S-CIELAB): one family of the panel, in closed form and free of tuning."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters

PIXELS_PER_DEGREE = 32.0
"""A picture 512 px high seen from about 3.5 times its height, as in the sessions behind TID2013 and KADID-10k."""

# sRGB to CIE XYZ, D65: IEC 61966-2-1.
RGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
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


def seen_lab(image: Tensor) -> Tensor:
    """CIELAB (B, 3, H, W), D65, of sRGB images after the contrast sensitivity of each opponent channel."""
    to_xyz = torch.tensor(RGB_TO_XYZ, dtype=image.dtype, device=image.device)
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


def lab_difference(lab_a: Tensor, lab_b: Tensor) -> Tensor:
    """Colour difference (B, H, W) in CIE94 units of two pictures (B, 3, H, W) in CIELAB.

    CIE94 (graphic arts) with the geometric mean of both chromas, which makes it symmetric.
    """
    chroma_a, chroma_b = lab_a[:, 1:].square().sum(1).sqrt(), lab_b[:, 1:].square().sum(1).sqrt()
    lightness = lab_a[:, 0] - lab_b[:, 0]
    chroma = chroma_a - chroma_b
    hue_squared = ((lab_a[:, 1:] - lab_b[:, 1:]).square().sum(1) - chroma.square()).clamp(min=0)
    mean_chroma = (chroma_a * chroma_b).sqrt()
    squared = lightness.square() + (chroma / (1 + 0.045 * mean_chroma)).square()
    return (squared + hue_squared / (1 + 0.015 * mean_chroma).square()).sqrt()
