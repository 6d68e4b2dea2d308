"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math

from torch import Tensor


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1], of one shape; infinite for equal images."""
    error = float((a.double() - b.double()).square().mean())
    return -10 * math.log10(error) if error > 0 else math.inf
