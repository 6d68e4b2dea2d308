"""Haar wavelet-based perceptual similarity (HaarPSI): one family of the panel.

The same metric as the authors' (and as piq's), with the wavelet coefficients of each picture worked out once however
often the picture is compared, by box means in place of convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Reisenhofer, Bosse, Kutyniok and Wiegand (2018): C of the similarities (for 0..255) and alpha of the logistic.
_C, _ALPHA = 30.0, 4.2

# NTSC YIQ as in the authors' implementation.
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))

Wavelets = tuple[Tensor, Tensor, Tensor]
"""Magnitudes of the two fine scales (B, 2, 2, h, w: orientation, scale), of the coarse one (B, 2, h, w), and of the
smoothed chroma (B, 2, h, w)."""


def _haar(plane: Tensor, size: int) -> Tensor:
    """Magnitude (B, 2, h, w) of the Haar responses of (B, 1, h, w) along rows and columns, zero outside."""
    half = size // 2
    padded = F.pad(plane, (half - 1, half, half - 1, half))
    height, width = plane.shape[2:]
    # A Haar filter of size s is s / 2 times the mean of one half of its window, less that of the other.
    flat = F.avg_pool2d(padded, (half, size), stride=1)
    tall = F.avg_pool2d(padded, (size, half), stride=1)
    rows = flat[:, :, :height] - flat[:, :, half : half + height]
    columns = tall[:, :, :, :width] - tall[:, :, :, half : half + width]
    return (torch.cat((rows, columns), 1) * (size / 2)).abs_()


def wavelets(image: Tensor) -> Wavelets:
    """What :func:`wavelet_similarity` compares, of images (B, 3, H, W) in [0, 1]."""
    matrix = torch.tensor(_RGB_TO_YIQ, dtype=image.dtype, device=image.device)
    odd = max(image.shape[2] % 2, image.shape[3] % 2)
    small = F.avg_pool2d(F.pad(image, (0, odd, 0, odd)), 2)
    planes = torch.einsum("oc,bchw->bohw", matrix * 255.0, small)
    fine = torch.stack((_haar(planes[:, :1], 2), _haar(planes[:, :1], 4)), 2)
    chroma = F.avg_pool2d(F.pad(planes[:, 1:], (0, 1, 0, 1)), 2, stride=1).abs()
    return fine, _haar(planes[:, :1], 8), chroma


def _similar(a: Tensor, b: Tensor) -> Tensor:
    return (2 * a * b + _C) / (a.square() + b.square() + _C)


def wavelet_similarity(a: Wavelets, b: Wavelets) -> Tensor:
    """HaarPSI (B,) of two batches' coefficients; 1 for equal pictures."""
    weight = torch.maximum(a[1], b[1])
    weight = torch.cat((weight, weight.mean(1, keepdim=True)), 1)
    local = torch.cat((_similar(a[0], b[0]).mean(2), _similar(a[2], b[2]).mean(1, keepdim=True)), 1)
    eps = torch.finfo(local.dtype).eps
    score = (((local * _ALPHA).sigmoid() * weight).sum((1, 2, 3)) + eps) / (weight.sum((1, 2, 3)) + eps)
    return (torch.logit(score) / _ALPHA).square()
