"""Angles of gradients: known losses have known angles, and ours points home."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relqa_loss import RelationalLoss
from relqa_loss.evaluation.alignment import alignment_table, finest_share, mildly_degraded
from relqa_loss.evaluation.recovery_losses import absolute_error


def squared(pred: Tensor, ref: Tensor) -> Tensor:
    return (pred - ref).square().mean(dim=(1, 2, 3))


def uphill(pred: Tensor, ref: Tensor) -> Tensor:
    return -squared(pred, ref)


def test_the_squared_error_points_straight_to_the_reference(make_photos: Callable[..., Tensor]) -> None:
    table = alignment_table({"mse": squared, "l1": absolute_error, "away": uphill}, list(make_photos(2, 32, 48)))
    assert table["pictures"] == 2 and table["size"] == [32, 48]
    for figures in table["degraded"].values():
        assert figures["mse"]["cosine"] == pytest.approx(1, abs=1e-5)
        assert figures["away"]["cosine"] == pytest.approx(-1, abs=1e-5)
        assert 0 < figures["l1"]["cosine"] < 1
    # The sign of white noise is white: three quarters of it are gone after averaging over 2x2 pixels.
    assert table["degraded"]["noise, sigma 10"]["l1"]["finest_share"] == pytest.approx(0.75, abs=0.03)


def test_finest_share_of_a_checkerboard_is_one_and_of_an_even_field_zero() -> None:
    board = (torch.arange(8).view(-1, 1) + torch.arange(8)).remainder(2) * 2.0 - 1
    gradients = torch.stack([board.expand(3, 8, 8), torch.ones(3, 8, 8), torch.zeros(3, 8, 8)])
    assert finest_share(gradients).tolist() == [1, 0, 0]


def test_the_bundled_loss_points_to_the_reference_from_everywhere(make_photos: Callable[..., Tensor]) -> None:
    table = alignment_table({"ours": RelationalLoss(reduction="none")}, list(make_photos(2, 64, 64)))
    assert set(table["degraded"]) == set(mildly_degraded(make_photos(1, 16, 16)))
    assert min(figures["ours"]["cosine"] for figures in table["degraded"].values()) > 0.2


def test_pictures_must_be_of_one_even_size(make_photos: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="one size, sides even, got none"):
        alignment_table({}, [])
    with pytest.raises(ValueError, match=r"sides even, got \[\(3, 16, 17\)\]"):
        alignment_table({}, list(make_photos(1, 16, 17)))
