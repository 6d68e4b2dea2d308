"""Faults of processing: over-sharpening, ringing, mosquito noise, denoiser smear."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from . import filters
from .record import Distortion


def oversharpen(images: Tensor, amount: Tensor, generator: Generator) -> Tensor:
    """Unsharp mask on luma (Gaussian of 1.2 pixels); amount = gain of the detail added."""
    y = filters.luma(images)
    detail = y - filters.fixed_gaussian(y, 1.2)
    return (images + filters.column(amount, images) * detail).clamp(0, 1)


_CUTOFF = 0.12
_HALO_MARGIN = 32


def ringing(images: Tensor, amount: Tensor, generator: Generator) -> Tensor:
    """Oscillating halos beside edges, nothing else lost.

    What a sharp low-pass (0.12 cycles a pixel) keeps and a Gaussian of the same half-power point does not is the
    oscillation alone; ``amount`` times that is added to luma.
    """
    height, width = images.shape[-2:]
    y = filters.pad_reflect(filters.luma(images), _HALO_MARGIN, _HALO_MARGIN)
    rows, columns = y.shape[-2:]
    fy = torch.fft.fftfreq(rows, dtype=images.dtype, device=images.device)[:, None]
    fx = torch.fft.rfftfreq(columns, dtype=images.dtype, device=images.device)
    squared = fx * fx + fy * fy
    soft = torch.exp(-math.log(2) / 2 * squared / _CUTOFF**2)
    band = (squared <= _CUTOFF**2).to(images) - soft
    halo = torch.fft.irfft2(torch.fft.rfft2(y) * band, s=(rows, columns))
    # the reflected border is a mirror, not a step, so the margin only has to outlast a few oscillations
    halo = halo[..., _HALO_MARGIN : _HALO_MARGIN + height, _HALO_MARGIN : _HALO_MARGIN + width]
    return (images + filters.column(amount, images) * halo).clamp(0, 1)


def mosquito_noise(images: Tensor, amount: Tensor, generator: Generator) -> Tensor:
    """Fine irregular ripples that hover about strong edges; amount = ripple per unit of nearby edge contrast."""
    batch, _, height, width = images.shape
    y = filters.luma(images)
    soft = filters.fixed_gaussian(y, 1.0)
    contrast = torch.sqrt((filters.box_mean(soft * soft, 4) - filters.box_mean(soft, 4) ** 2).clamp(min=0))
    draw = filters.normal((batch, 1, height, width), images, generator)
    ripple = filters.fixed_gaussian(draw, 0.7) - filters.fixed_gaussian(draw, 1.4)
    ripple = ripple / ripple.std((2, 3), keepdim=True)
    return (images + filters.column(amount, images) * contrast * ripple).clamp(0, 1)


# Exchanges (low, high) that leave the median of the planes in the middle one: far fewer steps than sorting them.
_MEDIAN_EXCHANGES: dict[int, tuple[tuple[int, int], ...]] = {
    5: ((0, 1), (3, 4), (0, 3), (1, 4), (1, 2), (2, 3), (1, 2)),
    9: (
        *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
        *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
    ),
}


def median(planes: list[Tensor]) -> Tensor:
    """Element-wise median of 5 or 9 tensors, through a network of exchanges."""
    planes = list(planes)
    for low, high in _MEDIAN_EXCHANGES[len(planes)]:
        planes[low], planes[high] = torch.minimum(planes[low], planes[high]), torch.maximum(planes[low], planes[high])
    return planes[len(planes) // 2]


def _separable_median(images: Tensor, taps: int, spacing: int) -> Tensor:
    """Median of ``taps`` pixels ``spacing`` apart along rows, then along columns."""
    height, width = images.shape[-2:]
    margin = taps // 2 * spacing
    wide = filters.pad_reflect(images, 0, margin)
    images = median([wide[..., k * spacing : k * spacing + width] for k in range(taps)])
    tall = filters.pad_reflect(images, margin, 0)
    return median([tall[..., k * spacing : k * spacing + height, :] for k in range(taps)])


_PASSES = ((5, 1), (9, 1), (9, 2))
"""Taps and spacing of each pass: widening, as a repeated median of one width soon stops changing anything."""


def median_smear(images: Tensor, passes: Tensor, generator: Generator) -> Tensor:
    """Separable medians of growing width; passes in [0, 3], a fraction blends the last one in."""
    results = []
    # one image at a time: each takes its own number of passes, and its planes stay in the processor's cache
    for image, wanted in zip(images.split(1), passes.tolist(), strict=True):
        for done, (taps, spacing) in enumerate(_PASSES[: max(0, math.ceil(wanted))]):
            smeared = _separable_median(image, taps, spacing)
            image = smeared if wanted - done >= 1 else torch.lerp(image, smeared, wanted - done)
        results.append(image)
    return torch.cat(results).clamp(0, 1)


_GUIDE_RADIUS = 4


def smooth_smear(images: Tensor, tolerance: Tensor, generator: Generator) -> Tensor:
    """Edge-preserving denoiser on a clean picture: texture below ``tolerance`` (full range = 1) melts, edges stay.

    Self-guided filter on each channel over 9x9 pixels (He, Sun, Tang, "Guided image filtering", 2010).
    """
    mean = filters.box_mean(images, _GUIDE_RADIUS)
    variance = (filters.box_mean(images * images, _GUIDE_RADIUS) - mean * mean).clamp(min=0)
    gain = variance / (variance + filters.column(tolerance, images) ** 2)
    offset = mean - gain * mean
    return (filters.box_mean(gain, _GUIDE_RADIUS) * images + filters.box_mean(offset, _GUIDE_RADIUS)).clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion("oversharpen", "processing", {"blur": -1.0, "ringing": 0.5}, (0.3, 9.0), oversharpen, geometric=True),
    Distortion("ringing", "processing", {"ringing": 1.0}, (0.2, 4.0), ringing, geometric=True, dominance=False),
    Distortion(
        "mosquito_noise", "processing", {"ringing": 1.0, "noise": 0.5}, (0.05, 0.7), mosquito_noise, geometric=True
    ),
    Distortion("median_smear", "processing", {"blur": 1.0}, (0.3, 3.0), median_smear, geometric=True, smooths=True),
    Distortion(
        "smooth_smear",
        "processing",
        {"blur": 1.0},
        (0.012, 0.3),
        smooth_smear,
        geometric=True,
        source="He, Sun, Tang 2010, guided filter",
        smooths=True,
    ),
)
"""Ringing lifts the middle frequencies and can make a blurred picture look better: no dominance."""
