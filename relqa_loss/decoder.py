"""`MapDecoder`, from the pair network's streams to signed maps; it runs only when maps are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .displacement import FIT_CHANNELS, FLOW_CHANNELS
from .layers import PairBlock, StreamBlock, scaled
from .local_statistics import EVEN_CHANNELS, ODD_CHANNELS
from .relation import AXES, SHIFT_AXES

DILATIONS = (1, 2, 4)
"""Of the blocks at stride 16, by which the decoder sees how much of the surroundings is affected, and how evenly."""

BLOCK_GAIN = 0.4
"""At which the blocks start beside their inputs: seven of them in a row must not blow the streams up."""

START_HEIGHT = 0.5
"""What the heights of all axes are before training, in severity units."""

START_TRUST = -1.0
"""Logit of the share of the displacement field in the shift maps before training: about a quarter."""


class MapHead(nn.Module):
    """Signed maps from the two streams of a level: ``sign * height + rest``.

    The sign of an axis comes from the odd stream, saturated; its height from the even one. An artefact that leaves a
    faint trace of *which* image has it can so be read as strong by everything else that shows *how much* of it there
    is; a plain odd reading would have to find the height in the trace. The rest is that plain reading: right for
    tone and displacement, which are differences themselves.

    Args:
        channels: of each stream.
        start: height of all axes before training.
    """

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.sign = scaled(nn.Conv2d(channels, len(AXES), 1, bias=False), 0.5)
        self.height = scaled(nn.Conv2d(channels, len(AXES), 1), 0.1)
        self.rest = scaled(nn.Conv2d(channels, len(AXES), 1, bias=False), 0.1)
        if self.height.bias is not None:
            nn.init.constant_(self.height.bias, math.log(math.expm1(start)))  # softplus of it is start

    def forward(self, odd: Tensor, even: Tensor) -> Tensor:
        """Streams (B, channels, h, w) -> (B, len(AXES), h, w), odd in the pair."""
        return F.softsign(self.sign(odd)) * F.softplus(self.height(even)) + self.rest(odd)


def _silent(conv: nn.Conv2d) -> nn.Conv2d:
    """A way in that adds nothing before training."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class MapDecoder(nn.Module):
    """Signed maps at half resolution, from the streams of a pair, its statistics and its displacement field.

    Args:
        pair_widths: channels of the pair network's streams at strides 2, 4, 8, 16.
        features: channels of the encoder at stride 2.
        energies: channels of the difference's energies at stride 2.
        width: channels of the streams at stride 4.
    """

    def __init__(self, pair_widths: Sequence[int], features: int, energies: int, width: int) -> None:
        super().__init__()
        p1, p2, p3, p4 = pair_widths
        self.odd_told4 = _silent(nn.Conv2d(ODD_CHANNELS, p4, 1, bias=False))
        self.even_told4 = _silent(nn.Conv2d(EVEN_CHANNELS, p4, 1))
        self.odd_told3 = _silent(nn.Conv2d(ODD_CHANNELS, p3, 1, bias=False))
        self.even_told3 = _silent(nn.Conv2d(EVEN_CHANNELS, p3, 1))
        self.around = nn.ModuleList([StreamBlock(p4, dilation, BLOCK_GAIN) for dilation in DILATIONS])
        self.odd_up3 = scaled(nn.Conv2d(p4, p3, 1, bias=False), 0.7)
        self.even_up3 = scaled(nn.Conv2d(p4, p3, 1, bias=False), 0.7)
        self.at3 = nn.ModuleList([StreamBlock(p3, gain=BLOCK_GAIN) for _ in range(2)])
        self.odd_in2 = scaled(nn.Conv2d(p2 + p3 + FLOW_CHANNELS, width, 1, bias=False), 1.0)
        self.even_in2 = scaled(nn.Conv2d(p2 + p3 + FIT_CHANNELS, width, 1), 1.0)
        self.at2 = nn.ModuleList([StreamBlock(width, gain=BLOCK_GAIN) for _ in range(2)])
        self.pair1 = PairBlock(features, energies, p1, width)
        self.head2 = MapHead(width, START_HEIGHT)
        self.head1 = MapHead(p1, START_HEIGHT / 10)
        self.trust = scaled(nn.Conv2d(width, 1, 1), 0.1)
        if self.trust.bias is not None:
            nn.init.constant_(self.trust.bias, START_TRUST)

    def forward(
        self,
        difference: Tensor,
        total: Tensor,
        energy: Tensor,
        odd: Sequence[Tensor],
        even: Sequence[Tensor],
        statistics: tuple[Tensor, Tensor],
        flow: Tensor,
        fit: Tensor,
        first: Tensor,
    ) -> Tensor:
        """(B, len(AXES), H / 2, W / 2), odd in the pair.

        On the shift axes the field itself speaks, as far as it is trusted: whether content was displaced has to be
        learned, how far it was need not be.

        Args:
            difference: encoder features at stride 2, a minus b.
            total: their sum.
            energy: energies of the filtered difference at stride 2.
            odd: odd streams at strides 4, 8, 16.
            even: even streams at the same strides.
            statistics: of the pair, odd and even, at stride 8 (:func:`relqa_loss.local_statistics.local_statistics`).
            flow: displacement at stride 4 (:func:`relqa_loss.displacement.displacement`).
            fit: how well it explains the difference.
            first: (B, len(AXES), H / 4, W / 4), a first reading of the maps to add to.
        """
        told = tuple(values.to(odd[1].dtype) for values in statistics)
        odd4 = odd[2] + self.odd_told4(F.avg_pool2d(told[0], 2))
        even4 = even[2] + F.silu(self.even_told4(F.avg_pool2d(told[1], 2)))
        for block in self.around:
            odd4, even4 = block(odd4, even4)
        odd3 = odd[1] + F.interpolate(self.odd_up3(odd4), scale_factor=2.0, mode="nearest") + self.odd_told3(told[0])
        even3 = even[1] + F.silu(F.interpolate(self.even_up3(even4), scale_factor=2.0, mode="nearest"))
        even3 = even3 + F.silu(self.even_told3(told[1]))
        for block in self.at3:
            odd3, even3 = block(odd3, even3)
        odd2 = self.odd_in2(torch.cat((odd[0], F.interpolate(odd3, scale_factor=2.0, mode="nearest"), flow), dim=1))
        even2 = F.silu(
            self.even_in2(torch.cat((even[0], F.interpolate(even3, scale_factor=2.0, mode="nearest"), fit), dim=1))
        )
        for block in self.at2:
            odd2, even2 = block(odd2, even2)
        odd1, even1 = self.pair1(difference, total, energy, (odd2, even2))
        finest = flow[:, -len(SHIFT_AXES) :]
        coarse = torch.cat((first + self.head2(odd2, even2), torch.sigmoid(self.trust(even2)), finest), dim=1)
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        maps, trust, finest = coarse.split((len(AXES), 1, len(SHIFT_AXES)), dim=1)
        maps = maps + self.head1(odd1, even1)
        before = AXES.index(SHIFT_AXES[0])
        sizes = (before, len(SHIFT_AXES), len(AXES) - before - len(SHIFT_AXES))
        left, shifts, right = maps.split(sizes, dim=1)
        return torch.cat((left, shifts + trust * (finest - shifts), right), dim=1)
