from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relqa_loss import AXES, RelationalLoss, SpatiallyWeightedLoss

PairMaker = Callable[..., tuple[Tensor, Tensor]]


class PerPixel(nn.Module):
    """A base loss of shape (B, H, W)."""

    def forward(self, pred: Tensor, ref: Tensor) -> Tensor:
        return (pred - ref).abs().mean(dim=1)


@pytest.fixture
def base() -> nn.Module:
    return nn.L1Loss(reduction="none")


def test_strength_zero_is_the_plain_mean(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pred, ref = make_pair()
    loss = SpatiallyWeightedLoss(base, loss_fn, strength=0)
    torch.testing.assert_close(loss(pred, ref), (pred - ref).abs().mean())


def test_identity_weighs_every_pixel_the_same(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    ref = make_pair()[1]
    loss = SpatiallyWeightedLoss(nn.MSELoss(reduction="none"), loss_fn)
    assert loss(ref, ref.clone()) == 0
    assert torch.equal(loss.weights(ref, ref.clone()), torch.ones(2, 1, 48, 64))


@pytest.mark.parametrize("strength", [0.5, 1.0, 10.0])
def test_weights_have_mean_one_per_image_and_are_detached(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module, strength: float
) -> None:
    pred, ref = make_pair()
    weights = SpatiallyWeightedLoss(base, loss_fn, strength=strength).weights(pred.requires_grad_(), ref)
    assert weights.shape == (2, 1, 48, 64)
    assert not weights.requires_grad
    assert (weights > 0).all()
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(2))
    assert weights.std() > 0


def test_weights_follow_the_formula(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pair = make_pair()
    strength = 3.0
    emphasis = loss_fn.relate(*pair).maps.abs().sum(dim=1, keepdim=True)
    expected = (1 + strength * emphasis / emphasis.mean(dim=(1, 2, 3), keepdim=True)) / (1 + strength)
    torch.testing.assert_close(SpatiallyWeightedLoss(base, loss_fn, strength=strength).weights(*pair), expected)


def test_only_the_named_axes_are_followed(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pair = make_pair()
    emphasis = loss_fn.relate(*pair)["noise"].abs().unsqueeze(1)
    expected = (1 + emphasis / emphasis.mean(dim=(1, 2, 3), keepdim=True)) / 2
    one = SpatiallyWeightedLoss(base, loss_fn, axes=["noise"]).weights(*pair)
    torch.testing.assert_close(one, expected)
    assert not torch.allclose(one, SpatiallyWeightedLoss(base, loss_fn, axes=["brightness"]).weights(*pair))


def test_places_that_differ_weigh_more_than_places_that_agree(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module
) -> None:
    pred, ref = make_pair(1, 64, 96)
    pred[..., 48:] = ref[..., 48:]
    weights = SpatiallyWeightedLoss(base, loss_fn).weights(pred, ref)
    # Two pixels beyond the border the 5x5 window no longer reaches the difference: the least weight there is.
    assert torch.equal(weights[..., 50:], weights.amin().expand(1, 1, 64, 46))
    assert weights[..., :48].mean() > weights[..., 50:].mean()


def test_gradient_flows_through_the_base_only(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pred, ref = make_pair()
    pred.requires_grad_()
    loss = SpatiallyWeightedLoss(base, loss_fn)
    loss(pred, ref).backward()
    expected = (pred - ref).sign() * loss.weights(pred, ref) / pred.numel()
    torch.testing.assert_close(pred.grad, expected.detach())


def test_base_may_have_lost_its_channels(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    with_channels, without = (SpatiallyWeightedLoss(one, loss_fn)(*make_pair()) for one in (base, PerPixel()))
    torch.testing.assert_close(with_channels, without)


def test_reductions_agree(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pair = make_pair(3)
    each = SpatiallyWeightedLoss(base, loss_fn, reduction="none")(*pair)
    assert each.shape == (3,)
    torch.testing.assert_close(SpatiallyWeightedLoss(base, loss_fn)(*pair), each.mean())
    torch.testing.assert_close(SpatiallyWeightedLoss(base, loss_fn, reduction="sum")(*pair), each.sum())


def test_a_base_that_reduces_is_refused(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    for reduced in (nn.L1Loss(), nn.MSELoss(reduction="sum"), nn.CosineSimilarity(dim=-1)):
        with pytest.raises(ValueError, match=r"base must return one value per pixel.*reduction='none'"):
            SpatiallyWeightedLoss(reduced, loss_fn)(*make_pair())


def test_bad_settings_are_refused(loss_fn: RelationalLoss, base: nn.Module) -> None:
    with pytest.raises(ValueError, match="did you mean 'ringing'"):
        SpatiallyWeightedLoss(base, loss_fn, axes=["ringin"])
    for strength in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength"):
            SpatiallyWeightedLoss(base, loss_fn, strength=strength)
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        SpatiallyWeightedLoss(base, loss_fn, reduction="meen")  # type: ignore[arg-type]


def test_following_all_axes_is_the_default(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pair = make_pair()
    everything = SpatiallyWeightedLoss(base, loss_fn, axes=AXES).weights(*pair)
    assert torch.equal(everything, SpatiallyWeightedLoss(base, loss_fn).weights(*pair))


def test_one_axis_may_be_named_alone_and_none_is_refused(loss_fn: RelationalLoss) -> None:
    base = nn.L1Loss(reduction="none")
    assert SpatiallyWeightedLoss(base, loss_fn, axes="blur").channels == [AXES.index("blur")]
    with pytest.raises(ValueError, match="axes must name at least one axis"):
        SpatiallyWeightedLoss(base, loss_fn, axes=[])


def test_bad_pictures_are_named_before_the_base_sees_them(loss_fn: RelationalLoss) -> None:
    with pytest.raises(ValueError, match="pred and ref must have one shape"):
        SpatiallyWeightedLoss(nn.L1Loss(reduction="none"), loss_fn)(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 32, 32))
