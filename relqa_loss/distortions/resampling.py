"""Faults of scaling: lost resolution, pixelation, sampling without a filter, combing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters
from .draws import Randomness
from .record import Distortion

_LEAST_UNFILTERED = 3.0
_LEAST_BILINEAR = 1.5


def _reduced(size: int, factor: float) -> int:
    return max(1, round(size / factor))


def _down_up(images: Tensor, factor: Tensor, down: str, up: str, least: float = 1.0) -> Tensor:
    """Scale each image down by its own factor and back; modes as in ``F.interpolate``, anti-aliased where they can.

    Factors below ``least`` are that one blended in. Without a filter, that is 3: less would double a few rows only,
    and 2 samples half a pixel off centre, which differs from the picture more than 3 does. Bilinear scaling blurs by
    half a pixel as soon as the grids differ at all.
    """
    antialias = down in ("bilinear", "bicubic")
    height, width = images.shape[-2:]
    values = factor.tolist()
    alike = len(set(values)) == 1
    results = []
    for some, value in zip([images] if alike else images.split(1), values[:1] if alike else values, strict=True):
        used = max(value, least)
        size = (_reduced(height, used), _reduced(width, used))
        scaled = F.interpolate(F.interpolate(some, size, mode=down, antialias=antialias), (height, width), mode=up)
        results.append(scaled if value >= used else torch.lerp(some, scaled, (value - 1) / (used - 1)))
    return torch.cat(results).clamp(0, 1)


def downup_bicubic(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Bicubic with anti-aliasing down, bicubic up; factor >= 1."""
    return _down_up(images, factor, "bicubic", "bicubic")


def downup_bilinear(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Bilinear with anti-aliasing down, bilinear up: softer, with creases along the coarse grid; factor >= 1."""
    return _down_up(images, factor, "bilinear", "bilinear", _LEAST_BILINEAR)


_SINC_MARGIN = 32


def downup_sinc(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Scaled by cutting the spectrum at ``1 / (2 factor)`` cycles a pixel: nothing else is blurred, but edges ring."""
    height, width = images.shape[-2:]
    padded = filters.pad_reflect(images, _SINC_MARGIN, _SINC_MARGIN)
    rows, columns = padded.shape[-2:]
    limit = filters.column(0.5 / factor, images)
    fy = torch.fft.fftfreq(rows, dtype=images.dtype, device=images.device).abs()[:, None]
    fx = torch.fft.rfftfreq(columns, dtype=images.dtype, device=images.device)
    # each line of the spectrum fades over its own width, so that the cut moves evenly with the factor
    kept = ((limit - fy) * rows + 0.5).clamp(0, 1) * ((limit - fx) * columns + 0.5).clamp(0, 1)
    filtered = torch.fft.irfft2(torch.fft.rfft2(padded) * kept, s=(rows, columns))
    return filtered[..., _SINC_MARGIN : _SINC_MARGIN + height, _SINC_MARGIN : _SINC_MARGIN + width].clamp(0, 1)


_FILL_LEVELS = 7
_FILL_ROUNDS = 3


def _halved(sums: Tensor) -> Tensor:
    """Sums over cells of 2x2 pixels; a missing row or column counts as 0."""
    height, width = sums.shape[-2:]
    sums = F.pad(sums, (0, width % 2, 0, height % 2))
    sums = sums[..., ::2, :] + sums[..., 1::2, :]
    return sums[..., ::2] + sums[..., 1::2]


def _fill_in(images: Tensor, known: Tensor) -> Tensor:
    """Complete pictures from the pixels marked in ``known`` (B, 1, H, W): means of ever larger cells, then diffusion.

    A cell without any sample takes what its larger cell says (bilinear); a few rounds in which each unknown pixel
    becomes the mean of its four neighbours smooth what is left of the cells.
    """
    given = known.to(images)
    sums = [torch.cat((images * given, given), 1)]
    while len(sums) < _FILL_LEVELS and max(sums[-1].shape[-2:]) > 1:
        sums.append(_halved(sums[-1]))
    whole = sums[-1].sum((2, 3), keepdim=True)
    filled = whole[:, :3] / whole[:, 3:].clamp(min=1)
    for level in reversed(sums):
        if filled.shape[-2:] != level.shape[-2:]:
            filled = F.interpolate(filled, level.shape[-2:], mode="bilinear")
        filled = torch.where(level[:, 3:] > 0, level[:, :3] / level[:, 3:].clamp(min=1), filled)
    for _ in range(_FILL_ROUNDS):
        edged = F.pad(filled, (1, 1, 1, 1), mode="replicate")
        upright = edged[..., :-2, 1:-1] + edged[..., 2:, 1:-1]
        filled = torch.where(known, images, (upright + edged[..., 1:-1, :-2] + edged[..., 1:-1, 2:]) / 4)
    return filled


def sparse_sampling(images: Tensor, share: Tensor, generator: Randomness) -> Tensor:
    """Random pixels kept, ``share`` of all, and the rest filled in from those around them."""
    batch, _, height, width = images.shape
    draw = filters.uniform((batch, 1, height, width), images, generator)
    # One at least: of nothing there is nothing to fill in.
    kept = (draw < filters.column(share, images)) | (draw == draw.amin((2, 3), keepdim=True))
    return _fill_in(images, kept).clamp(0, 1)


def pixelate(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Means of cells of ``factor`` pixels, shown as flat cells."""
    return _down_up(images, factor, "area", "nearest-exact", _LEAST_UNFILTERED)


def downup_nearest(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Every ``factor``-th pixel, repeated: jagged edges."""
    return _down_up(images, factor, "nearest-exact", "nearest-exact", _LEAST_UNFILTERED)


def aliased_downsample(images: Tensor, factor: Tensor, generator: Randomness) -> Tensor:
    """Every ``factor``-th pixel without an anti-aliasing filter, bilinear up: moire and false detail."""
    return _down_up(images, factor, "nearest-exact", "bilinear", _LEAST_UNFILTERED)


def interlace(images: Tensor, distance: Tensor, generator: Randomness) -> Tensor:
    """Combing: every other row displaced sideways by ``distance`` pixels, to a random side."""
    batch, _, height, width = images.shape
    side = filters.uniform((batch,), images, generator).round() * 2 - 1
    field = images[..., 1::2, :]
    flow = torch.zeros(batch, 2, height // 2, width, dtype=images.dtype, device=images.device)
    flow[:, 0] = (side.view(-1, 1, 1, 1) * filters.column(distance, images))[:, 0]
    woven = images.clone()
    woven[..., 1::2, :] = filters.displaced(field, flow)
    return woven.clamp(0, 1)


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(
        "downup_bicubic",
        "resampling",
        {"blur": 1.0},
        (1.08, 10.0),
        downup_bicubic,
        geometric=True,
        source="own construction: thumbnails shown at full size, up to 10 times",
        smooths=True,
    ),
    Distortion(
        "pixelate",
        "resampling",
        {"aliasing": 1.0, "blocking": 0.5},
        (1.15, 10.0),
        pixelate,
        geometric=True,
        source="own construction: cells from a pixel to 1/25 of a 256 px picture",
        smooths=True,
    ),
    Distortion(
        "downup_nearest",
        "resampling",
        {"aliasing": 1.0, "blocking": 0.5},
        (1.15, 8.0),
        downup_nearest,
        geometric=True,
        source="own construction: nearest-neighbour scaling both ways",
        dominance=False,
    ),
    Distortion(
        "aliased_downsample",
        "resampling",
        {"aliasing": 1.0, "blur": 0.5},
        (1.15, 10.0),
        aliased_downsample,
        geometric=True,
        source="own construction: decimation below the Nyquist rate of the picture's detail, up to 10 times",
        dominance=False,
    ),
    Distortion(
        "interlace",
        "resampling",
        {"aliasing": 1.0},
        (0.25, 4.5),
        interlace,
        geometric=True,
        source="own construction: weaving two fields between which the picture moved",
    ),
    Distortion(
        "downup_bilinear",
        "resampling",
        {"blur": 1.0},
        (1.05, 10.0),
        downup_bilinear,
        geometric=True,
        source="own construction, as downup_bicubic",
        smooths=True,
    ),
    Distortion(
        "downup_sinc",
        "resampling",
        {"blur": 1.0, "ringing": 0.5},
        (1.28, 10.0),
        downup_sinc,
        geometric=True,
        source="own construction: scaling with an ideal low-pass (Fourier truncation)",
        dominance=False,
        smooths=True,
    ),
    Distortion(
        "sparse_sampling",
        "resampling",
        {"blur": 1.0, "aliasing": 0.5},
        (0.9, 0.02),
        sparse_sampling,
        geometric=True,
        source="TID2013 type 24 (sparse sampling and reconstruction); filling and range our own",
        dominance=False,
        smooths=True,
    ),
)
"""No dominance without a filter, or by chance: which detail is lost depends on what acted before."""
