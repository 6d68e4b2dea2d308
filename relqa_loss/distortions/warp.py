"""Moving the content of a picture along a displacement field."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(images: Tensor, displacement: Tensor, *, mode: str = "bicubic", padding: str = "reflection") -> Tensor:
    """Move content: what is at p goes to p + displacement, read backwards as ``out(x) = in(x - displacement(x))``.

    Args:
        images: (B, C, H, W), any number of channels.
        displacement: (B, 2, H, W) in pixels, (x, y); positive moves to the right and downwards.
        mode: ``bicubic`` (may overshoot the range of the input: the result is not clamped), ``bilinear``, ``nearest``.
        padding: what enters at the border: ``reflection``, ``border`` or ``zeros``.

    Returns:
        (B, C, H, W). Pixels whose displacement is exactly 0 are bitwise those of ``images``.

    Raises:
        ValueError: the displacement does not fit the images.
    """
    batch, _, height, width = images.shape
    if displacement.shape != (batch, 2, height, width):
        raise ValueError(f"displacement must have shape {(batch, 2, height, width)}, got {tuple(displacement.shape)}")
    xs = torch.arange(width, device=images.device, dtype=images.dtype)
    ys = torch.arange(height, device=images.device, dtype=images.dtype)
    # align_corners=False: pixel centres lie at (2 i + 1) / n - 1.
    grid_x = (2 * (xs[None, None, :] - displacement[:, 0]) + 1) / width - 1
    grid_y = (2 * (ys[None, :, None] - displacement[:, 1]) + 1) / height - 1
    grid = torch.stack((grid_x, grid_y), dim=-1)
    moved = F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)
    return torch.where(at_rest(displacement), images, moved)


def at_rest(displacement: Tensor) -> Tensor:
    """Mask (B, 1, H, W), bool: True where the displacement (B, 2, H, W) is exactly 0."""
    return (displacement == 0).all(dim=1, keepdim=True)


def follow(first: Tensor, second: Tensor) -> Tensor:
    """Displacement (B, 2, H, W) of warping by ``first`` and then by ``second``.

    ``out(x) = mid(x - d2(x)) = in(x - d2(x) - d1(x - d2(x)))``, hence ``d(x) = d2(x) + d1(x - d2(x))``.
    """
    return second + warp(first, second, mode="bilinear", padding="border")
