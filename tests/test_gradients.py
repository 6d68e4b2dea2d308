"""Gradients of the loss: finite everywhere, zero at identity, alive elsewhere, and right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relqa_loss import AXES, RelationalLoss

PairMaker = Callable[..., tuple[Tensor, Tensor]]


def gradient(loss_fn: RelationalLoss, pred: Tensor, ref: Tensor) -> Tensor:
    pred = pred.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_fn(pred, ref), pred)
    return slope


def one_pixel_changed() -> tuple[Tensor, Tensor]:
    ref = torch.full((1, 3, 32, 32), 0.5)
    pred = ref.clone()
    pred[0, :, 9, 21] += 1 / 255
    return pred, ref


def flat(level: float) -> Tensor:
    return torch.full((1, 3, 32, 32), level)


SITUATIONS = {
    "black against grey": (flat(0.0), flat(0.5)),
    "white against grey": (flat(1.0), flat(0.5)),
    "black against white": (flat(0.0), flat(1.0)),
    "one pixel, one step": one_pixel_changed(),
    "far above the range": (flat(0.5) + 100, flat(0.5)),
    "far below the range": (flat(0.5) - 100, flat(0.5)),
    "wild": (100 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), flat(0.5)),
}


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 100.0, -100.0])
def test_gradient_is_zero_at_identity_on_flat_pictures(loss_fn: RelationalLoss, level: float) -> None:
    assert (gradient(loss_fn, flat(level), flat(level)) == 0).all()


def test_gradient_is_zero_at_identity(loss_fn: RelationalLoss, loss_fn64: RelationalLoss, make_pair: PairMaker) -> None:
    ref = make_pair()[1]
    assert (gradient(loss_fn, ref, ref) == 0).all()
    assert (gradient(loss_fn64, ref.double(), ref.double()) == 0).all()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_gradient_is_finite_and_alive(loss_fn: RelationalLoss, situation: str) -> None:
    slope = gradient(loss_fn, *SITUATIONS[situation])
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


@pytest.mark.parametrize("situation", SITUATIONS)
def test_gradient_of_maps_and_score_is_finite(loss_fn: RelationalLoss, situation: str) -> None:
    pred, ref = SITUATIONS[situation]
    pred = pred.clone().requires_grad_()
    rel = loss_fn.relate(pred, ref)
    for name in ("maps", "score"):
        (slope,) = torch.autograd.grad(getattr(rel, name).sum(), pred, retain_graph=True)
        assert slope.isfinite().all(), name


def test_gradient_of_maps_and_anchored_score_is_finite_at_identity(
    loss_fn: RelationalLoss, make_pair: PairMaker
) -> None:
    ref = make_pair()[1]
    pred = ref.clone().requires_grad_()
    rel = loss_fn.relate(pred, ref, ref=ref)
    for values in (rel.maps.sum(), rel.maps.abs().sum(), rel.score.sum()):
        (slope,) = torch.autograd.grad(values, pred, retain_graph=True)
        assert slope.isfinite().all()


def test_every_changed_pixel_feels_the_gradient(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    slope = gradient(loss_fn, pred, ref)
    assert (slope[pred != ref] != 0).all()


def test_a_small_step_against_the_gradient_lowers_the_loss(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    slope = gradient(loss_fn, pred, ref)
    assert loss_fn(pred - 1e-3 * slope / slope.abs().max(), ref) < loss_fn(pred, ref)


def test_ref_gets_a_gradient_only_when_it_asks(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    pred.requires_grad_()
    loss_fn(pred, ref).backward()
    assert ref.grad is None
    ref.requires_grad_()
    loss_fn(pred, ref).backward()
    assert ref.grad is not None
    assert ref.grad.abs().max() > 0


@pytest.mark.parametrize("factors", [None, dict.fromkeys(AXES, 2.0), {"blur": 4.0}], ids=["none", "equal", "unequal"])
@pytest.mark.parametrize("tile", [None, 32])
def test_the_loss_is_the_distance_with_its_gradient_whether_or_not_shares_are_computed(
    factors: dict[str, float] | None, tile: int | None, make_pair: PairMaker
) -> None:
    loss_fn = RelationalLoss(axis_weights=factors).double()
    pred, ref = make_pair(dtype=torch.float64)
    pred.requires_grad_()
    value, distance = loss_fn(pred, ref, tile=tile), loss_fn.relate(pred, ref).distance.mean()
    torch.testing.assert_close(value, distance, rtol=1e-12, atol=0)
    (short,) = torch.autograd.grad(value, pred)
    (whole,) = torch.autograd.grad(distance, pred)
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-10 * float(whole.abs().amax()))


def test_parameters_get_no_gradient(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    rel = loss_fn.relate(pred.requires_grad_(), ref)
    (rel.distance.sum() + rel.maps.sum() + rel.score.sum()).backward()
    assert all(parameter.grad is None for parameter in loss_fn.parameters())


def test_nothing_is_recorded_where_nobody_asks(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    assert not loss_fn(*make_pair()).requires_grad


@pytest.mark.parametrize("name", ["distance", "parts", "floor", "score", "maps"])
def test_gradients_agree_with_finite_differences_in_float64(
    loss_fn64: RelationalLoss, make_pair: PairMaker, name: str
) -> None:
    a, b = (image.requires_grad_() for image in make_pair(1, 16, 16, dtype=torch.float64))

    def values(a: Tensor, b: Tensor) -> Tensor:
        # Scaled up, since the checker's tolerance is absolute and the values of a small picture are tiny.
        return 1e3 * getattr(loss_fn64.relate(a, b), name)

    assert values(a, b).dtype == torch.float64
    assert torch.autograd.gradcheck(values, (a, b), eps=1e-7, atol=1e-3, rtol=1e-3, fast_mode=True)


def test_gradient_of_the_anchored_score_agrees_with_finite_differences_in_float64(
    loss_fn64: RelationalLoss, make_pair: PairMaker
) -> None:
    a, ref = make_pair(1, 16, 16, dtype=torch.float64)
    b = make_pair(1, 16, 16, seed=7, dtype=torch.float64)[0]

    def values(*images: Tensor) -> Tensor:
        return 1e3 * loss_fn64.relate(*images).score

    images = tuple(image.requires_grad_() for image in (a, b, ref))
    assert torch.autograd.gradcheck(values, images, eps=1e-7, atol=1e-3, rtol=1e-3, fast_mode=True)


def test_gradients_agree_with_finite_differences_in_tiles_and_with_a_weight(
    loss_fn64: RelationalLoss, make_pair: PairMaker
) -> None:
    a, b = (image.requires_grad_() for image in make_pair(1, 16, 33, dtype=torch.float64))
    weight = torch.rand(1, 16, 33, dtype=torch.float64)

    def values(a: Tensor, b: Tensor) -> Tensor:
        return 1e3 * loss_fn64(a, b, weight=weight, tile=16)

    assert torch.autograd.gradcheck(values, (a, b), eps=1e-7, atol=1e-3, rtol=1e-3, fast_mode=True)


def has_second_derivatives_of_grid_sample() -> bool:
    picture, grid = torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 1, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(F.grid_sample(picture, grid, align_corners=False).sum(), grid, create_graph=True)
    try:
        slope.sum().backward()
    except RuntimeError:  # not in torch 2.4 to 2.6
        return False
    return True


needs_second_derivatives = pytest.mark.skipif(
    not has_second_derivatives_of_grid_sample(),
    reason=f"torch {torch.__version__} has no second derivatives of grid_sample, which maps displace features by",
)


@pytest.mark.parametrize("name", ["distance", pytest.param("score", marks=needs_second_derivatives)])
def test_second_derivatives_agree_with_finite_differences_of_the_gradient(
    loss_fn64: RelationalLoss, make_pair: PairMaker, name: str
) -> None:
    pred, ref = make_pair(1, 16, 16, dtype=torch.float64)
    pred.requires_grad_()
    direction = torch.randn(pred.shape, dtype=torch.float64)

    def slope(pred: Tensor, create_graph: bool = False) -> Tensor:
        value = getattr(loss_fn64.relate(pred, ref), name).sum()
        return torch.autograd.grad(value, pred, create_graph=create_graph)[0]

    (product,) = torch.autograd.grad((slope(pred, create_graph=True) * direction).sum(), pred)
    assert product.abs().max() > 0
    # Second derivatives of the Huber terms jump where a response crosses their scale; a short step crosses few.
    step = 1e-7
    there, back = (pred.detach() + sign * step * direction for sign in (1, -1))
    expected = (slope(there.requires_grad_()) - slope(back.requires_grad_())) / (2 * step)
    torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-4 * float(product.abs().max()))


def test_double_backward_runs(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    pred.requires_grad_()
    (slope,) = torch.autograd.grad(loss_fn(pred, ref), pred, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), pred)
    assert curvature.isfinite().all()
    assert curvature.abs().max() > 0
