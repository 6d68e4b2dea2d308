import pytest
import torch

from relqa_loss.evaluation.recovery_losses import CHOICES, absolute_error, losses_beside
from relqa_loss.relation import AXES

SIDES = {"ms-ssim": 161, "st-lpips": 32}


def peer(loss_fn, name, side):
    losses, missing = losses_beside(loss_fn, [name], side)
    if missing:
        pytest.skip(f"{name}: {missing}")
    return next(iter(losses.values()))


def test_an_axis_alone_is_the_loss_with_the_other_weights_at_zero(loss_fn, make_loss, make_pair):
    pred, ref = make_pair()
    alone = make_loss(reduction="none", axis_weights={axis: float(axis == "blur") for axis in AXES})
    losses, missing = losses_beside(loss_fn, ["blur"], 48)
    assert not missing and list(losses) == ["blur alone"]
    torch.testing.assert_close(losses["blur alone"](pred, ref), alone(pred, ref))


def test_axes_stands_for_all_of_them_and_the_order_is_kept(loss_fn):
    losses, _ = losses_beside(loss_fn, ["axes", "l1"], 48)
    assert list(losses) == [*(f"{axis} alone" for axis in AXES), "L1"] and losses["L1"] is absolute_error
    assert CHOICES[:4] == ("l1", "ms-ssim", "st-lpips", "axes")


@pytest.mark.parametrize("name", SIDES)
def test_gradients_of_a_peer_reach_every_picture_also_of_equal_ones(loss_fn, make_photos, name):
    side = SIDES[name]
    loss = peer(loss_fn, name, side)
    reference = make_photos(2, side, side)

    def gradient(rows):
        estimate = torch.full_like(reference[rows], 0.5).requires_grad_()
        loss(estimate, reference[rows]).sum().backward()
        return estimate.grad

    together, alone = gradient(slice(2)), torch.cat([gradient(slice(k, k + 1)) for k in range(2)])
    assert together.abs().amax(dim=(1, 2, 3)).min() > 0
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", SIDES)
def test_a_peer_leads_values_beyond_the_range_back(loss_fn, make_photos, name):
    side = SIDES[name]
    loss = peer(loss_fn, name, side)
    reference = make_photos(1, side, side)
    estimate = (reference + 0.6).requires_grad_()
    value = loss(estimate, reference)
    torch.testing.assert_close(value, loss((reference + 0.6).clamp(0, 1), reference))
    value.sum().backward()
    assert estimate.grad[estimate > 1].abs().max() > 0


def test_wrong_names_and_small_crops_are_named(loss_fn):
    with pytest.raises(ValueError, match="unknown loss 'msssim'; did you mean 'ms-ssim'"):
        losses_beside(loss_fn, ["msssim"], 192)
    pytest.importorskip("piq")
    with pytest.raises(ValueError, match="crop must be at least 161 pixels for MS-SSIM, got 160"):
        losses_beside(loss_fn, ["ms-ssim"], 160)
