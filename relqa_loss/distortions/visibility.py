"""Where a distortion has left a difference at all: the per-pixel weight of the map targets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA = 2.0
"""Standard deviation, in pixels, of the window over which differences are averaged."""

TAU = 2.0 / 255.0
"""Root of the local squared difference (summed over channels) at which the weight is one half: two 8-bit steps."""


ROUNDING = 0.01 / 255
"""Change, in units of the range, up to which a pixel counts as untouched: filters do not keep a flat sky to the last
bit, and how far they miss depends on device and kernel."""


def reach(sigma: float = SIGMA) -> int:
    """Radius of the window in pixels: 3 sigma."""
    return max(1, round(3 * sigma))


def local_mean(images: Tensor, sigma: float = SIGMA) -> Tensor:
    """Gaussian-weighted local mean (B, C, H, W) with a window of radius 3 sigma, mirrored at the border."""
    radius = reach(sigma)
    window = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    height, width = images.shape[-2:]
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    rows = torch.zeros_like(padded[..., :width])
    # Adding shifted copies is several times faster on a CPU than the one-channel convolution of filters.gaussian_blur.
    for offset, share in enumerate(window):
        rows.add_(padded[..., offset : offset + width], alpha=share / sum(window))
    columns = torch.zeros_like(images)
    for offset, share in enumerate(window):
        columns.add_(rows[..., offset : offset + height, :], alpha=share / sum(window))
    return columns


def visibility(reference: Tensor, distorted: Tensor, *, sigma: float = SIGMA, tau: float = TAU) -> Tensor:
    """How much is there to see of the difference, per pixel.

    ``E / (E + tau^2)``, where E is the local Gaussian mean of the squared difference summed over channels.

    Args:
        reference: (B, 3, H, W) in [0, 1].
        distorted: (B, 3, H, W) in [0, 1].
        sigma: standard deviation of the window in pixels.
        tau: difference, in units of the range, that gives one half.

    Returns:
        (B, H, W) in [0, 1]: exactly 0 where nothing changed within 3 sigma, near 1 where the change is plain.
    """
    energy = local_mean((distorted - reference).square().sum(dim=1, keepdim=True), sigma).squeeze(1).clamp_min(0)
    return energy / (energy + tau * tau)


def touched(before: Tensor, after: Tensor) -> Tensor:
    """Where a picture has changed by more than rounding, or one within :func:`reach` of there has: (B, H, W) bool."""
    changed = ((before - after).abs().amax(dim=1, keepdim=True) > ROUNDING).float()
    rows = F.max_pool2d(changed, (2 * reach() + 1, 1), stride=1, padding=(reach(), 0))
    return F.max_pool2d(rows, (1, 2 * reach() + 1), stride=1, padding=(0, reach())).squeeze(1) > 0
