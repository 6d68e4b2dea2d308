"""`RelationalScorer`: pair features to a distance that splits by axis, and to a judgement without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import DIFFERENCE_SCALE, padding_to_multiple, scaled, smooth_abs
from .predictor import PairFeatures
from .relation import AXES

FLOOR_SCALE = 4 / 255
"""Pixel difference below which the floor grows quadratically: it must pull to the very end, not jitter around it."""

PEAK_SCALE = 1e-3
"""Root-mean-square density below which the peak pooling grows quadratically (keeps its slope finite at identity)."""


class DistanceTerms(NamedTuple):
    """``parts`` (B, len(AXES)) >= 0 and ``floor`` (B,) >= 0; the distance is their sum."""

    parts: Tensor
    floor: Tensor


class _AxisPool(nn.Module):
    """Non-negative responses (B, channels, h, w) -> pooled axis densities (B, len(AXES)): a sum with weights > 0.

    Args:
        channels: number of responses.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.full((len(AXES), channels), -4.0) + torch.rand(len(AXES), channels))
        self.peak = nn.Parameter(torch.full((len(AXES),), -1.0))

    def forward(self, response: Tensor, weight: Tensor | None) -> Tensor:
        """Pool; ``weight`` is (B, 1, h, w) of mean 1, or None."""
        density = F.conv2d(response, F.softplus(self.mix)[:, :, None, None]).float()
        mean, square = _pool(density, weight), _pool(density * density, weight)
        # A plain mean hides rare, strong errors (one lost block): the root mean square notices them.
        peak = square / (torch.sqrt(square + PEAK_SCALE**2) + PEAK_SCALE)
        return mean + F.softplus(self.peak.float()) * peak


class _LevelTerm(nn.Module):
    """Axis densities from one level: even in the pair, zero at identity, slope bounded.

    Args:
        odd_channels: channels that change sign with a swap.
        even_channels: channels of the even stream that gates them (visual masking).
        channels: number of projected differences.
    """

    def __init__(self, odd_channels: int, even_channels: int, channels: int) -> None:
        super().__init__()
        self.project = scaled(nn.Conv2d(odd_channels, channels, 1, bias=False), 1.0)
        self.gate = scaled(nn.Conv2d(even_channels, channels, 1), 1.0)
        self.pool = _AxisPool(channels)

    def forward(self, odd: Tensor, even: Tensor, weight: Tensor | None) -> Tensor:
        """Odd and even features (B, C, h, w), weight (B, 1, h, w) of mean 1 or None -> densities (B, len(AXES))."""
        response = smooth_abs(self.project(odd), DIFFERENCE_SCALE) * torch.sigmoid(self.gate(even))
        return self.pool(response, weight)


def _pool(density: Tensor, weight: Tensor | None) -> Tensor:
    return density.mean(dim=(2, 3)) if weight is None else (density * weight).mean(dim=(2, 3))


class RelationalScorer(nn.Module):
    """Distance of a pair, split by axis, and an unanchored judgement, from a :class:`DistortionPredictor`'s features.

    The distance is a sum of non-negative terms over levels and axes plus a full-resolution floor: even in the pair,
    zero at identity and smooth there. The judgement is odd in the pair.

    Args:
        widths: encoder channels of the predictor.
        pair_widths: pair network channels of the predictor.
        texture_width: filters of the predictor on the difference at stride 2.
        channels: projected differences per level (strides 4, 8, 16).
        floor_weight: weight of the full-resolution floor, > 0.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 48, 80, 112),
        pair_widths: Sequence[int] = (24, 32, 64, 80),
        texture_width: int = 16,
        channels: int = 32,
        floor_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if not floor_weight > 0:
            raise ValueError(f"floor_weight must be > 0, got {floor_weight}")
        self.config = {
            "widths": list(widths),
            "pair_widths": list(pair_widths),
            "texture_width": texture_width,
            "channels": channels,
            "floor_weight": floor_weight,
        }
        self.floor_weight = floor_weight
        self.fine = _AxisPool(texture_width)
        sizes = list(zip(widths[1:], pair_widths[1:], strict=True))
        self.levels = nn.ModuleList([_LevelTerm(width + pair, pair, channels) for width, pair in sizes])
        self.judges = nn.ModuleList(scaled(nn.Conv2d(pair, 16, 1, bias=False), 1.0) for _, pair in sizes)
        self.judge_gates = nn.ModuleList(scaled(nn.Conv2d(pair, 16, 1), 1.0) for _, pair in sizes)
        self.judge_mix = nn.ModuleList(scaled(nn.Conv2d(16, 1, 1, bias=False), 0.1) for _ in sizes)

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
        parts = self.fine(pair.energy, _reduce_weight(mask, 2))
        for level, (term, odd, even) in enumerate(zip(self.levels, pair.odd, pair.even, strict=True), start=1):
            features = torch.cat([pair.difference[level], odd], dim=1)
            parts = parts + term(features, even, _reduce_weight(mask, 2 ** (level + 1)))
        error = smooth_abs(a - b, FLOOR_SCALE).float()
        floor = error.mean(dim=(1, 2, 3)) if weight is None else (error * weight).mean(dim=(1, 2, 3))
        return DistanceTerms(parts, floor * self.floor_weight)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiply all axis parts by ``factor`` > 0 (not the floor): before training, to start at the right scale."""
        for pool in self.modules():
            if isinstance(pool, _AxisPool):
                # softplus(mix) is what multiplies; its inverse is log(exp(x) - 1).
                pool.mix.copy_(torch.log(torch.expm1(F.softplus(pool.mix) * factor)))

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
