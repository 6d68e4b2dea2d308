"""Faults of processing: over-sharpening, ringing, mosquito noise, denoiser smear, tone mapping, jitter."""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters
from .draws import Randomness
from .record import Distortion
from .warp import warp


def oversharpen(images: Tensor, amount: Tensor, generator: Randomness) -> Tensor:
    """Unsharp mask on luma (Gaussian of 1.2 pixels); amount = gain of the detail added."""
    y = filters.luma(images)
    detail = y - filters.fixed_gaussian(y, 1.2)
    return (images + filters.column(amount, images) * detail).clamp(0, 1)


_CUTOFF = 0.12
_HALO_MARGIN = 32


def ringing(images: Tensor, amount: Tensor, generator: Randomness) -> Tensor:
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


def _local_statistics(planes: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of (B, C, H, W) around every second pixel, over 2 (2 radius + 1) pixels each way.

    The windows are exact, only their centres are two pixels apart; :func:`_enlarged` brings results back to full size.
    """
    moments = F.avg_pool2d(torch.cat((planes, planes * planes), dim=1), 2, ceil_mode=True, count_include_pad=False)
    mean, square = filters.box_mean(moments, radius).chunk(2, dim=1)
    return mean, (square - mean * mean).clamp(min=0)


def _enlarged(planes: Tensor, images: Tensor) -> Tensor:
    """Planes at half size, at the size of the images."""
    height, width = images.shape[-2:]
    large = F.interpolate(planes, scale_factor=2, mode="bilinear", align_corners=False)
    return large[..., :height, :width]


def mosquito_noise(images: Tensor, amount: Tensor, generator: Randomness) -> Tensor:
    """Fine irregular ripples that hover about strong edges; amount = ripple per unit of nearby edge contrast."""
    batch, _, height, width = images.shape
    y = filters.luma(images)
    # About its mean, so that rounding is no contrast where a picture is flat.
    _, variance = _local_statistics(y - y.mean((2, 3), keepdim=True), 2)
    contrast = _enlarged(variance.sqrt(), images)
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


def _median_passes(image: Tensor, wanted: float) -> Tensor:
    for done, (taps, spacing) in enumerate(_PASSES[: max(0, math.ceil(wanted))]):
        smeared = _separable_median(image, taps, spacing)
        image = smeared if wanted - done >= 1 else torch.lerp(image, smeared, wanted - done)
    return image


def median_smear(images: Tensor, passes: Tensor, generator: Randomness) -> Tensor:
    """Separable medians of growing width; passes in [0, 3], a fraction blends the last one in."""
    results = []
    # one image at a time, as each takes its own number of passes; plane by plane they stay in the processor's cache
    for image, wanted in zip(images.split(1), passes.tolist(), strict=True):
        planes = image.split(1, dim=1) if image.device.type == "cpu" else (image,)
        results.append(torch.cat([_median_passes(plane, wanted) for plane in planes], dim=1))
    return torch.cat(results).clamp(0, 1)


_GUIDE_RADIUS = 3


def smooth_smear(images: Tensor, tolerance: Tensor, generator: Randomness) -> Tensor:
    """Edge-preserving denoiser on a clean picture: texture below ``tolerance`` (full range = 1) melts, edges stay.

    Self-guided filter on each channel over 14 x 14 pixels (He, Sun, Tang, "Guided image filtering", 2010), its
    coefficients computed at half size (He, Sun, "Fast guided filter", 2015).
    """
    mean, variance = _local_statistics(images, _GUIDE_RADIUS)
    gain = variance / (variance + filters.column(tolerance, images) ** 2)
    coefficients = filters.box_mean(torch.cat((gain, mean - gain * mean), dim=1), _GUIDE_RADIUS)
    gain, offset = _enlarged(coefficients, images).chunk(2, dim=1)
    return (gain * images + offset).clamp(0, 1)


_DCT_SIDE = 8
_DCT_STEP = 4
_THRESHOLD = 2.7
# Standard deviations of luma and of either colour difference (mean of the two, over 2 x 2 pixels) of unit noise in RGB.
_LUMA_NOISE, _CHROMA_NOISE = 0.67, 0.51


def _dct_matrix(like: Tensor) -> Tensor:
    """Orthonormal DCT-II (8, 8): rows are frequencies."""
    n = torch.arange(_DCT_SIDE, dtype=like.dtype, device=like.device)
    basis = torch.cos(math.pi * (n + 0.5) * n[:, None] / _DCT_SIDE) * math.sqrt(2 / _DCT_SIDE)
    basis[0] = math.sqrt(1 / _DCT_SIDE)
    return basis


def _frequencies(like: Tensor) -> tuple[Tensor, Tensor]:
    """Vertical and horizontal frequency (8, 8) of the DCT coefficients of a block, 0 .. 7."""
    n = torch.arange(_DCT_SIDE, dtype=like.dtype, device=like.device)
    return n[:, None].expand(_DCT_SIDE, _DCT_SIDE), n.expand(_DCT_SIDE, _DCT_SIDE)


def _thresholded(planes: Tensor, floor: Tensor) -> Tensor:
    """Planes (N, H, W) without their small DCT coefficients, in 8 x 8 blocks that overlap by half.

    ``floor`` (N, 1, 1) is for the lowest frequencies; the higher ones need up to 3.7 times as much to stay, so that
    what noise gets through makes soft blotches, not stripes.
    """
    height, width = planes.shape[1:]
    padded = filters.pad_reflect(planes[:, None], _DCT_SIDE, _DCT_SIDE)
    padded = F.pad(padded, (0, -width % _DCT_STEP, 0, -height % _DCT_STEP), mode="replicate")
    basis = _dct_matrix(planes)
    atoms = torch.kron(basis, basis)
    # (N, rows of a block, columns of a block, blocks): one product does all transforms
    blocks = padded[:, 0].unfold(1, _DCT_SIDE, _DCT_STEP).unfold(2, _DCT_SIDE, _DCT_STEP).permute(0, 3, 4, 1, 2)
    coefficients = atoms @ blocks.reshape(planes.shape[0], _DCT_SIDE**2, -1)
    rising = 0.7 + 0.3 * torch.hypot(*(n.flatten() for n in _frequencies(planes)))[:, None]
    kept = torch.where(coefficients.abs() > floor * rising, coefficients, 0.0)
    kept[:, 0] = coefficients[:, 0]
    # each block fades into the next: hats of 8 pixels, 4 apart, add up to 1
    hat = 1 - (torch.arange(_DCT_SIDE, dtype=planes.dtype, device=planes.device) - 3.5).abs() / _DCT_STEP
    faded = torch.outer(hat, hat).flatten()[:, None] * atoms.T
    merged = F.fold(faded @ kept, padded.shape[-2:], _DCT_SIDE, stride=_DCT_STEP)[:, 0]
    return merged[:, _DCT_SIDE : _DCT_SIDE + height, _DCT_SIDE : _DCT_SIDE + width]


def denoised(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Noise that a denoiser has taken away, and the texture with it; what it missed stays as blotches.

    White noise of ``sigma`` (full range = 1) is added to each channel, not clipped, as that would lift dark pictures;
    DCT coefficients below 2.7 or more standard deviations of it are set to 0, in luma and, at half size, in
    chroma (after Pogrebnyak, Lukin, "Wiener discrete cosine transform-based image filtering", 2012).
    """
    batch = images.shape[0]
    noise = filters.column(sigma, images) * filters.normal(tuple(images.shape), images, generator)
    y, chroma = filters.split_chroma(images + noise)
    chroma = F.avg_pool2d(chroma, 2, ceil_mode=True, count_include_pad=False)
    level = _THRESHOLD * filters.column(sigma, images)[:, :, 0]
    y = _thresholded(y[:, 0], level * _LUMA_NOISE)[:, None]
    chroma = _thresholded(chroma.flatten(0, 1), (level * _CHROMA_NOISE).repeat_interleave(2, dim=0))
    chroma = _enlarged(chroma.view(batch, 2, *chroma.shape[1:]), images)
    return filters.join_chroma(y, chroma).clamp(0, 1)


_WINDOW = 3
_SPACINGS = (1, 3)


def bilateral_smear(images: Tensor, tolerance: Tensor, generator: Randomness) -> Tensor:
    """Cartoon smear: what differs by less than ``tolerance`` (luma, full range = 1) runs together, steps stay sharp.

    Bilateral filter of rows, then of columns (Pham, van Vliet, "Separable bilateral filtering for fast video
    preprocessing", 2005), over 7 neighbours and again over 7 pixels three apart, with the weight of Tukey's biweight
    (Durand, Dorsey, "Fast bilateral filtering for the display of high-dynamic-range images", 2002).
    """
    inverse = 1 / filters.column(tolerance, images) ** 2
    for spacing, dim in product(_SPACINGS, (3, 2)):
        size, margin = images.shape[dim], _WINDOW * spacing
        radii = (0, margin) if dim == 3 else (margin, 0)
        y = filters.luma(images)
        wide_y, wide = (filters.pad_reflect(planes, *radii) for planes in (y, images))
        total, weights = images.clone(), torch.ones_like(y)
        for offset in (*range(0, margin, spacing), *range(margin + spacing, 2 * margin + 1, spacing)):
            difference = wide_y.narrow(dim, offset, size) - y
            weight = (1 - difference.square_().mul_(inverse)).clamp_(min=0).square_()
            total.addcmul_(weight, wide.narrow(dim, offset, size))
            weights.add_(weight)
        images = total / weights
    return images.clamp(0, 1)


_SURROUND = 12.0
_COMPRESSION = 0.15


def local_tone_map(images: Tensor, amount: Tensor, generator: Randomness) -> Tensor:
    """Exaggerated local contrast with glowing and dark halos, as of overdone HDR; amount = gain of the local contrast.

    Luma minus its surround (Gaussian of 12 pixels) is added ``amount`` times; the surround itself is drawn towards
    mid grey, by at most 15 percent.
    """
    y = filters.luma(images)
    small = F.avg_pool2d(y, 4, ceil_mode=True, count_include_pad=False)
    height, width = images.shape[-2:]
    surround = F.interpolate(
        filters.fixed_gaussian(small, _SURROUND / 4), scale_factor=4, mode="bilinear", align_corners=False
    )[..., :height, :width]
    gain = filters.column(amount, images)
    squeeze = _COMPRESSION * gain / (1 + gain)
    return (images + gain * (y - surround) + squeeze * (0.5 - surround)).clamp(0, 1)


def jitter(images: Tensor, spread: Tensor, generator: Randomness) -> Tensor:
    """Every pixel taken from a random place nearby, so that edges fray; spread = its standard deviation in pixels.

    The nearest pixel is taken: interpolation would smooth where it should fray.
    """
    batch, _, height, width = images.shape
    offset = filters.normal((batch, 2, height, width), images, generator)
    return warp(images, offset * filters.column(spread, images), mode="nearest").clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "oversharpen",
        "processing",
        {"blur": -1.0, "ringing": 0.5, "contrast": 0.4},
        (0.24, 12.0),
        oversharpen,
        geometric=True,
        source="unsharp mask; range own construction: from a mild camera setting to outlines only",
    ),
    Distortion(
        "ringing",
        "processing",
        {"ringing": 1.0},
        (0.2, 4.0),
        ringing,
        geometric=True,
        source="own construction: ideal minus Gaussian low-pass; to oscillations as strong as the picture",
        dominance=False,
    ),
    Distortion(
        "mosquito_noise",
        "processing",
        {"ringing": 1.0, "noise": 0.5},
        (0.1, 2.2),
        mosquito_noise,
        geometric=True,
        source="own construction: to ripples twice as strong as the edges they hang about",
    ),
    Distortion(
        "median_smear",
        "processing",
        {"blur": 1.0},
        (0.2, 3.0),
        median_smear,
        geometric=True,
        source="own construction: separable medians of 5, 9 and 17 pixels; from a third of the first to all three",
        smooths=True,
    ),
    Distortion(
        "smooth_smear",
        "processing",
        {"blur": 1.0},
        (0.02, 0.5),
        smooth_smear,
        geometric=True,
        source="He, Sun, Tang 2010, guided filter; from faint texture to half the range of values",
        smooths=True,
    ),
    Distortion(
        "denoised",
        "processing",
        {"blur": 1.0},
        (0.0092, 0.4),
        denoised,
        geometric=True,
        source="TID2013 9, KADID-10k 15, image denoising; noise range own construction",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "bilateral_smear",
        "processing",
        {"blur": 1.0},
        (0.025, 0.5),
        bilateral_smear,
        geometric=True,
        source="Pham, van Vliet 2005, separable bilateral filter; to where only strong edges are left",
        smooths=True,
    ),
    Distortion(
        "local_tone_map",
        "processing",
        {"contrast": 1.0, "ringing": 0.5},
        (0.077, 3.5),
        local_tone_map,
        geometric=True,
        source="own construction: unsharp mask of 12 pixels; to where halos swallow what lies beside them",
        dominance=False,
        inclusion=False,
    ),
    Distortion(
        "jitter",
        "processing",
        {"noise": 1.0, "aliasing": 0.5},
        (0.15, 3.5),
        jitter,
        geometric=True,
        source="KADID-10k 19, jitter; range own construction, edges fray ever wider",
        dominance=False,
    ),
)
"""Ringing, a tone curve or scatter can lift what a blur has lost and look better on top of it: no dominance."""
