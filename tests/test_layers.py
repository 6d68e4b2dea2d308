from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relqa_loss.layers import (
    SILU_GAIN,
    DifferenceTexture,
    Encoder,
    PairBlock,
    Residual,
    pad_to_multiple,
    padding_to_multiple,
    scaled,
    smooth_abs,
)

WIDTHS = (4, 6, 8, 10)


def test_smooth_abs_is_even_and_zero_only_at_zero() -> None:
    x = torch.tensor([0.0, 1e-6, 1 / 255, 0.1, 3.0, 100.0])
    assert torch.equal(smooth_abs(x, 0.1), smooth_abs(-x, 0.1))
    assert smooth_abs(x, 0.1)[0] == 0
    assert (smooth_abs(x, 0.1)[1:] > 0).all()


def test_smooth_abs_is_quadratic_below_its_scale_and_linear_beyond() -> None:
    torch.testing.assert_close(smooth_abs(torch.tensor([0.05]), 0.1), torch.tensor([0.05**2 / 0.2]))
    torch.testing.assert_close(smooth_abs(torch.tensor([2.0]), 0.1), torch.tensor([2.0 - 0.05]))


def test_slope_of_smooth_abs_is_continuous_and_at_most_one() -> None:
    x = (torch.arange(-1000, 1001).double() / 1000).requires_grad_()
    (slope,) = torch.autograd.grad(smooth_abs(x, 0.1).sum(), x)
    assert slope.abs().max() <= 1
    assert slope.diff().abs().max() < 0.011, "a jump larger than the steepest piece, 1 / 0.1 a unit, allows"
    assert slope[1000] == 0


@pytest.mark.parametrize(("size", "expected"), [((16, 32), (0, 0)), ((17, 23), (15, 9)), ((31, 48), (1, 0))], ids=str)
def test_padding_completes_the_next_multiple(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert padding_to_multiple(*size, 16) == expected
    padded = pad_to_multiple(torch.rand(1, 3, *size), 16)
    assert padded.shape[2:] == (size[0] + expected[0], size[1] + expected[1])


def test_padding_repeats_the_border_and_keeps_the_picture() -> None:
    images = torch.rand(2, 3, 17, 23)
    padded = pad_to_multiple(images, 16)
    assert torch.equal(padded[..., :17, :23], images)
    assert torch.equal(padded[..., 17:, :23], images[..., -1:, :].expand(-1, -1, 15, -1))
    assert torch.equal(padded[..., :17, 23:], images[..., -1:].expand(-1, -1, -1, 9))


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_a_scaled_convolution_starts_with_the_asked_gain_and_no_bias(gain: float) -> None:
    conv = scaled(nn.Conv2d(64, 64, 3, padding=1), gain)
    assert conv.bias is not None
    assert (conv.bias == 0).all()
    inner = conv(torch.randn(4, 64, 24, 24))[..., 1:-1, 1:-1]
    assert inner.std().item() == pytest.approx(gain, rel=0.1)


def test_silu_gain_restores_unit_variance() -> None:
    x = torch.randn(200_000)
    assert (SILU_GAIN * F.silu(x)).square().mean().item() == pytest.approx(1, rel=0.03)


def test_a_residual_block_keeps_the_shape_and_adds_to_its_input() -> None:
    x = torch.randn(1, 4, 8, 8)
    block = Residual(4)
    assert block(x).shape == x.shape
    nn.init.zeros_(block.second.weight)
    assert torch.equal(block(x), x)


def test_encoder_gives_four_levels_each_half_the_size_of_the_last() -> None:
    features = Encoder(WIDTHS)(torch.rand(2, 3, 32, 48))
    assert [tuple(f.shape) for f in features] == [(2, 4, 16, 24), (2, 6, 8, 12), (2, 8, 4, 6), (2, 10, 2, 3)]


def test_encoder_sees_a_bounded_neighbourhood() -> None:
    encoder = Encoder(WIDTHS)
    images = torch.rand(1, 3, 256, 256)
    changed = images.clone()
    changed[..., 128, 128] += 1
    for level, (before, after) in enumerate(zip(encoder(images), encoder(changed), strict=True), start=1):
        rows = (before != after).any(dim=1)[0].any(dim=1).nonzero() * 2**level
        assert 128 - 64 <= rows.min()
        assert rows.max() <= 128 + 64


def test_every_pixel_reaches_the_finest_level() -> None:
    encoder = Encoder(WIDTHS)
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    (slope,) = torch.autograd.grad(encoder(images)[0].square().sum(), images)
    assert (slope != 0).all()


def test_energies_of_a_difference_are_even_at_three_strides() -> None:
    texture = DifferenceTexture((4, 5, 6))
    a, b = torch.rand(2, 2, 12, 16, 24)
    energies = texture(a - b)
    assert [tuple(e.shape) for e in energies] == [(2, 4, 16, 24), (2, 5, 8, 12), (2, 6, 4, 6)]
    assert all(torch.equal(e, swapped) for e, swapped in zip(energies, texture(b - a), strict=True))
    assert (energies[0] >= 0).all()
    assert (texture(a - a)[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_swap_negates_the_odd_stream_bit_for_bit_and_keeps_the_even_one(dtype: torch.dtype) -> None:
    block = PairBlock(features=6, energies=3, channels=5, coarser=4).to(dtype)
    difference, total = torch.randn(2, 2, 6, 8, 8, dtype=dtype)
    energies = torch.rand(2, 3, 8, 8, dtype=dtype)
    odd_up, even_up = torch.randn(2, 2, 4, 4, 4, dtype=dtype)
    odd, even = block(difference, total, energies, (odd_up, even_up))
    swapped_odd, swapped_even = block(-difference, total, energies, (-odd_up, even_up))
    assert odd.shape == even.shape == (2, 5, 8, 8)
    assert torch.equal(odd, -swapped_odd)
    assert torch.equal(even, swapped_even)
    assert odd.abs().max() > 0


def test_no_difference_gives_an_odd_stream_of_zeros() -> None:
    block = PairBlock(features=6, energies=0, channels=5, coarser=0)
    odd, even = block(torch.zeros(1, 6, 8, 8), torch.randn(1, 6, 8, 8), None, None)
    assert (odd == 0).all()
    assert even.abs().max() > 0
