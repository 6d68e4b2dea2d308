"""`RelationalScorer`: pair features to a distance that splits by axis, and to a judgement without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import padding_to_multiple, smooth_abs
from .predictor import PairFeatures
from .relation import AXES

DIFFERENCE_SCALE = 0.1
"""Projected feature difference below which a density grows quadratically."""

FLOOR_SCALE = 4 / 255
"""Pixel difference below which the floor grows quadratically: it must pull to the very end, not jitter around it."""

PEAK_SCALE = 1e-3
"""Root-mean-square density below which the peak pooling grows quadratically (keeps its slope finite at identity)."""


class DistanceTerms(NamedTuple):
    """``parts`` (B, len(AXES)) >= 0 and ``floor`` (B,) >= 0; the distance is their sum."""

    parts: Tensor
    floor: Tensor


class _LevelTerm(nn.Module):
    """Non-negative axis densities from one level: even in the pair, zero at identity, slope bounded.

    Args:
        odd_channels: channels that change sign with a swap.
        even_channels: channels of the even stream that gates them (visual masking), 0 for no gate.
        channels: number of projected differences.
    """

    def __init__(self, odd_channels: int, even_channels: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(odd_channels, channels, 1, bias=False)
        self.gate = nn.Conv2d(even_channels, channels, 1) if even_channels else None
        self.mix = nn.Parameter(torch.full((len(AXES), channels), -4.0) + torch.rand(len(AXES), channels))
        self.peak = nn.Parameter(torch.full((len(AXES),), -1.0))

    def forward(self, odd: Tensor, even: Tensor | None, weight: Tensor | None) -> Tensor:
        """Odd and even features (B, C, h, w), weight (B, 1, h, w) of mean 1 or None -> densities (B, len(AXES))."""
        response = smooth_abs(self.project(odd), DIFFERENCE_SCALE)
        if self.gate is not None:
            response = response * torch.sigmoid(self.gate(even))
        density = F.conv2d(response, F.softplus(self.mix)[:, :, None, None]).float()
        mean, square = _pool(density, weight), _pool(density * density, weight)
        # A plain mean hides rare, strong errors (one lost block): the root mean square notices them.
        peak = square / (torch.sqrt(square + PEAK_SCALE**2) + PEAK_SCALE)
        return mean + F.softplus(self.peak.float()) * peak


def _pool(density: Tensor, weight: Tensor | None) -> Tensor:
    return density.mean(dim=(2, 3)) if weight is None else (density * weight).mean(dim=(2, 3))


class RelationalScorer(nn.Module):
    """Distance of a pair, split by axis, and an unanchored judgement, from a :class:`DistortionPredictor`'s features.

    The distance is a sum of non-negative terms over levels and axes plus a full-resolution floor: even in the pair,
    zero at identity and smooth there. The judgement is odd in the pair.

    Args:
        widths: encoder channels of the predictor.
        pair_widths: pair network channels of the predictor.
        channels: projected differences per level (strides 4, 8, 16).
        fine_channels: projected differences at stride 2.
        floor_weight: weight of the full-resolution floor, > 0.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 48, 80, 112),
        pair_widths: Sequence[int] = (24, 32, 64, 80),
        channels: int = 32,
        fine_channels: int = 8,
        floor_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if not floor_weight > 0:
            raise ValueError(f"floor_weight must be > 0, got {floor_weight}")
        self.config = {
            "widths": list(widths),
            "pair_widths": list(pair_widths),
            "channels": channels,
            "fine_channels": fine_channels,
            "floor_weight": floor_weight,
        }
        self.floor_weight = floor_weight
        self.fine = _LevelTerm(widths[0], 0, fine_channels)
        sizes = list(zip(widths[1:], pair_widths[1:], strict=True))
        self.levels = nn.ModuleList(_LevelTerm(width + pair, pair, channels) for width, pair in sizes)
        self.judges = nn.ModuleList(nn.Conv2d(pair, 16, 1, bias=False) for _, pair in sizes)
        self.judge_gates = nn.ModuleList(nn.Conv2d(pair, 16, 1) for _, pair in sizes)
        self.judge_mix = nn.ModuleList(nn.Conv2d(16, 1, 1, bias=False) for _ in sizes)

    def distance_terms(self, pair: PairFeatures, a: Tensor, b: Tensor, weight: Tensor | None = None) -> DistanceTerms:
        """Axis parts and floor of the distance between a and b.

        Args:
            pair: the predictor's features of (a, b).
            a: (B, 3, H, W) sRGB in [0, 1].
            b: same shape.
            weight: (B, 1, H, W) of mean 1 per image, or None.
        """
        padding = padding_to_multiple(a.shape[-2], a.shape[-1], 16)
        mask = _padded_weight(a, weight, padding)
        parts = self.fine(pair.difference[0], None, _reduce_weight(mask, 2))
        for level, (term, odd, even) in enumerate(zip(self.levels, pair.odd, pair.even, strict=True), start=1):
            features = torch.cat([pair.difference[level], odd], dim=1)
            parts = parts + term(features, even, _reduce_weight(mask, 2 ** (level + 1)))
        error = smooth_abs(a - b, FLOOR_SCALE).float()
        floor = error.mean(dim=(1, 2, 3)) if weight is None else (error * weight).mean(dim=(1, 2, 3))
        return DistanceTerms(parts, floor * self.floor_weight)

    def judge(self, pair: PairFeatures) -> Tensor:
        """Unanchored judgement (B,): positive where a looks better than b; odd in the pair."""
        score = torch.zeros((), device=pair.total.device)
        for project, gate, mix, odd, even in zip(
            self.judges, self.judge_gates, self.judge_mix, pair.odd, pair.even, strict=True
        ):
            score = score + mix(project(odd) * torch.tanh(gate(even))).float().mean(dim=(1, 2, 3))
        return score

    def forward(self, pair: PairFeatures, a: Tensor, b: Tensor) -> Tensor:
        """Distance (B,) between a and b: parts and floor added up."""
        parts, floor = self.distance_terms(pair, a, b)
        return parts.sum(dim=1) + floor


def _padded_weight(images: Tensor, weight: Tensor | None, padding: tuple[int, int]) -> Tensor | None:
    """Weight over the padded picture, of mean 1 there and 0 on the padding; None where everything weighs the same."""
    if padding == (0, 0):
        return weight
    batch, _, height, width = images.shape
    mask = images.new_ones((batch, 1, height, width)) if weight is None else weight
    grown = (height + padding[0]) * (width + padding[1])
    return F.pad(mask, (0, padding[1], 0, padding[0])) * (grown / (height * width))


def _reduce_weight(weight: Tensor | None, stride: int) -> Tensor | None:
    return None if weight is None else F.avg_pool2d(weight, stride)
