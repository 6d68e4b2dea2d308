"""`RelationalScorer`: pair features to a distance that splits by axis, and to a judgement without a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import DIFFERENCE_SCALE, at_least_float32, exporting, padding_to_multiple, scaled, smooth_abs
from .predictor import PairFeatures
from .relation import AXES, SHIFT_AXES, TONE_AXES

FLOOR_SCALE = 4 / 255
"""Pixel difference below which the floor grows quadratically: it must pull to the very end, not jitter around it."""

SMALLEST_SHARE = 1e-3
"""Added to the squared strength of every axis: where nothing responds, all axes share alike."""

START_WEIGHTS = (0.4, 0.5, 0.5, 0.25)
"""Where training starts the terms of strides 2, 4, 8 and 16. It does not shift them far, and a heavier finest stride
trains worse restorers (benchmarks/experiments.md)."""

ARTEFACT_AXES = tuple(axis for axis in AXES if axis not in (*TONE_AXES, *SHIFT_AXES))
"""Axes on which more is worse."""

START_JUDGEMENT = -0.3
"""Judgement, before training, of a severity of 1 on an artefact's axis over the whole picture."""

DENSITY_STRIDE = 4
"""Stride of the density that the distance is the mean of."""

JUDGEMENT_STRIDES = (2, 4, 8, 16)
"""Strides at which pieces of the judgement stand: of the maps, and of the pair network's streams."""

OPEN = 0.2
"""What the sigmoid of a gate gives before training."""

CONTRAST_FLOOR = 1e-3
"""Contrast below which the pictures' contrast, for masking, falls quadratically (keeps its slope finite)."""

PEAK_SCALE = 1e-3
"""Root-mean-square density below which the peak pooling grows quadratically (keeps its slope finite at identity)."""


class DistanceTerms(NamedTuple):
    """``parts`` (B, len(AXES)) >= 0, or one for all axes (B, 1), and ``floor`` (B,) >= 0; the distance is their sum."""

    parts: Tensor
    floor: Tensor


class Densities(NamedTuple):
    """What the distance is the mean of, and in what.

    ``density``: (B, 1, h, w) >= 0. ``share``: of each axis in it, (B, len(AXES), h, w) > 0, adding up to 1; or the one
    share of all together, (B, 1, h, w), where the features have no odd streams.
    """

    density: Tensor
    share: Tensor

    def by_axis(self) -> tuple[Tensor, Tensor]:
        """The density, and its square, shared out: of the shape of ``share`` each."""
        of_axes = self.density * self.share
        return of_axes, self.density * of_axes


class _Gate(nn.Module):
    """How much each response counts, in (``least_open``, 1), from what the networks know of the pair.

    Closer to shut than to open at the start: one kind of damage may weigh several times another. Never shut: a
    difference that counts nothing is one that no descent ever mends.
    """

    def __init__(self, even_channels: int, channels: int, least_open: float) -> None:
        super().__init__()
        self.least_open = least_open
        self.read = scaled(nn.Conv2d(even_channels, channels, 1), 1.0)
        if self.read.bias is not None:
            nn.init.constant_(self.read.bias, math.log(OPEN / (1 - OPEN)))

    def forward(self, even: Tensor) -> Tensor:
        """Even stream (B, even_channels, h, w) -> (B, channels, h, w)."""
        return self.least_open + (1 - self.least_open) * torch.sigmoid(self.read(even))


class _LevelTerm(nn.Module):
    """How different two images are at one level, per place: even in the pair, zero at identity, slope bounded.

    It looks at linear filters of the difference alone; what the networks know of the pair comes in as a gate on them.
    Differences of deep features judge no better and are a poor guide downhill: nearly all of their gradient lies in
    the finest detail, across the way to the reference (benchmarks/experiments.md).

    Args:
        even_channels: channels of the even stream that gates the differences (visual masking).
        channels: number of filters.
        start: weight of the level before training.
        least_open: see :class:`RelationalScorer`.
    """

    def __init__(self, even_channels: int, channels: int, start: float, least_open: float) -> None:
        super().__init__()
        self.filters = scaled(nn.Conv2d(12, channels, 3, padding=1, bias=False), 4.0)
        self.gate = _Gate(even_channels, channels, least_open)
        self.mix = _mixing_weights(channels, start)

    def forward(self, pixels: Tensor, even: Tensor) -> Tensor:
        """Reduced difference (B, 3, 2 h, 2 w) and even stream (B, C, h, w) -> density (B, 1, h, w) >= 0."""
        response = smooth_abs(self.filters(F.pixel_unshuffle(pixels, 2)), DIFFERENCE_SCALE)
        return _mixed(response * self.gate(even), self.mix)


def _mixing_weights(channels: int, total: float) -> nn.Parameter:
    """Logarithms of equal positive weights that add up to ``total``."""
    return nn.Parameter(torch.full((channels,), math.log(total / channels)))


def _mixed(responses: Tensor, mix: Tensor) -> Tensor:
    return F.conv2d(responses, mix.exp().view(1, -1, 1, 1))


def _local_contrasts(pictures: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Standard deviation of two pictures around each cell, root mean square over pictures and channels.

    Args:
        pictures: (B, 12, H / 2, W / 2) each, by cells of 2x2 pixels, sides divisible by 8, float32 at least; values
            near 0 keep the difference of squares exact.

    Returns:
        Four tensors (B, 1, H / c, W / c) >= ``CONTRAST_FLOOR``, even in the pair: of the pixels, in
        cells of c = 4, and of means of 2x2, 4x4 and 8x8 pixels, in cells of c = 4, 8 and 16. Windows are twice the
        cells.
    """
    means = [mean_of_cells(picture) for picture in pictures]
    contrasts = []
    for level in range(4):
        # Windows of pixels are windows of their 2x2 means, too.
        if level > 1:
            means = [F.avg_pool2d(mean, 2) for mean in means]
        squares = [_squared(one) / 4 for one in pictures] if level == 0 else [_squared(mean) for mean in means]
        first, second = (_around(square) - _squared(_around(mean)) for square, mean in zip(squares, means, strict=True))
        contrasts.append(torch.sqrt((first + second).clamp_min(0) / 6 + CONTRAST_FLOOR**2))
    return contrasts


def mean_of_cells(cells: Tensor) -> Tensor:
    """Means (B, 3, h, w) of cells of 2x2 pixels (B, 12, h, w)."""
    return cells.unflatten(1, (3, 4)).mean(dim=2)


def _squared(values: Tensor) -> Tensor:
    return (values * values).sum(dim=1, keepdim=True)


def _around(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 4, stride=2, padding=1, count_include_pad=False)


def _pool(density: Tensor, weight: Tensor | None) -> Tensor:
    return density.mean(dim=(2, 3)) if weight is None else (density * weight).mean(dim=(2, 3))


def pixel_error(a: Tensor, b: Tensor) -> Tensor:
    """What the floor averages: (B, 3, H, W) >= 0, of the full-resolution difference, float32 at least."""
    return at_least_float32(smooth_abs(a - b, FLOOR_SCALE))


class RelationalScorer(nn.Module):
    """Distance of a pair, split by axis, and an unanchored judgement, with a :class:`DistortionPredictor`'s features.

    *How far*: a density at stride 4, the sum of non-negative terms from strides 2, 4, 8 and 16: linear filters of the
    difference, gated by the pair network and divided by what the pictures' own contrast at that stride hides. *In
    what*: the share of each axis in it, from the pair network. A part is what its axis has of the pooled density; the
    distance is the sum of the parts and a full-resolution floor: even in the pair, zero at identity and smooth there.
    Shares add up to 1 everywhere, so that, while all parts weigh the same, what a difference is called does not change
    how far it is, nor where its gradient points: deep features are a poor guide downhill (benchmarks/experiments.md).
    The judgement is odd in the pair.

    Args:
        pair_widths: pair network channels of the predictor.
        texture_width: filters of the predictor on the difference at stride 2.
        channels: filters on the difference per level (strides 4, 8, 16).
        floor_weight: weight of the full-resolution floor, > 0.
        masking_contrast: local standard deviation of the pictures, > 0, at which a difference counts half as much as in
            a plain place (contrast masking).
        least_open: what the gates leave of a response at least, in [0, 1).
    """

    def __init__(
        self,
        pair_widths: Sequence[int] = (24, 32, 64, 80),
        texture_width: int = 16,
        channels: int = 32,
        floor_weight: float = 2.0,
        masking_contrast: float = 0.1,
        least_open: float = 0.1,
    ) -> None:
        super().__init__()
        if not floor_weight > 0:
            raise ValueError(f"floor_weight must be > 0, got {floor_weight}")
        if not 0 < masking_contrast < math.inf:
            raise ValueError(f"masking_contrast must be > 0 and finite, got {masking_contrast}")
        if not 0 <= least_open < 1:
            raise ValueError(f"least_open must lie in [0, 1), got {least_open}")
        self.config = {
            "pair_widths": list(pair_widths),
            "texture_width": texture_width,
            "channels": channels,
            "floor_weight": floor_weight,
            "masking_contrast": masking_contrast,
            "least_open": least_open,
        }
        self.floor_weight = floor_weight
        self.masking_contrast = masking_contrast
        self.fine_gate = _Gate(pair_widths[1], texture_width, least_open)
        self.fine = _mixing_weights(texture_width, START_WEIGHTS[0])
        streams = pair_widths[1:]
        self.levels = nn.ModuleList(
            [
                _LevelTerm(width, channels, start, least_open)
                for width, start in zip(streams, START_WEIGHTS[1:], strict=True)
            ]
        )
        self.attribution = scaled(nn.Conv2d(pair_widths[1], len(AXES), 1, bias=False), 0.3)
        self.gain = nn.Parameter(torch.zeros(()))
        self.peak = nn.Parameter(torch.tensor(-1.0))
        self.judges = nn.ModuleList(scaled(nn.Conv2d(width, 16, 1, bias=False), 1.0) for width in streams)
        self.judge_gates = nn.ModuleList(scaled(nn.Conv2d(width, 16, 1), 1.0) for width in streams)
        self.judge_mix = nn.ModuleList(scaled(nn.Conv2d(16, 1, 1, bias=False), 0.1) for _ in streams)
        self.map_judge = nn.Conv2d(len(AXES), 1, 1, bias=False)
        with torch.no_grad():
            # Artefacts make worse; a tone or a place has no better side.
            self.map_judge.weight.copy_(
                torch.tensor([START_JUDGEMENT * (axis in ARTEFACT_AXES) for axis in AXES]).view(1, -1, 1, 1)
            )

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
        reduced = None if mask is None else F.avg_pool2d(mask, DENSITY_STRIDE)
        densities, squares = self.densities(pair).by_axis()
        error = pixel_error(a, b)
        return self.combine(
            _pool(densities, reduced),
            _pool(squares, reduced),
            error.mean(dim=(1, 2, 3)) if weight is None else (error * weight).mean(dim=(1, 2, 3)),
        )

    def densities(self, pair: PairFeatures) -> Densities:
        """Density and shares over the padded picture, float32 at least."""
        finest, *coarser = (1 / (1 + one / self.masking_contrast) for one in _local_contrasts(pair.pictures))
        density = _mixed(F.avg_pool2d(pair.energy, 2) * self.fine_gate(pair.even[0]), self.fine) * finest
        pixels = mean_of_cells(pair.pixels)
        for level, (term, even, unmasked) in enumerate(zip(self.levels, pair.even, coarser, strict=True), 1):
            if level > 1:
                pixels = F.avg_pool2d(pixels, 2)
            at_level = term(pixels, even) * unmasked
            density = density + F.interpolate(at_level, scale_factor=float(2 ** (level - 1)), mode="nearest")
        density = at_least_float32(density) * at_least_float32(self.gain).exp()
        if not pair.odd:
            return Densities(density, torch.ones_like(density))
        strength = at_least_float32(self.attribution(pair.odd[0])).square() + SMALLEST_SHARE
        return Densities(density, strength / strength.sum(dim=1, keepdim=True))

    def combine(self, mean: Tensor, square: Tensor, error: Tensor) -> DistanceTerms:
        """Parts and floor from means over the whole picture, which add up from those of its regions.

        Args:
            mean: (B, len(AXES)), or (B, 1), weighted mean of the density times the axis's share.
            square: the same of the squared density.
            error: (B,) weighted mean of :func:`pixel_error`.
        """
        # A plain mean hides rare, strong errors (one lost block): the root mean square notices them. It is that of the
        # whole density, shared out, so that the sum over axes does not depend on who has which share.
        whole = square.sum(dim=1, keepdim=True)
        peak = square / (torch.sqrt(whole + PEAK_SCALE**2) + PEAK_SCALE)
        parts = mean + F.softplus(at_least_float32(self.peak)) * peak
        return DistanceTerms(parts, error * self.floor_weight)

    def judging(self) -> tuple[nn.Module, ...]:
        """What the judgement has to itself: the rest is the distance's."""
        return (self.judges, self.judge_gates, self.judge_mix, self.map_judge)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiply all axis parts by ``factor`` > 0 (not the floor): before training, to start at the right scale."""
        self.gain.add_(math.log(factor))

    def judge(self, pair: PairFeatures, maps: Tensor) -> Tensor:
        """Unanchored judgement (B,): positive where a looks better than b; odd in the pair.

        Args:
            pair: the predictor's features.
            maps: its maps (B, len(AXES), H' / 2, W' / 2) at half resolution.
        """
        score = torch.zeros((), device=pair.pixels.device)
        for density in self.judgements(pair, maps):
            score = score + density.mean(dim=(1, 2, 3))
        return score

    def judgements(self, pair: PairFeatures, maps: Tensor) -> list[Tensor]:
        """What :meth:`judge` averages over the padded picture: (B, 1, h, w) at ``JUDGEMENT_STRIDES``, odd."""
        streams = zip(self.judges, self.judge_gates, self.judge_mix, pair.odd, pair.even, strict=True)
        return [
            at_least_float32(self.map_judge(maps)),
            *(
                at_least_float32(mix(project(odd) * torch.tanh(gate(even))))
                for project, gate, mix, odd, even in streams
            ),
        ]

    def forward(self, pair: PairFeatures, a: Tensor, b: Tensor) -> Tensor:
        """Distance (B,) between a and b: parts and floor added up."""
        parts, floor = self.distance_terms(pair, a, b)
        return parts.sum(dim=1) + floor


def _padded_weight(images: Tensor, weight: Tensor | None, padding: tuple[int, int]) -> Tensor | None:
    """Weight over the padded picture, of mean 1 there and 0 on the padding; None where everything weighs the same."""
    if not exporting() and padding == (0, 0):
        return weight
    batch, _, height, width = images.shape
    mask = at_least_float32(images).new_ones((batch, 1, height, width)) if weight is None else weight
    grown = (height + padding[0]) * (width + padding[1])
    return F.pad(mask, (0, padding[1], 0, padding[0])) * (grown / (height * width))
