"""Closed-form statistics of a pair, read by the decoder: what two images hold in each band of detail, and in common.

How much of an image is left in a band (blur, contrast, saturation), how much was added that has nothing to do with it
(noise, ringing), how flat it is between its steps (banding, blocks): ratios and correlations of local energies, in the
manner of H. R. Sheikh and A. C. Bovik, "Image information and visual quality" (2006). A small network would have to
learn to divide; here it is given the quotients, in logarithms.

Everything odd is a difference of the same function of either image, or an odd function of their difference: a swap
changes its sign bit for bit, and equal images give zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import at_least_float32

STRIDE = 8
"""Of the statistics; each is taken over a window of twice that side, but those of the coarsest band."""

BANDS = (1, 2, 4)
"""Strides of the bands of a Laplacian pyramid; what is left lies at ``STRIDE``."""

COARSE_WINDOW = 5
"""Side, in cells of ``STRIDE``, of the window in which the contrast of the coarsest band is taken."""

REACH = STRIDE * (COARSE_WINDOW // 2 + 1)
"""How far, in pixels, from a cell the statistics look: that window; the bands' upsampling and windows look less far."""

FLAT_STEPS = (1 / 255, 4 / 255)
"""Steps between neighbouring pixels below which they count as equal: one and four 8-bit steps."""

CHANGES = (1 / 255, 8 / 255)
"""Differences above which a pixel counts as changed."""

_PLANES = 3
_DIRECTIONS = 2

ODD_CHANNELS = _PLANES * (len(BANDS) + 1) + _PLANES + 1 + _PLANES * _DIRECTIONS * (len(FLAT_STEPS) + 2) + 2 * _PLANES
"""In this order: flatness, peakedness and energy of steps; bias and skew of the difference; energy by band, the finest
first, and of the coarse contrast; coarse means; coarse colourfulness. Weights depend on it."""

EVEN_CHANNELS = (
    3 * _PLANES * (len(BANDS) + 1)
    + _PLANES
    + 1
    + _PLANES * _DIRECTIONS * (len(FLAT_STEPS) + 3)
    + 2 * _PLANES
    + len(CHANGES)
)
"""In this order: flatness, peakedness and energy of steps, and energy of those of the difference; peakedness of the
difference, correlation between its planes, share of changed pixels; difference, mean and correlation by band, the
finest first, and of the coarse contrast; coarse means; coarse colourfulness, both images together."""

CHANGED_SHARE = _PLANES * _DIRECTIONS * (len(FLAT_STEPS) + 3) + 2 * _PLANES + len(CHANGES) - 1
"""Place, among the even channels, of the share of pixels that change by more than the larger of ``CHANGES``."""

# Squared values, per pixel, far below one 8-bit step.
_NOTHING = 1e-6
_CENTRE, _SPREAD = 4.0, 2.0  # of logarithms of amplitudes, roughly: channels then have about unit size


def local_statistics(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """What a and b hold, by luma and two opponent planes, around each cell of 8 pixels.

    Args:
        a: (B, 3, H, W) in [0, 1], sides divisible by 8.
        b: same shape.

    Returns:
        Odd (B, ODD_CHANNELS, H / 8, W / 8) and even (B, EVEN_CHANNELS, H / 8, W / 8), float32 at least.
    """
    a, b = (_opponent(at_least_float32(image)) for image in (a, b))
    difference = a - b
    parts = [_steps(a, b, difference), _difference(difference)]
    for stride in BANDS:
        (detail_a, a), (detail_b, b), (detail, difference) = (_split(image) for image in (a, b, difference))
        energies = (_around(detail.square(), stride) for detail in (detail_a, detail_b, detail))
        parts.append(_compared(*energies))
    parts.append(_compared(*(_variance(image) for image in (a, b, difference))))
    colour_a, colour_b = (image[:, 1:].square().sum(dim=1, keepdim=True) for image in (a, b))
    parts.append((difference, (a + b) / 2))
    parts.append((_amplitude(colour_a) - _amplitude(colour_b), _level(_amplitude(colour_a + colour_b))))
    odd, even = zip(*parts, strict=True)
    return torch.cat(odd, dim=1), torch.cat(even, dim=1)


def _opponent(image: Tensor) -> Tensor:
    red, green, blue = image.split(1, dim=1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.cat((luma, red - green, blue - (red + green) / 2), dim=1)


def _split(image: Tensor) -> tuple[Tensor, Tensor]:
    """The finest band of a picture, and what is left at half its size."""
    half = F.avg_pool2d(image, 2)
    return image - F.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False), half


def _around(values: Tensor, stride: int) -> Tensor:
    """Means at ``STRIDE``, over windows of twice that side, of values at ``stride``."""
    step = STRIDE // stride
    return F.avg_pool2d(values, 2 * step, step, padding=step // 2, count_include_pad=False)


def _variance(image: Tensor) -> Tensor:
    def mean(values: Tensor) -> Tensor:
        half = COARSE_WINDOW // 2
        return F.avg_pool2d(values, COARSE_WINDOW, stride=1, padding=half, count_include_pad=False)

    return (mean(image.square()) - mean(image).square()).clamp_min(0)


def _amplitude(energy: Tensor) -> Tensor:
    return torch.log(energy + _NOTHING) / 2


def _level(amplitude: Tensor) -> Tensor:
    return (amplitude + _CENTRE) / _SPREAD


def _compared(energy_a: Tensor, energy_b: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """How much more a holds than b; how much they differ, what they hold, and how alike it is."""
    both = energy_a + energy_b
    alike = (both - energy) / (2 * torch.sqrt((energy_a + _NOTHING) * (energy_b + _NOTHING)))
    levels = (_level(_amplitude(energy)), _level(_amplitude(both / 2)), alike)
    return _amplitude(energy_a) - _amplitude(energy_b), torch.cat(levels, dim=1)


def _gradients(image: Tensor) -> Tensor:
    right = F.pad(image[..., 1:] - image[..., :-1], (0, 1, 0, 0), mode="replicate")
    down = F.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1), mode="replicate")
    return torch.cat((right, down), dim=1)


def _peakedness(values: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the root of the kurtosis of values around 0, and their mean square."""
    square = values.square()
    energy = _around(square, 1)
    return torch.log(_around(square.square(), 1) + _NOTHING**2) / 2 - torch.log(energy + _NOTHING), energy


def _steps(a: Tensor, b: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
    """Steps from pixel to pixel: how many are next to nothing, how much some stand out, and how high they are."""

    def told(image: Tensor) -> tuple[Tensor, Tensor]:
        steps = _gradients(image)
        flat = [_around(torch.exp(-(steps / step).square()), 1) for step in FLAT_STEPS]
        peaked, energy = _peakedness(steps)
        return torch.cat((*flat, peaked), dim=1), _amplitude(energy)

    (of_a, high_a), (of_b, high_b) = told(a), told(b)
    of_difference = _level(_amplitude(_around(_gradients(difference).square(), 1)))
    odd = torch.cat((of_a - of_b, high_a - high_b), dim=1)
    return odd, torch.cat(((of_a + of_b) / 2, _level((high_a + high_b) / 2), of_difference), dim=1)


def _difference(difference: Tensor) -> tuple[Tensor, Tensor]:
    """The difference by itself: bias and skew; peakedness, correlation between planes, share of changed pixels."""
    peaked, energy = _peakedness(difference)
    root = torch.sqrt(energy + _NOTHING)
    bias = _around(difference, 1) / root
    skew = _around(difference.square() * difference, 1) / (root * (energy + _NOTHING))
    following = difference.roll(-1, dims=1)
    alike = _around(difference * following, 1) / (root * root.roll(-1, dims=1))
    largest = difference.square().amax(dim=1, keepdim=True)
    changed = [_around(largest / (largest + change**2), 1) for change in CHANGES]
    # A third power is small where few pixels hold all of the difference; its root is as large as the other channels.
    return torch.cat((bias, _root(skew)), dim=1), torch.cat((peaked, alike, *changed), dim=1)


def _root(values: Tensor) -> Tensor:
    """Odd, slope 1 at 0, like the square root of the magnitude far from it."""
    return values / torch.sqrt(1 + values.abs())
