"""Displacement between two images, closed form: the symmetric least-squares flow of Lucas and Kanade, coarse to fine.

B. D. Lucas and T. Kanade, "An iterative image registration technique" (1981). Gradients are taken on the mean of the
two images and both are moved half of the way, so a swap of the images changes the sign of the flow bit for bit. What
plain places and straight edges cannot tell comes from their surroundings: steps are damped where the texture has one
direction, and the flow is averaged, by how much texture holds it, after each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import at_least_float32
from .relation import PIXELS_PER_UNIT_SHIFT

LEVELS = (8, 4, 2)
"""Strides at which the flow is estimated, one after the other."""

FLOW_CHANNELS = 2 * len(LEVELS)
"""Channels of the odd output: x and y of the flow at every level."""

FIT_CHANNELS = 2 * len(LEVELS)
"""Channels of the even output: what the flow leaves over, and how much texture it holds on to, at every level."""

WINDOW = 5
"""Side, in cells, of the window in which the displacement is taken as constant."""

SURROUNDINGS = 7
"""Side, in cells, of the window in which the flow is averaged."""

STEPS = 2
"""Estimates at each level, each on what the one before has left."""

DAMPING = 0.1
"""Share of the squared gradients that is added in both directions: along a straight edge nothing is known, and rounding
must not decide."""

REACH = 16 + sum(
    stride * (STEPS * (1 + WINDOW // 2 + SURROUNDINGS // 2) + 2 * (stride < LEVELS[0])) for stride in LEVELS
)
"""How far, in pixels, the flow looks: gradient and windows of every step and upsampling, with room for what the
coarsest level moves the images by between its steps. Later moves are longer, but nothing coarser is looked at beyond
them."""

LONGEST = 16.0
"""A step of the coarsest level saturates here, in pixels; those of finer levels at two cells."""

_LUMA = (0.299, 0.587, 0.114)
# Squared gradient, per cell, below which a window counts as flat: about one 8-bit step.
_FLAT = 2e-5


def displacement(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Where content of b is found in a, at stride 4.

    Args:
        a: (B, 3, H, W) in [0, 1], sides divisible by 8.
        b: same shape.

    Returns:
        Flow (B, FLOW_CHANNELS, H / 4, W / 4), odd in the pair: right and down at each of ``LEVELS``, in units of
        ``PIXELS_PER_UNIT_SHIFT``, positive where a's content lies to the right of or below b's. Fit (B, FIT_CHANNELS,
        H / 4, W / 4) in [0, 1], even: what the flow leaves of the difference (0: nothing, 1/2: all of it), and the
        texture in the window.
    """
    # Sums and pooling only: autocast leaves them in float32.
    lumas = [_luma(at_least_float32(image)) for image in (a, b)]
    flow: Tensor | None = None
    flows, fits = [], []
    for stride in LEVELS:
        la, lb = (F.avg_pool2d(luma, stride) for luma in lumas)
        before = _averaged((la - lb).square(), WINDOW) + _FLAT
        if flow is not None:
            flow = F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)
        for _ in range(STEPS - 1):
            flow, _, _ = _nearer(la, lb, flow, stride)
        flow, left, texture = _nearer(la, lb, flow, stride)
        fit = torch.cat((left / (left + before), texture / (texture + 10 * _FLAT)), dim=1)
        flows.append(_at_stride_4(flow, stride))
        fits.append(_at_stride_4(fit, stride))
    return (torch.cat(flows, dim=1) / PIXELS_PER_UNIT_SHIFT).to(a.dtype), torch.cat(fits, dim=1).to(a.dtype)


def _nearer(a: Tensor, b: Tensor, flow: Tensor | None, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """A step from ``flow``, in pixels, on lumas at ``stride``: the flow, what its step left over, and the texture."""
    if flow is not None:
        a, b = _moved(a, flow / (-2 * stride)), _moved(b, flow / (2 * stride))
    step, left, texture = _least_squares(a, b)
    flow = _saturated(step * stride) if flow is None else flow + _saturated(step * stride, 2.0 * stride)
    return _averaged(flow * texture, SURROUNDINGS) / _averaged(texture, SURROUNDINGS), left, texture


def _luma(image: Tensor) -> Tensor:
    red, green, blue = image.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _saturated(flow: Tensor, longest: float = LONGEST) -> Tensor:
    """Odd, slope 1 at 0, below ``longest`` in magnitude."""
    return flow / torch.sqrt(1 + (flow / longest).square())


def _at_stride_4(values: Tensor, stride: int) -> Tensor:
    if stride == 4:
        return values
    return F.avg_pool2d(values, 2) if stride == 2 else F.interpolate(values, scale_factor=2.0, mode="nearest")


def _averaged(values: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(values, window, stride=1, padding=window // 2, count_include_pad=False)


def _least_squares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flow (B, 2, h, w) in cells from lumas (B, 1, h, w), the squared change it leaves, and the texture, > 0."""
    mean = F.pad((a + b) / 2, (1, 1, 1, 1), mode="replicate")
    gx = (mean[..., 1:-1, 2:] - mean[..., 1:-1, :-2]) / 2
    gy = (mean[..., 2:, 1:-1] - mean[..., :-2, 1:-1]) / 2
    change = a - b
    moments = torch.cat((gx * gx, gy * gy, gx * gy, change * change), dim=1)
    xx, yy, xy, cc = _averaged(moments, WINDOW).split(1, dim=1)
    xc, yc = _averaged(torch.cat((gx * change, gy * change), dim=1), WINDOW).split(1, dim=1)
    damping = DAMPING * (xx + yy) + _FLAT
    xx, yy = xx + damping, yy + damping
    determinant = xx * yy - xy * xy
    right = (xy * yc - yy * xc) / determinant
    down = (xy * xc - xx * yc) / determinant
    left = (cc + right * xc + down * yc).clamp_min(0)
    return torch.cat((right, down), dim=1), left, determinant / (xx + yy)


def _moved(image: Tensor, flow: Tensor) -> Tensor:
    """Luma (B, 1, h, w) looked up at its own places minus ``flow`` (B, 2, h, w), in cells; bilinear."""
    height, width = image.shape[-2:]
    ys = torch.arange(height, dtype=image.dtype, device=image.device).view(1, height, 1) - flow[:, 1]
    xs = torch.arange(width, dtype=image.dtype, device=image.device).view(1, 1, width) - flow[:, 0]
    grid = torch.stack(((2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1), dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
