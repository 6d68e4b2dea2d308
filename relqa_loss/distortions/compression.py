"""Elementary artefacts of lossy coding, in torch: coarse colour, quantised blocks, lost wavelets, comfort noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters
from .draws import Randomness
from .record import Distortion

_SIGMA_OF_CELL = 4


def _coarse_blur(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (1, C, H, W), on a coarser grid where sigma allows: large ones cost no more than small ones."""
    cell = max(1, int(sigma / _SIGMA_OF_CELL))
    height, width = planes.shape[-2:]
    size = (-(-height // cell), -(-width // cell))
    small = F.interpolate(planes, size, mode="area") if cell > 1 else planes
    # in cells: the means have a variance of 1/12, bilinear interpolation one of 1/6
    left = math.sqrt((sigma / cell) ** 2 - (0.25 if cell > 1 else 0.0))
    small = filters.gaussian_blur(small, torch.tensor([left]))
    return F.interpolate(small, (height, width), mode="bilinear") if cell > 1 else small


def chroma_bleeding(images: Tensor, sigma: Tensor, generator: Randomness) -> Tensor:
    """Colour carried at low resolution: chroma blurred with sigma in pixels, luma kept."""
    y, chroma = filters.split_chroma(images)
    soft = [_coarse_blur(one, value) for one, value in zip(chroma.split(1), sigma.tolist(), strict=True)]
    return filters.join_chroma(y, torch.cat(soft)).clamp(0, 1)


def chroma_subsampling(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Colour in steps: of the chroma of each cell of ``factor`` pixels one sample is kept and repeated; luma kept.

    Cells have sides of a power of two, so that a larger factor keeps some of the samples of a smaller one; factors
    between two powers blend the next coarser one in.
    """
    y, chroma = filters.split_chroma(images)
    kept = []
    for one, octaves in zip(chroma.split(1), factor.log2().tolist(), strict=True):
        finer = math.floor(octaves)
        kept.append(torch.lerp(_every(one, 2**finer), _every(one, 2 ** (finer + 1)), octaves - finer))
    return filters.join_chroma(y, torch.cat(kept)).clamp(0, 1)


def _every(planes: Tensor, cell: int) -> Tensor:
    """The first sample of each cell of ``cell`` x ``cell`` pixels, repeated all over it."""
    height, width = planes.shape[-2:]
    coarse = planes[..., ::cell, ::cell]
    return coarse.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., :height, :width]


# Luminance table of ITU-T T.81 (JPEG), Annex K.1, for 8-bit samples.
_T81_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def _dct_matrix(size: int, like: Tensor) -> Tensor:
    """Orthonormal DCT-II (size, size): rows are frequencies."""
    n = torch.arange(size, dtype=like.dtype, device=like.device)
    basis = torch.cos(math.pi * (n + 0.5) * n[:, None] / size) * math.sqrt(2 / size)
    basis[0] = math.sqrt(1 / size)
    return basis


def _dct_blocks(y: Tensor) -> tuple[Tensor, Tensor]:
    """8x8 DCT of luma (B, 1, H, W): coefficients (B, rows, columns, 8, 8) and the basis. Edges are repeated."""
    batch, _, height, width = y.shape
    padded = F.pad(y, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.view(batch, padded.shape[-2] // 8, 8, padded.shape[-1] // 8, 8).transpose(2, 3)
    basis = _dct_matrix(8, y)
    return basis @ (blocks - 0.5) @ basis.T, basis


def _from_blocks(coefficients: Tensor, basis: Tensor, height: int, width: int) -> Tensor:
    """Inverse of :func:`_dct_blocks` but for the level of 0.5: (B, 1, H, W)."""
    batch, rows, columns = coefficients.shape[:3]
    planes = (basis.T @ coefficients @ basis).transpose(2, 3).reshape(batch, 1, rows * 8, columns * 8)
    return planes[..., :height, :width]


def block_dct(images: Tensor, scale: Tensor, generator: Randomness) -> Tensor:
    """Quantise the 8x8 DCT of luma with ``scale`` times the JPEG luminance table; chroma kept."""
    coefficients, basis = _dct_blocks(filters.luma(images))
    table = torch.tensor(_T81_LUMINANCE, dtype=images.dtype, device=images.device) / 255
    step = table * filters.column(scale, images)[..., None]
    change = torch.round(coefficients / step) * step - coefficients
    return (images + _from_blocks(change, basis, *images.shape[-2:])).clamp(0, 1)


def comfort_noise(images: Tensor, threshold: Tensor, generator: Randomness) -> Tensor:
    """Texture replaced by noise of the same energy: random signs for the 8x8 DCT coefficients below ``threshold``.

    Of luma, but for the means of the blocks; 1 = the full range. What a decoder does that was told how much texture
    there was, and not which.
    """
    coefficients, basis = _dct_blocks(filters.luma(images))
    turned = filters.uniform(tuple(coefficients.shape), images, generator) < 0.5
    small = coefficients.abs() < filters.column(threshold, images)[..., None]
    mean = torch.zeros(8, 8, dtype=torch.bool, device=images.device)
    mean[0, 0] = True
    change = torch.where(turned & small & ~mean, -2 * coefficients, 0)
    return (images + _from_blocks(change, basis, *images.shape[-2:])).clamp(0, 1)


_LEVELS = 5
_PRECINCT = 32


def _lift(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Low and high band of the 5/3 wavelet (ITU-T T.800, Annex F, without rounding) along ``dim`` < 0, of even size."""
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim)
    size = even.shape[dim]
    following = torch.cat((even.narrow(dim, 1, size - 1), even.narrow(dim, size - 1, 1)), dim)
    high = odd - (even + following) / 2
    before = torch.cat((high.narrow(dim, 0, 1), high.narrow(dim, 0, size - 1)), dim)
    return even + (before + high) / 4, high


def _unlift(low: Tensor, high: Tensor, dim: int) -> Tensor:
    """Inverse of :func:`_lift`."""
    size = low.shape[dim]
    before = torch.cat((high.narrow(dim, 0, 1), high.narrow(dim, 0, size - 1)), dim)
    even = low - (before + high) / 4
    following = torch.cat((even.narrow(dim, 1, size - 1), even.narrow(dim, size - 1, 1)), dim)
    odd = high + (even + following) / 2
    return torch.stack((even, odd), dim).flatten(dim - 1, dim)


def jpeg2000_errors(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Transmission errors of JPEG 2000: code-blocks of the wavelet transform lost or garbled; ``share`` of them.

    Five levels of the 5/3 wavelet on luma and chroma. A code-block is what one sub-band has of a 32x32 piece of the
    picture: half of those hit are missing, the others come with random signs. Means (the last low band) are never hit,
    as their packets come first and are protected best.
    """
    batch, _, height, width = images.shape
    y, chroma = filters.split_chroma(images)
    low = F.pad(torch.cat((y, chroma), 1), (0, -width % _PRECINCT, 0, -height % _PRECINCT), mode="replicate")
    rows, columns = low.shape[-2] // _PRECINCT, low.shape[-1] // _PRECINCT
    blocks = filters.uniform((batch, _LEVELS, 3, 2, 3, rows, columns), images, generator)
    hit = blocks[:, :, :, 0] < filters.column(share, images)[..., None, None]
    garbled = blocks[:, :, :, 1] < 0.5
    signs = filters.uniform((batch, 1, *low.shape[-2:]), images, generator) < 0.5
    changes = []
    for level in range(_LEVELS):
        across_low, across_high = _lift(low, -1)
        low, upright = _lift(across_low, -2)
        flat, diagonal = _lift(across_high, -2)
        side = _PRECINCT >> (level + 1)
        turned = signs[..., : low.shape[-2], : low.shape[-1]]
        bands = []
        for index, band in enumerate((upright, flat, diagonal)):
            lost, noisy = (
                mask[:, level, index].repeat_interleave(side, -2).repeat_interleave(side, -1) for mask in (hit, garbled)
            )
            change = torch.where(noisy, torch.where(turned, -2 * band, 0), -band)
            bands.append(torch.where(lost, change, 0))
        changes.append(bands)
    total = torch.zeros_like(low)
    for upright, flat, diagonal in reversed(changes):
        total = _unlift(_unlift(total, upright, -2), _unlift(flat, diagonal, -2), -1)
    total = total[..., :height, :width]
    return (images + filters.join_chroma(total[:, :1], total[:, 1:])).clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "chroma_bleeding",
        "compression",
        {"fringing": 1.0, "saturation": -0.5},
        (1.5, 20.0),
        chroma_bleeding,
        geometric=True,
        source="own construction: from the softness of 4:2:0 on, ended before it is a mere loss of colour",
        smooths=True,
    ),
    Distortion(
        "block_dct",
        "compression",
        {"blocking": 1.0, "ringing": 0.5},
        (0.4, 16.0),
        block_dct,
        geometric=True,
        source="ITU-T T.81, Annex K.1",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "chroma_subsampling",
        "compression",
        {"fringing": 1.0, "aliasing": 0.5},
        (2.0, 32.0),
        chroma_subsampling,
        geometric=True,
        source="own construction: 4:2:0 without a filter, and beyond",
        dominance=False,
    ),
    Distortion(
        "comfort_noise",
        "compression",
        {"noise": 1.0, "blocking": 0.5},
        (0.025, 1.2),
        comfort_noise,
        geometric=True,
        source="TID2013 type 20 (comfort noise); construction and range our own",
        dominance=False,
    ),
    Distortion(
        "jpeg2000_errors",
        "compression",
        {"ringing": 1.0, "blur": 0.5},
        (0.0034, 0.8),
        jpeg2000_errors,
        geometric=True,
        source="TID2013 type 13 (JPEG 2000 transmission errors); wavelet of ITU-T T.800, Annex F; losses our own",
        dominance=False,
    ),
)
"""No dominance where coefficients are cut by their size or hit by chance: what acted before decides what is lost."""
