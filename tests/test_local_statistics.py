"""Closed-form statistics of a pair: parity, what they see, and how far."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relqa_loss.local_statistics import (
    BANDS,
    EVEN_CHANNELS,
    ODD_CHANNELS,
    REACH,
    STRIDE,
    local_statistics,
)

# The first channels of the odd output are flatness, peakedness and energy of steps, bias and skew.
FIRST_BAND = ODD_CHANNELS - 4 - 3 * (len(BANDS) + 1)


@pytest.fixture(scope="module")
def pair(make_photos: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    photo = make_photos(1, 96, 128)
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    return photo, (photo + 0.05 * noise).clamp(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_swap_changes_the_sign_of_one_and_nothing_of_the_other(pair, dtype: torch.dtype) -> None:
    a, b = (one.to(dtype) for one in pair)
    odd, even = local_statistics(a, b)
    assert odd.shape == (1, ODD_CHANNELS, 12, 16) and even.shape == (1, EVEN_CHANNELS, 12, 16)
    assert odd.dtype == even.dtype == dtype
    swapped = local_statistics(b, a)
    assert torch.equal(swapped[0], -odd) and torch.equal(swapped[1], even)
    nothing, rest = local_statistics(a, a)
    assert not nothing.any() and rest.isfinite().all()


def test_half_precision_is_widened(pair) -> None:
    odd, even = local_statistics(*(one.half() for one in pair))
    assert odd.dtype == even.dtype == torch.float32 and odd.isfinite().all() and even.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_plain_pictures_are_finite_with_their_gradients(value: float) -> None:
    a = torch.full((1, 3, 32, 32), value, dtype=torch.float64, requires_grad=True)
    b = torch.full((1, 3, 32, 32), 0.25, dtype=torch.float64)
    odd, even = local_statistics(a, b)
    (gradient,) = torch.autograd.grad(odd.sum() + even.sum(), a)
    assert odd.isfinite().all() and even.isfinite().all() and gradient.isfinite().all()


def test_gains_are_read_off_in_logarithms(pair) -> None:
    a = pair[0].double() * 0.4 + 0.3
    mean = a.mean(dim=(2, 3), keepdim=True)
    odd, even = local_statistics(mean + 0.5 * (a - mean), a)
    for band in range(len(BANDS)):
        luma = odd[:, FIRST_BAND + 3 * band]
        # Places without detail in that band have no gain to be read off.
        assert luma.median().item() == pytest.approx(-0.693, abs=0.1)
    alike = even[:, -4 - 9 * (len(BANDS) + 1) :].unflatten(1, (-1, 1))[:, 6]
    assert alike.median() > 0.9


def test_blur_and_noise_take_and_give_fine_detail_alone(pair) -> None:
    a, noisy = pair
    blurred = F.avg_pool2d(F.pad(a, (1, 1, 1, 1), mode="replicate"), 3, stride=1)

    def luma(odd: Tensor) -> list[float]:
        return [odd[:, FIRST_BAND + 3 * band].mean().item() for band in range(len(BANDS) + 1)]

    less, more = luma(local_statistics(blurred, a)[0]), luma(local_statistics(noisy, a)[0])
    assert less[0] < -0.3 and more[0] > 0.3
    assert abs(less[-1]) < 0.1 * abs(less[0]) and abs(more[-1]) < 0.1 * abs(more[0])


def test_a_posterised_slope_is_flat_between_its_steps_which_stand_out() -> None:
    slope = torch.linspace(0, 1, 128).expand(1, 3, 64, 128)
    odd, _ = local_statistics((slope * 15).round() / 15, slope)
    flat, peaked = odd[:, 0], odd[:, 12]  # of steps to the right in luma
    assert flat.mean() > 0.5 and peaked[..., 2:-2].mean() > 0.5


def test_nothing_is_looked_at_beyond_the_reach() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.rand(2, 1, 3, 160, 160, generator=generator, dtype=torch.float64)
    before = local_statistics(a, b)
    other = b.clone()
    other[..., 80:88, 80:88] = 0.5  # one cell
    for old, new in zip(before, local_statistics(a, other), strict=True):
        changed = (old != new).any(dim=1)[0]
        near = torch.zeros_like(changed)
        cells = REACH // STRIDE
        near[10 - cells : 11 + cells, 10 - cells : 11 + cells] = True
        assert changed.any() and not (changed & ~near).any()
