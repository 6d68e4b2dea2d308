"""What a descent leaves behind besides error: a checkerboard, and grain where the reference is flat."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..validation import check_pair

BAND = 1 / 16
"""Half-width of the bands around the Nyquist frequencies, in cycles a pixel: a checkerboard that changes its phase or
strength across the picture, which the exact frequency would miss, still counts."""

FLAT_WINDOW = 7
"""Side in pixels of the window in which the reference is called flat or busy."""

FLAT_SHARE = 4
"""One pixel in so many, those with the flattest surroundings, belongs to the flat parts."""


class Checkerboard(NamedTuple):
    """Energy of a residual at the Nyquist frequencies in x, in y and in both, see :func:`checkerboard`.

    Attributes:
        relative: (B,), share of the residual's energy in the bands, divided by the share that white noise has there: 1
            for white noise, 0 for a smooth residual or none, about 20 for nothing but a checkerboard. Of a residual
            that is only rounding it says nothing: read it beside ``steps``.
        steps: (B,), root mean square of the residual in the bands, in 8-bit steps: whether it can be seen.
    """

    relative: Tensor
    steps: Tensor


def checkerboard(pred: Tensor, ref: Tensor) -> Checkerboard:
    """How much of ``pred - ref`` alternates from pixel to pixel, as upsampling and strided layers leave it.

    From the power spectrum of the residual, its mean taken off, under a Hann window, so that neither a cast nor the
    edges of the picture leak into the bands. These are |fx| >= 1/2 - ``BAND`` with |fy| <= ``BAND`` (stripes upright),
    the same with x and y exchanged (stripes lying), and both within ``BAND`` of 1/2 (a checkerboard); channels add up.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        ref: the same shape.

    Raises:
        ValueError, TypeError: not two batches of images of one shape.
    """
    check_pair("pred", pred, "ref", ref)
    residual = pred.detach().double() - ref.detach().double()
    residual = residual - residual.mean(dim=(2, 3), keepdim=True)
    height, width = residual.shape[2:]
    windows = [torch.hann_window(n, periodic=False, dtype=torch.float64) for n in (height, width)]
    window = torch.outer(*windows).to(residual.device)
    power = torch.fft.fft2(residual * window).abs().square().sum(dim=1)
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64, device=residual.device).abs() for n in (height, width))
    high_y, low_y = (fy >= 0.5 - BAND)[:, None], (fy <= BAND)[:, None]
    high_x, low_x = (fx >= 0.5 - BAND)[None], (fx <= BAND)[None]
    bands = (low_y & high_x) | (high_y & low_x) | (high_y & high_x)
    inside, total = (power * bands).sum(dim=(1, 2)), power.sum(dim=(1, 2))
    relative = inside / total.clamp_min(torch.finfo(torch.float64).tiny) / bands.double().mean()
    # Parseval: the spectrum's sum is height * width times that of the windowed residual's squares.
    mean_square = inside / (height * width) / (residual.shape[1] * window.square().sum())
    return Checkerboard(relative, 255 * mean_square.sqrt())


def grain(pred: Tensor, ref: Tensor) -> Tensor:
    """Standard deviation of what is fine in ``pred - ref``, in the flat parts of the reference: (B,), in 8-bit steps.

    Fine is the residual less its mean under a binomial 3x3 window, scaled so that white noise keeps its deviation.
    Flat parts are the quarter of the pixels with the lowest standard deviation of the reference (grey: mean over
    channels) in 7x7 pixels around; 3 pixels along the edges are left out.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        ref: the same shape.

    Raises:
        ValueError, TypeError: not two batches of images of one shape.
    """
    check_pair("pred", pred, "ref", ref)
    reference = ref.detach().double()
    residual = pred.detach().double() - reference
    binomial = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64, device=residual.device) / 4
    kernel = -torch.outer(binomial, binomial)
    kernel[1, 1] += 1
    fine = F.conv2d(residual.flatten(0, 1)[:, None], (kernel / kernel.norm())[None, None]).view(
        *residual.shape[:2], residual.shape[2] - 2, residual.shape[3] - 2
    )
    edge = FLAT_WINDOW // 2 - 1
    fine = fine[:, :, edge:-edge, edge:-edge]
    grey = reference.mean(dim=1, keepdim=True)
    mean, mean_square = (F.avg_pool2d(plane, FLAT_WINDOW, stride=1) for plane in (grey, grey.square()))
    busy = (mean_square - mean.square()).flatten(1)
    limit = busy.kthvalue(-(-busy.shape[1] // FLAT_SHARE), dim=1, keepdim=True).values
    flat = (busy <= limit).double()
    energy = fine.square().mean(dim=1).flatten(1)
    return 255 * ((energy * flat).sum(dim=1) / flat.sum(dim=1)).sqrt()
