"""Too few levels: posterisation, contours, dither, small palettes."""

from __future__ import annotations

import torch
from torch import Tensor

from . import filters
from .draws import Randomness


def _nested_steps(values: Tensor, bits: Tensor, *, full: bool = False) -> Tensor:
    """Round values in [0, 1] to ``2 ** bits`` steps, so that fewer bits only ever merge steps.

    With a whole number of bits each step is shown by its middle; with a fraction of one, the two halves of a step are
    on their way to each other.

    Args:
        values: (B, C, H, W) in [0, 1].
        bits: (B,), at least 1, on the CPU.
        full: spread the middles so that the first becomes 0 and the last 1.
    """
    coarse = bits.floor()
    rounded = []
    for whole in (coarse, coarse + 1):
        count = filters.column(torch.exp2(whole), values)
        index = torch.minimum(torch.floor(values * count), count - 1)
        rounded.append(index / (count - 1) if full else (index + 0.5) / count)
    return torch.lerp(rounded[0], rounded[1], filters.column(bits - coarse, values).expand_as(values))


def posterize(images: Tensor, levels: Tensor, generator: Randomness) -> Tensor:
    """Round each channel to ``levels`` >= 2 steps, black and white included.

    Powers of two give exactly so many; in between, neighbouring levels are on their way to each other.
    """
    return _nested_steps(images, levels.log2(), full=True).clamp(0, 1)


def contour_banding(images: Tensor, bits: Tensor, generator: Randomness) -> Tensor:
    """Contours in smooth areas: the soft base of luma is rounded to ``2 ** bits`` steps, fine detail stays."""
    base = filters.fixed_gaussian(filters.luma(images), 2.0).clamp(0, 1)
    return (images + _nested_steps(base, bits) - base).clamp(0, 1)


# Fractions of the R2 sequence (inverse powers of the plastic number 1.3247...), in 1 / 65536.
_R2_X, _R2_Y = 49472, 37345
_R2_PERIOD = 65536


def dither(images: Tensor, levels: Tensor, generator: Randomness) -> Tensor:
    """Round each channel to ``levels`` even steps after adding an even, fine-grained threshold pattern.

    The pattern is the R2 low-discrepancy sequence, folded; each channel has it at another phase, so that the dots of
    the three do not fall together.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device).view(1, 1, width)
    y = torch.arange(height, device=images.device).view(1, height, 1)
    phase = (torch.arange(3, device=images.device) * (_R2_PERIOD // 3)).view(3, 1, 1)
    place = (((x * _R2_X + y * _R2_Y + phase) & (_R2_PERIOD - 1)).to(images) + 0.5) / _R2_PERIOD
    threshold = (2 * place - 1).abs()
    step = 1 / (filters.column(levels, images) - 1)
    lower = torch.floor(images / step) * step
    # black and white stay what they are, whatever the count
    upper = (lower + step).clamp(max=1)
    return torch.where(images - lower > threshold * (upper - lower), upper, lower).clamp(0, 1)


_FIXED_POINT = 65536


def _few_colours(values: Tensor, places: Tensor, bits: Tensor) -> Tensor:
    """Each pixel gets the mean colour of its cell.

    Args:
        values: (B, 4, H, W), whole numbers: the three colours, and what a pixel counts.
        places: (B, 3, H, W) in [0, 1]: where each pixel lies in luma and in the two colour differences.
        bits: (B,) on the CPU, whole numbers >= 0: ``2 ** bits`` cells of luma, half as many of each difference.

    Returns:
        (B, 3, H, W) in the units of a pixel's count.
    """
    batch, _, height, width = values.shape
    luma_cells, chroma_cells = torch.exp2(bits), torch.exp2((bits - 1).clamp(min=0))
    cells = torch.stack((luma_cells, chroma_cells, chroma_cells), dim=1).to(places, non_blocking=True)[:, :, None, None]
    luma_index, first, second = torch.minimum(torch.floor(places * cells), cells - 1).unbind(1)
    across = cells[:, 1]
    code = ((luma_index * across + first) * across + second).long().view(batch, 1, height * width)
    # A pixel that is not a number has no cell: without the clamp it would index outside the sums.
    count = int((luma_cells * chroma_cells**2).max())
    code = code.clamp(0, count - 1)
    # Sums of whole numbers do not depend on the order in which an accelerator adds them.
    sums = values.new_zeros(batch, 4, count)
    sums.scatter_add_(2, code.expand(-1, 4, -1), values.view(batch, 4, height * width))
    means = sums[:, :3].to(places.dtype) / sums[:, 3:].clamp(min=1).to(places.dtype)
    return means.gather(2, code.expand(-1, 3, -1)).view(places.shape)


def palette(images: Tensor, bits: Tensor, generator: Randomness) -> Tensor:
    """Few colours, no dither: cells of luma and colour difference, each shown in the mean colour of its pixels.

    The picture's own ranges are divided into ``2 ** bits`` steps of luma and half as many of each colour difference.
    Fewer bits only ever merge cells; with a fraction of a bit, cells are on their way to the colour of their union.
    """
    y, chroma = filters.split_chroma(images)
    parts = torch.cat((y, chroma), dim=1)
    low, high = parts.amin((2, 3), keepdim=True), parts.amax((2, 3), keepdim=True)
    places = (parts - low) / (high - low).clamp(min=1e-4)
    values = torch.round(torch.cat((images, torch.ones_like(y)), dim=1) * _FIXED_POINT).long()
    coarse = bits.floor()
    few, more = (_few_colours(values, places, whole) for whole in (coarse, coarse + 1))
    return torch.lerp(few, more, filters.column(bits - coarse, images).expand_as(images)).clamp(0, 1)
