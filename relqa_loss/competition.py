"""`AxisCompetition`: what all axes say of a place settles which of them are there, and how high their maps stand.

It stands between the decoder's maps and those that are shown, and runs only when maps are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import SILU_GAIN, at_least_float32, scaled
from .local_statistics import CHANGED_SHARE, EVEN_CHANNELS, ODD_CHANNELS
from .relation import AXES, SHIFT_AXES

COMPETITION_WIDTH = 96
"""Channels in which the axes' heights and the pair network's even stream meet, at stride 16."""

MEASURED_WIDTH = 256
"""Channels in which the pair's statistics are read, in which they meet the axes' heights, and of the layer after."""

COMPETITION_CELLS = 5
"""Side, in cells of 16 pixels, of the neighbourhood in which axes compete: about a region of the engine on a crop."""

MEASURED_CELLS = (1, COMPETITION_CELLS, 9)
"""Sides of the neighbourhoods over which the pair's statistics are averaged for it."""

COVERED_CELLS = (1, 5, 9, 17, 31)
"""Sides of the neighbourhoods over which cells and pixels that show a difference are counted: up to all of a crop of
training."""

LEAST_COVERED = 1e-4
"""Share added to that, about what cells without any difference count as."""

WHITENING_FLOOR = 0.01
"""Variance, of channels of unit variance, below which a direction counts as noise and is amplified no further."""

LEAST_SPREAD = 1e-2
"""Standard deviation below which a channel counts as constant: kept pairs are rounded to some thousandths."""

WHITENED_CELLS = 65536
"""By so many at most: some hundred times the channels."""

FARTHEST = 8.0
"""Standard deviations at which the values that are read are cut off: beyond lies what training hardly met."""

FAINTEST = 0.005
"""Height, in severity units, around which an axis begins to take part in the competition."""

LARGEST_LOG_FACTOR = 2.0
"""Bound of the logarithm of the factors of the competition (its gates go down to 0)."""

PRESENCE_GAIN = 4.0
"""Slope of the gate over the logit of presence: beside an axis that is surely there, a probability of 0.75 leaves 99 %
of a map, one of 0.25 leaves 1 %."""

SURELY_PRESENT = 1.0
"""Logit of presence from which a map is left all but whole: the likeliest axis of a cell counts as at least that."""

HIGHEST = 1.2
"""To where the factor of a cell may lift a map's mean over what is seen there, in severity units: above 1, so that even
the most severe still differ. What is interpolated between cells may stand higher."""

LEAST_SEEN = 0.01
"""Added to what is seen of a cell: among cells that show nothing, all count alike."""

START_PRESENCE = 1.0
"""Logit of every axis's presence before training: next to nothing is held down."""


class Cells(NamedTuple):
    """What a pair shows in cells of 16 pixels, averaged by how much each place differs; even in the pair.

    ``heights``: (B, len(AXES), h, w) >= 0, of the magnitudes of maps. ``statistics``: (B, ODD_CHANNELS + EVEN_CHANNELS,
    h, w), of the magnitudes of the odd ones and of the even ones. ``counts``: (B, 1, h, w) > 0, what was averaged by.
    """

    heights: Tensor
    statistics: Tensor
    counts: Tensor


class WhitenedConv(nn.Conv2d):
    """A 1x1 convolution of channels that it whitens: of mean 0 and variance 1, and saying nothing of one another.

    Logarithms of energies of neighbouring bands, or of one band over smaller and larger places, nearly agree, and it
    is by how little they differ that kinds of damage are told apart. Adam would have to grow large weights of opposite
    signs to see it. Until :meth:`fit` has seen some values, it takes them as they are, within ``FARTHEST`` of 0.

    Args:
        in_channels: of what is read.
        out_channels: of what it gives.
    """

    mean: Tensor
    spread: Tensor
    turn: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)
        self.register_buffer("mean", torch.zeros(in_channels))
        self.register_buffer("spread", torch.ones(in_channels))
        self.register_buffer("turn", torch.eye(in_channels))

    @property
    def fitted(self) -> bool:
        """Whether :meth:`fit` was called."""
        return not torch.equal(self.turn, torch.eye(len(self.turn)).to(self.turn))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take the symmetric whitening (ZCA) from values (N, in_channels), N >= 1, better many times the channels.

        Weights stay, and with other values to read they mean something else.
        """
        values = values.double()
        mean, spread = values.mean(dim=0), values.std(dim=0, correction=0).clamp_min(LEAST_SPREAD)
        plain = (values - mean) / spread
        variances, directions = torch.linalg.eigh(plain.T @ plain / len(plain))
        turn = directions @ torch.diag((variances.clamp_min(0) + WHITENING_FLOOR).rsqrt()) @ directions.T
        for buffer, value in ((self.mean, mean), (self.spread, spread), (self.turn, turn)):
            buffer.copy_(value)

    def forward(self, values: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        # In float32: what is left of a mean in half precision would be amplified.
        centred = (at_least_float32(values) - self.mean.view(1, -1, 1, 1)) / self.spread.view(1, -1, 1, 1)
        centred = centred.clamp(-FARTHEST, FARTHEST).to(self.weight.dtype)
        # Turning the weights instead of what they read: there are more cells than output channels wherever it matters.
        return F.conv2d(centred, (self.weight[:, :, 0, 0] @ self.turn)[:, :, None, None], self.bias)


class AxisCompetition(nn.Module):
    """Settles by what all axes say of a neighbourhood which of them are there at all, and how high their maps stand.

    A decoder that is not sure shows a little of several axes, each for itself the best guess at its height. Looked at
    together, and as ratios, their heights tell more: how much contrast there seems to be for so much noise. Beside
    them stand the pair's statistics over the places that differ, from which the severity of many kinds can be read off
    once the kind is known, and what share of the surroundings differs at all, which tells how severe lost blocks are.
    All that is read is whitened, see :class:`WhitenedConv`.

    Each axis and cell gets a positive factor and a probability of being there, both even in the pair, so that signs
    and zeros stay. Two answers, since they want different things of a map in doubt: the best height is one in between,
    the best name is all or nothing.

    Args:
        even_channels: channels of the pair network's even stream at stride 16.
    """

    def __init__(self, even_channels: int) -> None:
        super().__init__()
        measured = len(MEASURED_CELLS) * (ODD_CHANNELS + EVEN_CHANNELS)
        told = 2 * len(AXES) + 1 + 2 * len(COVERED_CELLS) + even_channels
        self.read = WhitenedConv(told, COMPETITION_WIDTH)
        self.measure = WhitenedConv(measured, MEASURED_WIDTH)
        self.meet = nn.Conv2d(COMPETITION_WIDTH + MEASURED_WIDTH, MEASURED_WIDTH, 1)
        self.settle = nn.Conv2d(MEASURED_WIDTH, MEASURED_WIDTH, 1)
        self.factors = nn.Conv2d(COMPETITION_WIDTH + 2 * MEASURED_WIDTH, len(AXES), 1)
        self.presence = nn.Conv2d(COMPETITION_WIDTH + 2 * MEASURED_WIDTH, len(AXES), 1)
        self.start_anew()

    def start_anew(self) -> None:
        """Draw what is read and hidden at random, and let the axes not compete; the whitening stays."""
        for conv, gain in ((self.read, 1.0), (self.measure, 1.0), (self.meet, SILU_GAIN), (self.settle, SILU_GAIN)):
            scaled(conv, gain)
        # At first nothing is held down.
        for head, start in ((self.factors, 0.0), (self.presence, START_PRESENCE)):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, start)  # type: ignore[arg-type]

    def forward(self, cells: Cells, even: Tensor, gains: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Factors > 0 and logits of presence: (B, len(AXES), h, w) each, float32 at least.

        Args:
            cells: what the pair shows in cells of 16 pixels.
            even: (B, even_channels, h, w).
            gains: (B, 2, MEASURED_WIDTH, h, w), what dropout multiplies the outputs of ``measure`` and ``meet`` by on
                their way into the next hidden layer; the heads read those of ``meet`` whole. None to drop nothing.
        """
        of_measured, of_met = (1.0, 1.0) if gains is None else gains.unbind(1)
        told, means = self._told(cells, even)
        read = F.silu(self.read(told))
        measured = F.silu(self.measure(means)) * of_measured
        met = F.silu(self.meet(torch.cat((read, measured), dim=1)))
        settled = torch.cat((read, met, F.silu(self.settle(met * of_met))), dim=1)
        logarithms, presence = (at_least_float32(head(settled)) for head in (self.factors, self.presence))
        return torch.exp(LARGEST_LOG_FACTOR * torch.tanh(logarithms / LARGEST_LOG_FACTOR)), presence

    @torch.no_grad()
    def fit_whitening(self, cells: Cells, even: Tensor, seen: Tensor) -> None:
        """Whiten what is read by what these pairs show, and start anew: what was learned was learned of other values.

        Args:
            cells: as for :meth:`forward`.
            even: likewise.
            seen: (B, 1, h, w) bool: the cells that count; ``WHITENED_CELLS`` of them are taken, spread evenly.
        """
        places = seen.flatten().nonzero()[:, 0]
        places = places[:: -(-len(places) // WHITENED_CELLS)]
        for reading, values in zip((self.read, self.measure), self._told(cells, even), strict=True):
            reading.fit(values.movedim(1, -1).flatten(0, 2)[places])
        self.start_anew()

    @staticmethod
    def _told(cells: Cells, even: Tensor) -> tuple[Tensor, Tensor]:
        """What is read: heights as ratios, how much and what share differs, the even stream; the statistics' means."""
        counts = cells.counts
        around = {side: _mean_of_cells(counts, side) for side in MEASURED_CELLS}

        def mean(values: Tensor, side: int) -> Tensor:
            return _mean_of_cells(values * counts, side) / around[side]

        heights = torch.cat((mean(cells.heights, COMPETITION_CELLS), cells.heights), dim=1)
        ratios = torch.log((heights + FAINTEST) / (10 * FAINTEST))
        amount = torch.log(counts) / 4  # about as wide as the ratios
        shown = counts / (counts + 1)  # half where a difference is one visible step
        # In cells, and roughly in pixels (windows of 16, where the cell differs most): a block of less than a cell is a
        # whole cell to the one.
        changed = cells.statistics[:, ODD_CHANNELS + CHANGED_SHARE, None]
        shares = (_mean_of_cells(share, side) for share in (shown, changed) for side in COVERED_CELLS)
        covered = [torch.log(share + LEAST_COVERED) / 2 for share in shares]
        means = torch.cat([mean(cells.statistics, side) for side in MEASURED_CELLS], dim=1)
        return torch.cat((ratios, amount, *covered, at_least_float32(even)), dim=1), means


def cells_of(maps: Tensor, weight: Tensor, statistics: tuple[Tensor, Tensor]) -> Cells:
    """What the competition reads.

    Args:
        maps: (B, len(AXES), h, w) at stride 2.
        weight: (B, 1, h, w) > 0, how much each place counts.
        statistics: odd and even ones (B, ..., h / 4, w / 4), see :func:`.local_statistics.local_statistics`.
    """
    odd, even = statistics
    counts = F.avg_pool2d(weight, 8)
    held = F.avg_pool2d(torch.cat((odd.abs(), even), dim=1) * F.avg_pool2d(weight, 4), 2)
    return Cells(F.avg_pool2d(maps.abs() * weight, 8) / counts, held / counts, counts)


def bounded(factors: Tensor, heights: Tensor) -> Tensor:
    """Factors > 0 (B, len(AXES), h, w), but none that lifts a cell of that height beyond ``HIGHEST``.

    Where two kinds of damage meet, factors change from cell to cell, and one axis's would lift what the other's side
    has at full height. Displacements have no top.

    Args:
        factors: of cells.
        heights: same shape, >= 0: about the mean magnitude of the maps over what is to see in each cell.
    """
    has_top = torch.tensor([axis not in SHIFT_AXES for axis in AXES], device=factors.device).view(1, -1, 1, 1)
    most = (HIGHEST / heights.clamp_min(1e-3)).clamp_min(1)
    return torch.where(has_top, torch.minimum(factors, most), factors)


def gated(maps: Tensor, logits: Tensor) -> Tensor:
    """Maps (B, C, h, w) of axes if they are there, and the logits of that (B, C, h / 8, w / 8) -> maps."""
    return maps * at_stride_2(presence_gates(logits)).to(maps.dtype)


def presence_gates(logits: Tensor) -> Tensor:
    """What axes with these logits of presence (B, C, h, w) keep of their maps: the same shape, in [0, 1].

    The likeliest axis of a cell keeps its map however unlikely it is: something is wrong there, and how much should
    not depend on how sure its name is.
    """
    likeliest = logits.amax(dim=1, keepdim=True).clamp(max=SURELY_PRESENT)
    return torch.sigmoid(PRESENCE_GAIN * (logits - likeliest + SURELY_PRESENT))


def at_stride_2(cells: Tensor, seen: Tensor | None = None) -> Tensor:
    """(B, C, h, w) at stride 16 -> (B, C, 8 h, 8 w), interpolated.

    Args:
        cells: values.
        seen: (B, 1, h, w) in [0, 1], how plain the difference in each cell is to see, by which cells then count. For
            factors, which are taught by a mean over what is seen: a cell with a mere edge of some damage has learned
            one that makes up for the low gates there, and would spoil its neighbours.
    """
    if seen is None:
        return F.interpolate(cells, scale_factor=8.0, mode="bilinear", align_corners=False)
    weight = seen + LEAST_SEEN
    return at_stride_2(cells * weight) / at_stride_2(weight)


def _mean_of_cells(cells: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(cells, side, stride=1, padding=side // 2, count_include_pad=False)
