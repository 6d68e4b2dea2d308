"""The few blocks that predictor and scorer share.

A pair of images is carried through the networks as two streams: an *odd* one that changes its sign when the images are
swapped, and an *even* one that does not. Odd values pass only through bias-free convolutions, sums and products with
even values, so a swap negates them bit for bit and equal images give exact zeros; nothing has to be learned for that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def smooth_abs(x: Tensor, scale: float) -> Tensor:
    """Even, smooth stand-in for ``|x|``: ``x^2 / (2 scale)`` up to ``scale``, ``|x| - scale / 2`` beyond (Huber, 1964).

    Its slope is continuous and at most 1, and a difference far below ``scale`` still gives a value above 0 in
    float32. One fused kernel forward and one backward; the square roots of a Charbonnier term cost more than the
    convolutions around it.
    """
    return F.smooth_l1_loss(x, x.new_zeros(()).expand_as(x), reduction="none", beta=scale)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened to float32, for sums over pictures; float32 and float64 stay what they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exporting() -> bool:
    """Whether ``torch.export`` is tracing: what is chosen by size then holds for all sizes the program will ever see.

    Torch before 2.7 cannot tell export from compilation.
    """
    return bool(getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)())


def padding_to_multiple(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Rows and columns to add at the bottom and the right so that both sides divide by ``multiple``."""
    # Not -side % multiple: torch 2.14 cannot compile the remainder of a negative dynamic size.
    above = multiple - 1
    return (height + above) // multiple * multiple - height, (width + above) // multiple * multiple - width


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides divide by ``multiple``."""
    bottom, right = padding_to_multiple(images.shape[-2], images.shape[-1], multiple)
    if not exporting() and bottom == 0 and right == 0:
        return images
    return F.pad(images, (0, right, 0, bottom), mode="replicate")


def cut_padding(maps: Tensor, height: int, width: int) -> Tensor:
    """The upper left ``height`` x ``width`` pixels of maps (B, C, H', W')."""
    if exporting():
        # A slice is contiguous or not, depending on the size; a copy always is.
        rows, columns = (torch.arange(side, device=maps.device) for side in (height, width))
        return maps.index_select(2, rows).index_select(3, columns)
    return maps[..., :height, :width]


DIFFERENCE_SCALE = 0.1
"""Difference of features (of about unit variance) below which magnitudes grow quadratically."""

SILU_GAIN = 1.68
"""Factor that restores unit variance after SiLU: ``1 / sqrt(E[silu(x)^2])`` for a standard normal ``x``."""


def scaled(conv: nn.Conv2d, gain: float) -> nn.Conv2d:
    """Start a convolution with outputs of ``gain`` times its inputs' standard deviation, and without bias.

    There is no normalisation layer to repair the scale, and torch's default lets differences fade with depth.
    """
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    with torch.no_grad():
        conv.weight.mul_(gain)
        if conv.bias is not None:
            conv.bias.zero_()
    return conv


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip; no normalisation, so every output sees a bounded neighbourhood only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = scaled(nn.Conv2d(channels, channels, 3, padding=1), SILU_GAIN)
        self.second = scaled(nn.Conv2d(channels, channels, 3, padding=1), 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class Encoder(nn.Module):
    """Features of one image at strides 2, 4, 8 and 16.

    ``pixel_unshuffle`` lets the first convolution see every pixel at a quarter of the cost of full resolution; each
    halving is a 2x2 patch projection, so that cells stay centred on the pixels they stand for.

    Args:
        widths: channels at the four strides.
    """

    stride = 16

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        w1, w2, w3, w4 = widths
        self.stem = scaled(nn.Conv2d(12, w1, 3, padding=1), 4.0)  # pixels have a standard deviation of about 1/4
        self.down2 = scaled(nn.Conv2d(w1, w2, 2, stride=2), SILU_GAIN)
        self.mix2 = scaled(nn.Conv2d(w2, w2, 3, padding=1), SILU_GAIN)
        self.down3 = scaled(nn.Conv2d(w2, w3, 2, stride=2), SILU_GAIN)
        self.mix3 = Residual(w3)
        self.down4 = scaled(nn.Conv2d(w3, w4, 2, stride=2), 1.0)
        self.mix4 = Residual(w4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1], sides divisible by 16 -> features (B, w_l, H / 2^l, W / 2^l), l = 1..4."""
        f1 = F.silu(self.stem(F.pixel_unshuffle(images - 0.5, 2)))
        f2 = F.silu(self.mix2(F.silu(self.down2(f1))))
        f3 = self.mix3(self.down3(f2))
        f4 = self.mix4(self.down4(f3))
        return f1, f2, f3, f4


class DifferenceTexture(nn.Module):
    """What the difference of two images looks like by itself: local energies of its filter responses.

    The kind of an artefact shows in the texture of ``a - b`` (speckle, grid, contour), which features of each image
    alone bury under its content.

    Args:
        widths: filters at stride 2, and channels of the energies at strides 4 and 8.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        w1, w2, w3 = widths
        self.filters = scaled(nn.Conv2d(12, w1, 3, padding=1, bias=False), 4.0)
        self.down2 = scaled(nn.Conv2d(w1, w2, 2, stride=2), SILU_GAIN)
        self.down3 = scaled(nn.Conv2d(w2, w3, 2, stride=2), SILU_GAIN)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Difference by cells (B, 12, h, w), sides divisible by 4 -> energies (B, widths[l], ...), strides 2, 4, 8."""
        e1 = smooth_abs(self.filters(pixels), DIFFERENCE_SCALE)
        e2 = F.silu(self.down2(e1))
        return e1, e2, F.silu(self.down3(e2))


class StreamBlock(nn.Module):
    """Odd and even stream of one level look at their neighbourhood, and at each other where that keeps the parity.

    Args:
        channels: of each stream.
        dilation: of the 3x3 convolutions, so that a few of them at a coarse stride see far.
        gain: at which the block starts beside its input; below 1 where several follow each other.
    """

    def __init__(self, channels: int, dilation: int = 1, gain: float = 1.0) -> None:
        super().__init__()

        def conv(side: int, bias: bool) -> nn.Conv2d:
            padding = side // 2 * dilation
            return scaled(nn.Conv2d(channels, channels, side, padding=padding, dilation=dilation, bias=bias), gain)

        self.gate = conv(1, True)
        self.odd_mix = conv(3, False)
        self.even_mix = conv(3, True)
        self.even_odd = conv(1, False)
        self.gate_out = conv(1, True)

    def forward(self, odd: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
        """Streams (B, channels, h, w) -> the same shapes."""
        odd, even = self._met(odd, even)
        return odd + self.odd_mix(odd) * torch.tanh(self.gate_out(even)), even

    def _met(self, odd: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
        """The odd stream as the even one has gated it, and the block's even stream, which depends on no more."""
        odd = odd * (1 + torch.tanh(self.gate(even)))
        return odd, even + F.silu(self.even_mix(even) + self.even_odd(smooth_abs(odd, DIFFERENCE_SCALE)))


class PairBlock(StreamBlock):
    """One level of the two-stream pair network.

    Args:
        features: channels of the encoder's features at this level.
        energies: channels of the difference's energies at this level, 0 where there are none.
        channels: channels of each stream.
        coarser: channels of each stream one level up, 0 at the coarsest level.
    """

    def __init__(self, features: int, energies: int, channels: int, coarser: int) -> None:
        super().__init__(channels)
        self.odd_in = scaled(nn.Conv2d(features, channels, 1, bias=False), 1.0)
        self.even_in = scaled(nn.Conv2d(2 * features + energies, channels, 1), 0.7)
        self.odd_up = scaled(nn.Conv2d(coarser, channels, 1, bias=False), 0.7) if coarser else None
        self.even_up = scaled(nn.Conv2d(coarser, channels, 1, bias=False), 0.7) if coarser else None

    def forward(  # type: ignore[override]
        self, difference: Tensor, total: Tensor, energies: Tensor | None, coarser: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Difference and sum of features, energies of the difference, the coarser level's streams -> (odd, even)."""
        return super().forward(*self._streams(difference, total, energies, coarser))

    def even(
        self, difference: Tensor, total: Tensor, energies: Tensor | None, coarser: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """The even stream alone, bit for bit that of :meth:`forward`."""
        return self._met(*self._streams(difference, total, energies, coarser))[1]

    def _streams(
        self, difference: Tensor, total: Tensor, energies: Tensor | None, coarser: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        odd = self.odd_in(difference)
        evens = [total, smooth_abs(difference, DIFFERENCE_SCALE)]
        even = self.even_in(torch.cat(evens if energies is None else [*evens, energies], dim=1))
        if coarser is not None and self.odd_up is not None and self.even_up is not None:
            odd = odd + F.interpolate(self.odd_up(coarser[0]), scale_factor=2.0, mode="nearest")
            even = even + F.interpolate(self.even_up(coarser[1]), scale_factor=2.0, mode="nearest")
        return odd, F.silu(even)
