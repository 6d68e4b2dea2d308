"""Closed-form displacement: right sign and size, odd in the pair, bounded reach."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relqa_loss import distort
from relqa_loss.displacement import FIT_CHANNELS, FLOW_CHANNELS, REACH, displacement
from relqa_loss.predictor import MAP_REACH
from relqa_loss.relation import PIXELS_PER_UNIT_SHIFT

PhotoMaker = Callable[..., Tensor]


@pytest.mark.parametrize(("name", "direction"), [("shift_right", (1, 0)), ("shift_up", (0, -1))])
@pytest.mark.parametrize("severity", [0.2, 0.6])
def test_a_shift_is_measured_in_pixels(
    make_photos: PhotoMaker, name: str, direction: tuple[int, int], severity: float
) -> None:
    photos = make_photos(2, 128, 128)
    flow, _ = displacement(distort(photos, name, severity), photos)
    pixels = 0.3 + 3.7 * severity
    found = flow[:, -2:, 8:-8, 8:-8].mean(dim=(0, 2, 3)) * PIXELS_PER_UNIT_SHIFT
    torch.testing.assert_close(found, pixels * torch.tensor(direction, dtype=torch.float32), atol=0.15 * pixels, rtol=0)


def test_a_swap_changes_the_sign_of_the_flow_and_nothing_of_the_fit(make_photos: PhotoMaker) -> None:
    photos = make_photos(2, 64, 96)
    moved = distort(photos, "elastic_warp", 0.5)
    flow, fit = displacement(moved, photos)
    back, same = displacement(photos, moved)
    assert flow.shape == (2, FLOW_CHANNELS, 16, 24)
    assert fit.shape == (2, FIT_CHANNELS, 16, 24)
    assert torch.equal(back, -flow)
    assert torch.equal(same, fit)


def test_equal_pictures_have_no_displacement(make_photos: PhotoMaker) -> None:
    photos = make_photos(2, 64, 64)
    flow, _ = displacement(photos, photos)
    assert (flow == 0).all()


def test_a_displacement_explains_a_shift_better_than_noise(make_photos: PhotoMaker) -> None:
    photos = make_photos(2, 128, 128)
    left = {
        name: displacement(distort(photos, name, 0.5), photos)[1][:, 2].mean() for name in ("shift_left", "rgb_noise")
    }
    assert left["shift_left"] < 0.5 * left["rgb_noise"]


def test_flat_and_far_out_of_range_pictures_stay_finite() -> None:
    for a, b in (
        (torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)),
        (1e3 * torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)),
    ):
        a.requires_grad_()
        flow, fit = displacement(a, b)
        (slope,) = torch.autograd.grad(flow.sum() + fit.sum(), a)
        assert flow.isfinite().all()
        assert fit.isfinite().all()
        assert slope.isfinite().all()


def test_reach_is_bounded() -> None:
    a, b = torch.rand(2, 1, 3, 16, 640, dtype=torch.float64).unbind(0)
    a.requires_grad_()
    flow, fit = displacement(a, b)
    (slope,) = torch.autograd.grad(flow[..., 80].sum() + fit[..., 80].sum(), a)
    touched = slope.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    assert 0 < 320 - REACH <= int(touched.min())
    assert int(touched.max()) < 324 + REACH < 640


def test_maps_look_at_least_as_far_as_the_flow_that_they_are_given() -> None:
    # After the flow come two bilinear upsamplings and the averaging over cells.
    assert REACH + 2 + 4 + 2 + 2 * 4 <= MAP_REACH
