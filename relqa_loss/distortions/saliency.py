"""Saliency of a picture (SDSP) and the index built on it (VSI): one family of the panel.

The same metric as the authors' (and as piq's), with the saliency of each picture worked out once however often the
picture is compared, by real-valued transforms.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters
from .colour_difference import RGB_TO_XYZ

_GRID = 256
"""SDSP looks at every picture at 256 x 256 pixels."""

# Zhang, Gu and Li, "SDSP: a novel saliency detection method by combining simple priors" (2013), with the values of VSI:
# centre frequency and bandwidth of the log-Gabor filter, spread of the central bias in pixels, of the warm colours.
_OMEGA, _BANDWIDTH, _CENTRAL, _WARM = 0.021, 1.34, 145.0, 0.001

# Zhang, Shen and Li, "VSI" (2014): constants of saliency, gradient and chromaticity, exponents of the last two.
_C_SALIENCY, _C_GRADIENT, _C_CHROMA, _ALPHA, _BETA = 1.27, 386.0, 130.0, 0.40, 0.02

# Opponent colours of Geusebroek et al. (2001), as in VSI.
_RGB_TO_LMN = ((0.06, 0.63, 0.27), (0.30, 0.04, -0.35), (0.34, -0.60, 0.17))

_D50 = (0.9642119944211994, 1.0, 0.8251882845188288)
"""White point that the reference implementation of SDSP takes."""


@lru_cache(maxsize=4)
def _priors(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Transfer function (256, 129) of the log-Gabor filter and central bias (256, 256)."""
    place = torch.arange(-_GRID // 2, _GRID // 2, dtype=torch.float64) / _GRID
    radius = torch.sqrt(place[:, None] ** 2 + place**2)
    ring = torch.fft.ifftshift(torch.where(radius <= 0.5, radius, 0.0))
    ring[0, 0] = 1.0
    log_gabor = torch.exp(-torch.log(ring / _OMEGA).square() / (2 * _BANDWIDTH**2))
    log_gabor[0, 0] = 0.0
    from_centre = (place * _GRID + 1).square()
    central = torch.exp(-(from_centre[:, None] + from_centre) / _CENTRAL**2)
    half = log_gabor[:, : _GRID // 2 + 1].contiguous()
    return half.to(device, dtype), central.to(device, dtype)


def _lab(image: Tensor) -> Tensor:
    matrix = torch.tensor(RGB_TO_XYZ, dtype=image.dtype, device=image.device)
    white = torch.tensor(_D50, dtype=image.dtype, device=image.device).view(3, 1)
    relative = torch.einsum("xc,bchw->bxhw", matrix / white, filters.to_linear(image))
    root = torch.where(relative > 0.008856, relative.clamp(min=1e-6) ** (1 / 3), (903.3 * relative + 16) / 116)
    x, y, z = root.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def _stretched(plane: Tensor) -> Tensor:
    """Each plane of (B, C, H, W) mapped to [0, 1]."""
    low, high = plane.amin((2, 3), keepdim=True), plane.amax((2, 3), keepdim=True)
    return (plane - low) / (high - low + torch.finfo(plane.dtype).eps)


def saliency(image: Tensor) -> Tensor:
    """Visual saliency (B, 1, H, W) in [0, 1] of images (B, 3, H, W) in [0, 1]."""
    size = image.shape[2:]
    lab = _lab(F.interpolate(image, size=(_GRID, _GRID), mode="bilinear", align_corners=False))
    log_gabor, central = _priors(lab.dtype, lab.device)
    band = torch.fft.irfft2(torch.fft.rfft2(lab) * log_gabor, s=(_GRID, _GRID))
    frequency = band.square().sum(1, keepdim=True).sqrt()
    warm = 1 - torch.exp(-_stretched(lab[:, 1:]).square().sum(1, keepdim=True) / _WARM**2)
    found = frequency * central * warm
    return _stretched(F.interpolate(found, size=size, mode="bilinear", align_corners=True))


def opponent(image: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient magnitude (B, 1, H, W) and chromaticity (B, 2, H, W) of images in [0, 1], on the scale of 0..255."""
    matrix = torch.tensor(_RGB_TO_LMN, dtype=image.dtype, device=image.device)
    planes = torch.einsum("oc,bchw->bohw", matrix * 255.0, image)
    scharr = planes.new_tensor(((-3.0, 0.0, 3.0), (-10.0, 0.0, 10.0), (-3.0, 0.0, 3.0))) / 16
    slopes = F.conv2d(planes[:, :1], torch.stack((scharr, scharr.T)).unsqueeze(1), padding=1)
    return slopes.square().sum(1, keepdim=True).sqrt(), planes[:, 1:]


def _similar(a: Tensor, b: Tensor, constant: float) -> Tensor:
    return (2 * a * b + constant) / (a.square() + b.square() + constant)


Salient = tuple[Tensor, Tensor, Tensor]
"""Saliency, gradient magnitude and chromaticity of one batch."""


def salient_features(image: Tensor) -> Salient:
    """What :func:`saliency_similarity` compares, of images (B, 3, H, W) in [0, 1]."""
    return (saliency(image), *opponent(image))


def saliency_similarity(a: Salient, b: Salient) -> Tensor:
    """VSI (B,) of two batches' features; 1 for equal pictures."""
    chroma = _similar(a[2], b[2], _C_CHROMA).prod(1, keepdim=True)
    # A negative similarity to a small power, real part: that of the complex power.
    power = chroma.abs() ** _BETA * torch.where(chroma < 0, math.cos(math.pi * _BETA), 1.0)
    local = _similar(a[0], b[0], _C_SALIENCY) * _similar(a[1], b[1], _C_GRADIENT) ** _ALPHA * power
    weight = torch.maximum(a[0], b[0])
    eps = torch.finfo(weight.dtype).eps
    return ((local * weight).sum((1, 2, 3)) + eps) / (weight.sum((1, 2, 3)) + eps)
