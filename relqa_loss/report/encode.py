"""Pictures and maps as data URIs: pages that hold everything they show."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import pillow, to_bytes

STEPS = 127
"""A map value of the colour limit is this many grey levels away from the level of 0, which is 128."""


def shrunk(image: Tensor, side: int) -> Tensor:
    """(C, H, W) averaged down until its longer side is at most ``side``; what fits is returned as it is."""
    longest = max(image.shape[1:])
    if longest <= side:
        return image
    size = [max(1, round(length * side / longest)) for length in image.shape[1:]]
    return F.interpolate(image[None], size, mode="area")[0]


def picture_uri(image: Tensor) -> str:
    """(3, H, W) in [0, 1] as a WebP of 8 bits, without loss: coding must not add artefacts to look for."""
    return _webp(to_bytes(image))


def map_uri(signed: Tensor, limit: float) -> str:
    """(H, W) signed, as grey levels of a WebP without loss: 128 is 0, 1 is ``-limit`` and 255 ``+limit``."""
    levels = (signed / limit * STEPS).round().clamp(-STEPS, STEPS) + 128
    return _webp(np.repeat(levels.to(torch.uint8).numpy()[..., None], 3, axis=2))


def _webp(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> str:
    file = io.BytesIO()
    pillow().fromarray(pixels).save(file, format="webp", lossless=True, quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
