"""Which part of a photograph is judged: at the scale at which it is viewed, and where there is something to see."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .filters import luma
from .visibility import local_mean

VIEWING_HEIGHT = 512
"""Shorter side, in pixels, of the pictures that the panel's viewing distance is meant for."""


def at_viewing_scale(image: Tensor, side: int) -> Tensor:
    """A photograph (3, H, W) as it is seen whole: reduced to ``VIEWING_HEIGHT`` where its shorter side is larger.

    A crop of a huge photograph at its own resolution is mostly smooth: blur would look harmless there and noise plain.

    Args:
        image: (3, H, W) in [0, 1].
        side: of the crop to be taken, in pixels; the photograph is never made smaller than that.
    """
    shorter = min(image.shape[1:])
    height = max(VIEWING_HEIGHT, side)
    if shorter <= height:
        return image
    size = [round(length * height / shorter) for length in image.shape[1:]]
    return F.interpolate(image[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)


def detail(image: Tensor) -> float:
    """Mean distance of the luma of an image (3, H, W) from its local mean, in units of the range."""
    plane = luma(image[None])
    return float((plane - local_mean(plane)).abs().mean())


def draw_crop(image: Tensor, side: int, random: np.random.Generator) -> Tensor:
    """A random square (3, side, side) of an image (3, H, W)."""
    top, left = (int(random.integers(length - side + 1)) for length in image.shape[1:])
    return image[:, top : top + side, left : left + side]
