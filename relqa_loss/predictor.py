"""`DistortionPredictor`: from an ordered pair of images to signed maps, one per distortion axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .competition import COMPETITION_CELLS, COVERED_CELLS, AxisCompetition, Cells, at_stride_2, bounded, cells_of, gated
from .decoder import DILATIONS, MapDecoder
from .displacement import displacement
from .layers import DifferenceTexture, Encoder, PairBlock, at_least_float32, cut_padding, pad_to_multiple, scaled
from .local_statistics import STRIDE, local_statistics
from .relation import AXES, SHIFT_AXES, TONE_AXES
from .validation import check_on, check_pair

VISIBLE_STEP = 2 / 255
"""Even local difference at which a map reaches two thirds of its value: about two 8-bit steps."""

SURROUND = 1.0
"""How strongly the 9x9 surround holds an artefact's map down: 0 would let the neighbourhood of a strong defect saturate
with it. Tone and displacement are not held down: they are amounts, which must not follow a difference's texture."""

_NO_DIFFERENCE = 1.6e-4  # a squared difference far below one 8-bit step, in visible steps: all places weigh alike

AMOUNT_AXES = (*TONE_AXES, *SHIFT_AXES)


_ENCODER_REACH = 2 * 16 + 2 * 8 + 4 + 2

REACH = (4 + 4 + 8 + 16) + _ENCODER_REACH
"""How far, in pixels, from a region whose corners divide by 16 the features of a pair can look: one 3x3 convolution in
the pair network at strides 4 (rounded up to the border of a cell of 8), 8 and 16, and on the way to the coarsest
features two in a residual at strides 16 and 8, one at 4 and one at 2. Patch projections and nearest upsampling add
nothing, since on the way down each step ends at a border of the next coarser cells."""

_COMPETITION_REACH = 16 * (COMPETITION_CELLS // 2 + 1)
_COVERAGE_REACH = 16 * (max(COVERED_CELLS) // 2 + 1) + STRIDE // 2

MAP_REACH = max(
    _COMPETITION_REACH + (2 + 4 + 2 + 2 * 4 + 2 * 8) + 16 * (sum(DILATIONS) + 1) + _ENCODER_REACH, _COVERAGE_REACH
)
"""The same for maps: competition of the axes and its bilinear upsampling, bilinear upsampling of the maps, averaging
over cells, the decoder's blocks at strides 2, 4, 8 and 16, the pair network at stride 16, and the encoder; or what is
counted for the competition, where the pixels alone are asked whether they differ, in windows of twice ``STRIDE``. The
displacement field looks less far, and so do the statistics, although averaged over more cells for the competition, what
is seen of a cell, and the way by the full-resolution gates."""


class PairFeatures(NamedTuple):
    """Two-stream features of a batch of pairs: what distance, judgement and maps are read from.

    ``pictures``: a and b, padded, minus 1/2, float32 at least, and ``pixels``: a minus b; both by cells of 2x2 pixels,
    (B, 12, H' / 2, W' / 2), as ``pixel_unshuffle`` orders them.
    ``difference`` and ``total``: encoder features of a minus, and plus, those of b at stride 2. ``energy``: even
    energies of the filtered difference at stride 2. ``odd`` and ``even``: the pair network's streams at strides 4, 8,
    16; no odd ones where nobody asked for names. ``pixels``, ``difference`` and ``odd`` change sign when the images are
    swapped, ``pictures`` change places, the others stay.
    """

    pictures: tuple[Tensor, Tensor]
    pixels: Tensor
    difference: Tensor
    total: Tensor
    energy: Tensor
    odd: tuple[Tensor, ...]
    even: tuple[Tensor, ...]


class DistortionPredictor(nn.Module):
    """Signed, spatially aware maps of what one image shows more of than the other (design after arXiv 2605.02863).

    Anti-symmetric by construction: ``predictor(a, b)`` is bitwise ``-predictor(b, a)`` in eager float32 and float64,
    and exactly zero for equal images. Every output sees a bounded neighbourhood of the input.

    Args:
        widths: encoder channels at strides 2, 4, 8, 16.
        pair_widths: channels of the two-stream pair network at strides 2, 4, 8, 16.
        texture_widths: filters on the difference at stride 2, and channels of its energies at strides 4 and 8.
        map_width: channels of the map decoder at stride 4.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 48, 80, 112),
        pair_widths: Sequence[int] = (24, 32, 64, 80),
        texture_widths: Sequence[int] = (16, 32, 48),
        map_width: int = 48,
    ) -> None:
        super().__init__()
        self.config = {
            "widths": list(widths),
            "pair_widths": list(pair_widths),
            "texture_widths": list(texture_widths),
            "map_width": map_width,
        }
        self.encoder = Encoder(widths)
        self.texture = DifferenceTexture(texture_widths)
        t1, t2, t3 = texture_widths
        _, p2, p3, p4 = pair_widths
        self.pair4 = PairBlock(widths[3], 0, p4, 0)
        self.pair3 = PairBlock(widths[2], t3, p3, p4)
        self.pair2 = PairBlock(widths[1], t2, p2, p3)
        self.decoder = MapDecoder(pair_widths, widths[0], t1, map_width)
        self.hint = scaled(nn.Conv2d(p2, len(AXES), 1, bias=False), 0.1)
        self.competition = AxisCompetition(p4)

    @property
    def stride(self) -> int:
        """Sides of encoded images must divide by this; :meth:`encode` pads them."""
        return self.encoder.stride

    @property
    def margin(self) -> int:
        """Pixels that a tile needs around it for features as in the whole picture: ``REACH``, rounded up to strides."""
        return REACH + (-REACH % self.stride)

    @property
    def map_margin(self) -> int:
        """The same for maps: ``MAP_REACH``, rounded up to strides."""
        return MAP_REACH + (-MAP_REACH % self.stride)

    def map_making(self) -> tuple[nn.Module, ...]:
        """What maps have to themselves: distances depend on the rest alone."""
        return (self.decoder, self.competition, self.hint)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of one side of the pair at strides 2, 4, 8, 16.

        Args:
            images: (B, 3, H, W) sRGB in [0, 1]; sides that do not divide by 16 are padded by repeating the border.

        Returns:
            Four tensors (B, widths[l], H' / 2^(l+1), W' / 2^(l+1)), H' and W' being the padded sides.
        """
        return self.encoder(self._padded(images))

    def _padded(self, images: Tensor) -> Tensor:
        # One layout for every caller: convolution kernels, and with them the last bits, differ between layouts.
        return pad_to_multiple(images, self.stride).contiguous(memory_format=torch.channels_last)

    def relate(
        self,
        a: Tensor,
        b: Tensor,
        features_a: Sequence[Tensor],
        features_b: Sequence[Tensor],
        *,
        named: bool = True,
    ) -> PairFeatures:
        """Run the pair network at strides 16, 8 and 4 on images a and b and their features (see :meth:`encode`).

        ``named=False``: for no more than how far apart they are, whatever it is called. The odd streams are left out,
        which shares of the axes, maps and judgement are read from; the rest is the same bit for bit.
        """
        first, second = (
            F.pixel_unshuffle(at_least_float32(pad_to_multiple(image, self.stride)) - 0.5, 2) for image in (a, b)
        )
        pixels = (first - second).to(a.dtype).contiguous(memory_format=torch.channels_last)
        energies = self.texture(pixels)
        difference = tuple(fa - fb for fa, fb in zip(features_a, features_b, strict=True))
        total = tuple(fa + fb for fa, fb in zip(features_a, features_b, strict=True))
        streams4 = self.pair4(difference[3], total[3], None, None)
        streams3 = self.pair3(difference[2], total[2], energies[2], streams4)
        finest = difference[1], total[1], energies[1], streams3
        odd: tuple[Tensor, ...] = ()
        if named:
            odd, even = zip(self.pair2(*finest), streams3, streams4, strict=True)
        else:
            even = self.pair2.even(*finest), streams3[1], streams4[1]
        return PairFeatures((first, second), pixels, difference[0], total[0], energies[0], odd, even)

    def hints(self, pair: PairFeatures) -> Tensor:
        """A first, linear reading of the maps (B, len(AXES), H' / 4, W' / 4) from the pair network's odd stream.

        The decoder adds to it. Training it by itself too keeps the axes apart in that stream, which is
        what a scorer sees of them.
        """
        return self.hint(pair.odd[0])

    def gated_maps(self, pair: PairFeatures, a: Tensor, b: Tensor) -> Tensor:
        """Signed half-resolution maps (B, len(AXES), H' / 2, W' / 2) of the axes that are there.

        They reach over the padded picture; :meth:`confine` and :meth:`decode` keep them to visible differences.
        """
        return gated(*self.maps_if_present(pair, a, b))

    def maps_if_present(self, pair: PairFeatures, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """How much there is of each axis if it is there, and the logit of that (:class:`.competition.AxisCompetition`).

        Returns:
            Signed half-resolution maps (B, len(AXES), H' / 2, W' / 2) over the padded picture, not yet confined to
            visible differences; logits (B, len(AXES), H' / 16, W' / 16).
        """
        maps, cells = self.before_competition(pair, a, b)
        factors, presence = self.competition(cells, pair.even[2])
        seen = seen_at_stride_2(pair.pixels)
        in_cells = F.avg_pool2d(seen, 8)
        heights = F.avg_pool2d(self.confine(maps, a, b).abs() * seen, 8) / in_cells.clamp_min(1e-6)
        return maps * at_stride_2(bounded(factors, heights), in_cells).to(maps.dtype), presence

    def before_competition(self, pair: PairFeatures, a: Tensor, b: Tensor) -> tuple[Tensor, Cells]:
        """Signed half-resolution maps in which no axis knows of the others, and what their competition reads."""
        padded = self._padded(a), self._padded(b)
        flow, fit = displacement(*padded)
        told = local_statistics(*padded)
        weight = weight_of_differences(pair.pixels)
        streams = (pair.difference, pair.total, pair.energy, pair.odd, pair.even)
        maps = averaged_by(weight, self.decoder(*streams, told, flow, fit, self.hints(pair)))
        return maps, cells_of(maps, weight, told)

    def confine(self, maps: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Half-resolution maps of the padded picture, confined to visible differences between images a and b."""
        gates = F.avg_pool2d(confining_gates(self._padded(a), self._padded(b)), 2)
        return maps * _gate_of_each_axis(gates)

    def decode(self, gated_maps: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Full-resolution signed maps (B, len(AXES), H, W), zero where the images agree in a 5x5 neighbourhood.

        Args:
            gated_maps: of :meth:`gated_maps`.
            a: (B, 3, H, W) in [0, 1].
            b: same shape.
        """
        height, width = a.shape[-2:]
        maps = F.interpolate(gated_maps, scale_factor=2.0, mode="bilinear", align_corners=False)
        return cut_padding(maps, height, width) * _gate_of_each_axis(confining_gates(a, b))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Signed maps of a compared with b.

        Args:
            a: (B, 3, H, W) sRGB in [0, 1], H and W at least 16.
            b: same shape and device.

        Returns:
            (B, len(AXES), H, W); positive where a shows more of the axis than b. Trained towards calibrated severity;
            on the shift axes a value of 1 stands for 4 pixels.

        Raises:
            TypeError: not float tensors.
            ValueError: wrong rank, channels or size, different shapes or devices, or another device than the networks'.
        """
        check_pair("a", a, "b", b)
        check_on("a", a, "the predictor", self.hint.weight.device)
        dtype = self.hint.weight.dtype
        a, b = a.to(dtype), b.to(dtype)
        pair = self.relate(a, b, self.encode(a), self.encode(b))
        return self.decode(self.gated_maps(pair, a, b), a, b)


def weight_of_differences(pixels: Tensor) -> Tensor:
    """How much each cell of a difference (B, 12, h, w) holds: (B, 1, h, w) > 0, float32 or more."""
    square = at_least_float32(pixels.square().mean(dim=1, keepdim=True))
    # In units of the visible step: with a bare 1e-8 as the least weight, onnxruntime gave 0 / 0 for equal images.
    return square / VISIBLE_STEP**2 + _NO_DIFFERENCE


def seen_at_stride_2(pixels: Tensor) -> Tensor:
    """How plain a difference by cells (B, 12, h, w) is to see: (B, 1, h, w) in [0, 1], float32 at least.

    ``E / (E + VISIBLE_STEP^2)``, where E is the squared difference, summed over channels, in a Gaussian window of two
    pixels. Close to what places weigh by in training (:func:`.distortions.visibility.visibility`), which is taken at
    full resolution and mirrors the border that is repeated here.
    """
    square = at_least_float32(pixels.square().sum(dim=1, keepdim=True)) / 4
    offsets = torch.arange(-3, 4, dtype=square.dtype, device=square.device)
    taps = torch.softmax(-0.5 * offsets.square(), dim=0)
    energy = F.conv2d(F.pad(square, (3, 3, 3, 3), mode="replicate"), taps.outer(taps)[None, None])
    # Autocast convolves in half precision, where squares in visible steps would not fit.
    energy = at_least_float32(energy).clamp_min(0)
    return energy / (energy + VISIBLE_STEP**2)


def averaged_by(weight: Tensor, maps: Tensor) -> Tensor:
    """Half-resolution maps (B, C, h, w), averaged over 5x5 cells by :func:`weight_of_differences`.

    What is said of a defect then comes from its own pixels and is the same all around it: where its map peaks is left
    to :func:`confining_gates`, not to how the cells of the network happen to lie.
    """

    def around(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, 5, stride=1, padding=2, count_include_pad=False)

    return (around(at_least_float32(maps) * weight) / around(weight)).to(maps.dtype)


def confining_gates(a: Tensor, b: Tensor) -> Tensor:
    """Where two images differ visibly: (B, 2, H, W), even, 0 where a 5x5 neighbourhood is equal.

    ``(1 + k) E / (E + k S + VISIBLE_STEP^2)``: ``E`` is the squared difference, averaged over channels by the mean and
    over pixels by a 5x5 binomial window, ``S`` its mean over 9x9 pixels. First for artefacts, with k = ``SURROUND``, in
    [0, 2): a plain, even difference gives 1, and division by the surround lets an isolated defect peak at its own
    pixels, however strong it is. Second for tone and displacement, with k = 0, in [0, 1).
    """
    square = (a - b).square().mean(dim=1, keepdim=True)
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=square.dtype, device=square.device) / 16
    energy = F.conv2d(F.pad(square, (2, 2, 2, 2), mode="replicate"), taps.outer(taps)[None, None])
    surround = F.avg_pool2d(square, 9, stride=1, padding=4, count_include_pad=False)
    local = (1 + SURROUND) * energy / (energy + SURROUND * surround + VISIBLE_STEP**2)
    return torch.cat((local, energy / (energy + VISIBLE_STEP**2)), dim=1)


def _gate_of_each_axis(gates: Tensor) -> Tensor:
    """(B, 2, h, w) of :func:`confining_gates` -> (B, len(AXES), h, w)."""
    amount = torch.tensor([axis in AMOUNT_AXES for axis in AXES], device=gates.device).view(1, -1, 1, 1)
    return torch.where(amount, gates[:, 1:], gates[:, :1])
