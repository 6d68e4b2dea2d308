from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from relqa_loss import AXES, RelationalLoss, SpatiallyWeightedLoss

PairMaker = Callable[..., tuple[Tensor, Tensor]]
Base = Callable[[Tensor, Tensor], Tensor]


def charbonnier(pred: Tensor, ref: Tensor) -> Tensor:
    return ((pred - ref).square() + 1e-6).sqrt()


BASES: dict[str, Base] = {
    "L1, (B, C, H, W)": nn.L1Loss(reduction="none"),
    "MSE, (B, C, H, W)": nn.MSELoss(reduction="none"),
    "a function, (B, C, H, W)": partial(F.smooth_l1_loss, reduction="none", beta=0.1),
    "luminance, (B, 1, H, W)": lambda pred, ref: charbonnier(pred, ref).mean(dim=1, keepdim=True),
    "colour, (B, 2, H, W)": lambda pred, ref: charbonnier(pred, ref)[:, 1:],
    "no channels, (B, H, W)": lambda pred, ref: charbonnier(pred, ref).mean(dim=1),
}


@pytest.fixture
def base() -> nn.Module:
    return nn.L1Loss(reduction="none")


def trained(loss: SpatiallyWeightedLoss, pair: tuple[Tensor, Tensor], steps: int) -> None:
    """What ``steps`` training steps do to the loss's own state."""
    pred = pair[0].clone().requires_grad_()
    for _ in range(steps):
        loss(pred, pair[1])


def test_strength_zero_is_the_plain_mean(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pred, ref = make_pair()
    loss = SpatiallyWeightedLoss(base, loss_fn, strength=0)
    torch.testing.assert_close(loss(pred, ref), (pred - ref).abs().mean())


def test_identity_weighs_every_pixel_the_same(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    ref = make_pair()[1]
    pred = ref.clone().requires_grad_()
    loss = SpatiallyWeightedLoss(nn.MSELoss(reduction="none"), loss_fn)
    value = loss(pred, ref)
    value.backward()
    assert value == 0 and torch.equal(pred.grad, torch.zeros_like(ref))
    assert torch.equal(loss.weights(ref, ref.clone()), torch.ones(2, 1, 48, 64))


@pytest.mark.parametrize("settings", [{}, {"warmup": 4}, {"warmup": 4, "easy_first": True}], ids=str)
def test_flat_black_and_white_pictures_give_finite_gradients(
    loss_fn: RelationalLoss, base: nn.Module, settings: dict[str, Any]
) -> None:
    pred = torch.stack([torch.full((3, 32, 32), level) for level in (0.0, 1.0, 0.5, 0.5)]).requires_grad_()
    ref = torch.stack([torch.full((3, 32, 32), level) for level in (0.0, 0.0, 0.5, 0.502)])
    loss = SpatiallyWeightedLoss(base, loss_fn, **settings)
    loss(pred, ref).backward()
    assert pred.grad.isfinite().all() and pred.grad.any()


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


def test_weights_follow_the_maps(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pair = make_pair()
    emphasis = loss_fn.relate(*pair).maps.abs().sum(dim=1, keepdim=True)
    raw = (1 + 3.0 * emphasis / emphasis.mean(dim=(1, 2, 3), keepdim=True)).clamp(max=5.0)
    expected = raw / raw.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(loss_fn.weights(*pair, strength=3.0, limit=5.0), expected)


def test_users_with_their_own_training_code_get_the_same_weights(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module
) -> None:
    pred, ref = make_pair()
    settings: dict[str, Any] = {"axes": ("noise", "blur"), "strength": 2.0, "limit": 4.0}
    loss = SpatiallyWeightedLoss(base, loss_fn, **settings)
    weights = loss_fn.weights(pred, ref, **settings)
    assert torch.equal(weights, loss.weights(pred, ref))
    torch.testing.assert_close((weights * base(pred, ref)).mean(), loss(pred, ref))


def test_only_the_named_axes_are_followed(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pair = make_pair()
    emphasis = loss_fn.relate(*pair)["noise"].abs().unsqueeze(1)
    expected = (1 + emphasis / emphasis.mean(dim=(1, 2, 3), keepdim=True)) / 2
    one = loss_fn.weights(*pair, axes="noise")
    torch.testing.assert_close(one, expected)
    assert not torch.allclose(one, loss_fn.weights(*pair, axes=["brightness"]))


def test_following_all_axes_is_the_default(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pair = make_pair()
    assert torch.equal(loss_fn.weights(*pair, axes=AXES), loss_fn.weights(*pair))


def test_places_that_differ_weigh_more_than_places_that_agree(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair(1, 64, 96)
    pred[..., 48:] = ref[..., 48:]
    weights = loss_fn.weights(pred, ref)
    # Two pixels beyond the border the 5x5 window no longer reaches the difference: the least weight there is.
    assert torch.equal(weights[..., 50:], weights.amin().expand(1, 1, 64, 46))
    assert weights[..., :48].mean() > weights[..., 50:].mean()


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("settings", [{}, {"warmup": 4, "easy_first": True, "limit": 3.0}], ids=str)
def test_the_gradient_is_that_of_the_base_times_the_weights(
    loss_fn: RelationalLoss, make_pair: PairMaker, name: str, masked: bool, settings: dict[str, Any]
) -> None:
    pred, ref = make_pair()
    pred.requires_grad_()
    mask = torch.rand(2, 1, 48, 64) if masked else None
    loss = SpatiallyWeightedLoss(BASES[name], loss_fn, **settings)
    weights = loss.weights(pred, ref, weight=mask)
    (got,) = torch.autograd.grad(loss(pred, ref, weight=mask), pred)
    values = BASES[name](pred, ref)
    (plain,) = torch.autograd.grad(values.mean(), pred)
    torch.testing.assert_close(got, weights * plain)
    assert got.any()


def test_a_base_may_learn_and_its_gradients_are_weighted_too(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, pred: Tensor, ref: Tensor) -> Tensor:
            return self.scale * (pred - ref).abs()

    pred, ref = make_pair()
    base = Learned()
    SpatiallyWeightedLoss(base, loss_fn)(pred, ref).backward()
    expected = (loss_fn.weights(pred, ref) * (pred - ref).abs()).mean(dim=(0, 2, 3)) / 3
    torch.testing.assert_close(base.scale.grad.flatten(), expected)
    assert all(parameter.grad is None for parameter in loss_fn.parameters())


def test_base_may_have_lost_its_channels(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    kept, lost = (SpatiallyWeightedLoss(base, loss_fn) for base in (charbonnier, BASES["no channels, (B, H, W)"]))
    torch.testing.assert_close(kept(*make_pair()), lost(*make_pair()))


def test_reductions_agree(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pair = make_pair(3)
    each = SpatiallyWeightedLoss(base, loss_fn, reduction="none")(*pair)
    assert each.shape == (3,)
    torch.testing.assert_close(SpatiallyWeightedLoss(base, loss_fn)(*pair), each.mean())
    torch.testing.assert_close(SpatiallyWeightedLoss(base, loss_fn, reduction="sum")(*pair), each.sum())


def test_a_mask_hides_places_from_the_gradient(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pred, ref = make_pair()
    mask = torch.zeros(2, 48, 64)
    mask[:, :, :32] = 1
    loss = SpatiallyWeightedLoss(base, loss_fn, reduction="none")
    pred.requires_grad_()
    values = loss(pred, ref, weight=mask)
    (gradient,) = torch.autograd.grad(values.sum(), pred)
    assert not gradient[..., 32:].any() and gradient[..., :32].any()
    assert torch.equal(loss(pred, ref, weight=torch.zeros(2, 48, 64)), torch.zeros(2))


def test_weights_in_tiles_are_those_of_the_whole(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module
) -> None:
    pair = make_pair(1, 48, 80)
    torch.testing.assert_close(loss_fn.weights(*pair, tile=48), loss_fn.weights(*pair), rtol=1e-4, atol=1e-5)
    loss = SpatiallyWeightedLoss(base, loss_fn)
    torch.testing.assert_close(loss(*pair, tile=48), loss(*pair), rtol=1e-5, atol=0)


# --- the schedule ---


def test_without_warm_up_the_focus_is_full_from_the_first_step(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module
) -> None:
    loss = SpatiallyWeightedLoss(base, loss_fn)
    assert loss.focus() == 1
    trained(loss, make_pair(1, 16, 16), 2)
    assert loss.focus() == 1 and loss.step == 2


@pytest.mark.parametrize(
    ("easy_first", "expected"), [(False, [0, 0.25, 0.5, 0.75, 1, 1]), (True, [-1, -0.5, 0, 0.5, 1, 1])]
)
def test_the_focus_rises_in_a_straight_line_and_stays(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module, easy_first: bool, expected: list[float]
) -> None:
    pair = make_pair(1, 32, 32)
    loss = SpatiallyWeightedLoss(base, loss_fn, warmup=4, easy_first=easy_first)
    for focus in expected:
        assert float(loss.focus()) == focus
        wanted = (loss_fn.weights(*pair, focus=focus) * base(*pair)).mean()
        pred = pair[0].clone().requires_grad_()
        torch.testing.assert_close(loss(pred, pair[1]).detach(), wanted)


def test_the_curriculum_moves_the_gradient_from_the_easy_places_to_the_hard_ones(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module
) -> None:
    pred, ref = make_pair(1, 64, 64)
    pred = ref + 0.01 * torch.randn_like(ref)
    pred[..., 16:32, 16:32] += 0.2 * torch.randn(1, 3, 16, 16)
    loss = SpatiallyWeightedLoss(base, loss_fn, strength=4.0, warmup=2, easy_first=True)
    shares = []
    for _ in range(3):
        image = pred.clone().requires_grad_()
        loss(image, ref).backward()
        shares.append(float(image.grad[..., 16:32, 16:32].abs().sum() / image.grad.abs().sum()))
    assert shares[0] < shares[1] < shares[2]
    assert shares[1] == pytest.approx(1 / 16, abs=1e-3)


def test_only_training_steps_count(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pred, ref = make_pair(1, 16, 16)
    loss = SpatiallyWeightedLoss(base, loss_fn, warmup=4)
    loss(pred, ref)
    with torch.no_grad():
        loss(pred.clone().requires_grad_(), ref)
    loss.eval()(pred.clone().requires_grad_(), ref)
    loss.weights(pred, ref)
    assert loss.step == 0
    loss.train()(pred.clone().requires_grad_(), ref)
    assert loss.step == 1
    assert not loss.relational_loss.training


def test_a_resumed_run_goes_on_where_it_was(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pair = make_pair(1, 32, 32)
    first = SpatiallyWeightedLoss(base, loss_fn, warmup=8)
    trained(first, pair, 3)
    state = copy.deepcopy(first.state_dict())
    assert state["step"] == 3 and state["step"].dtype == torch.long
    second = SpatiallyWeightedLoss(base, copy.deepcopy(loss_fn), warmup=8)
    second.load_state_dict(state)
    for loss in (copy.deepcopy(first), copy.deepcopy(second).half().float()):
        assert float(loss.focus()) == 3 / 8
    assert torch.equal(second(*pair), first(*pair))


def test_it_survives_pickle(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    pair = make_pair(1, 32, 32)
    loss = SpatiallyWeightedLoss(base, loss_fn, warmup=2, easy_first=True)
    trained(loss, pair, 1)
    again = pickle.loads(pickle.dumps(loss))
    assert torch.equal(again(*pair), loss(*pair)) and again.step == 1


# --- precisions, scaler, compilation ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inputs", ["float32", "half"])
def test_under_autocast_values_are_float32_and_near_those_of_float32(
    loss_fn: RelationalLoss, make_pair: PairMaker, dtype: torch.dtype, inputs: str
) -> None:
    pred, ref = (x if inputs == "float32" else x.to(dtype) for x in make_pair())
    loss = SpatiallyWeightedLoss(nn.MSELoss(reduction="none"), loss_fn)
    expected = loss(pred.float(), ref.float())
    pred.requires_grad_()
    with torch.autocast("cpu", dtype):
        value = loss(pred, ref)
        weights = loss.weights(pred, ref)
    value.backward()
    assert value.dtype == weights.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0)
    assert pred.grad.isfinite().all() and pred.grad.dtype == pred.dtype


def test_a_base_in_float16_does_not_overflow(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    ref = make_pair()[1]
    loss = SpatiallyWeightedLoss(nn.MSELoss(reduction="none"), copy.deepcopy(loss_fn), strength=10.0)
    loss.relational_loss.data_range = (0.0, 255.0)
    pred = ref.clone()
    pred[..., 10:14, 20:24] = 1 - pred[..., 10:14, 20:24].round()
    value = loss((250 * pred).half(), (250 * ref).half())
    assert value.isfinite() and value.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_cast_module_computes(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module, dtype: torch.dtype
) -> None:
    loss = SpatiallyWeightedLoss(base, copy.deepcopy(loss_fn), warmup=4).to(dtype)
    trained(loss, make_pair(dtype=dtype), 3)
    value = loss(*make_pair(dtype=dtype))
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(value.double(), loss.float()(*make_pair()).double(), rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_trains_under_autocast_with_a_scaler(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module, dtype: torch.dtype
) -> None:
    spoilt, ref = make_pair()
    model = nn.Conv2d(3, 3, 3, padding=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=dtype == torch.float16)
    loss = SpatiallyWeightedLoss(base, loss_fn, warmup=5)
    values = []
    for _ in range(10):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype):
            value = loss(model(spoilt), ref)
        scaler.scale(value).backward()
        scaler.step(optimiser)
        scaler.update()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]
    assert loss.step == 10


def test_compiled_in_one_graph_it_equals_eager(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    torch.compiler.reset()
    eager = SpatiallyWeightedLoss(base, loss_fn, warmup=3, easy_first=True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend=counter)
    mask = torch.rand(2, 1, 32, 48)
    for _ in range(4):
        pred, ref = make_pair(2, 32, 48)
        pred.requires_grad_()
        values = [one(pred, ref, weight=mask) for one in (compiled, eager)]
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
        slopes = [torch.autograd.grad(value, pred)[0] for value in values]
        torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-8)
    # One program for all steps: the schedule moves in a tensor, not in numbers that would be compiled in.
    assert counter.frame_count == 1
    assert compiled.step == eager.step == 4


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_it_can_be_called_where_no_gradient_is_wanted(
    loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module, mode: str
) -> None:
    loss = SpatiallyWeightedLoss(base, loss_fn)
    expected = loss(*make_pair())
    with getattr(torch, mode)():
        assert torch.equal(loss(*make_pair()), expected)


# --- wrong use ---


@pytest.mark.parametrize(
    "reduced",
    [
        nn.L1Loss(),
        nn.MSELoss(reduction="sum"),
        nn.CosineSimilarity(dim=-1),
        lambda pred, ref: (pred - ref).abs().mean(dim=(1, 2, 3)),
        lambda pred, ref: F.avg_pool2d((pred - ref).abs(), 2),
        lambda pred, ref: (pred - ref).abs().mean(dim=0, keepdim=True),
    ],
    ids=["mean", "sum", "row", "image", "half size", "batch"],
)
def test_a_base_that_reduces_is_refused(loss_fn: RelationalLoss, make_pair: PairMaker, reduced: Base) -> None:
    with pytest.raises(ValueError, match=r"base must return one value per pixel.*reduction='none'"):
        SpatiallyWeightedLoss(reduced, loss_fn)(*make_pair())


def test_what_is_no_loss_is_refused(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    with pytest.raises(TypeError, match=r"base must be a module or a function.*got 'l1'"):
        SpatiallyWeightedLoss("l1", loss_fn)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"base must return a torch\.Tensor, got tuple"):
        SpatiallyWeightedLoss(lambda pred, ref: (pred, ref), loss_fn)(*make_pair())  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"axes": ["ringin"]}, ValueError, "did you mean 'ringing'"),
        ({"axes": []}, ValueError, "axes must name at least one axis"),
        ({"strength": -0.1}, ValueError, "strength must be finite and >= 0"),
        ({"limit": 0.9}, ValueError, "limit must be finite and >= 1"),
        ({"reduction": "meen"}, ValueError, "did you mean 'mean'"),
        ({"warmup": -1}, ValueError, "warmup must be >= 0, got -1"),
        ({"warmup": 0.5}, TypeError, "warmup must be an int.*got 0.5"),
        ({"warmup": True}, TypeError, "warmup must be an int"),
        ({"easy_first": True}, ValueError, "easy_first needs a warm-up"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(
    loss_fn: RelationalLoss, base: nn.Module, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SpatiallyWeightedLoss(base, loss_fn, **settings)


def test_bad_pictures_are_named_before_the_base_sees_them(loss_fn: RelationalLoss, base: nn.Module) -> None:
    with pytest.raises(ValueError, match="pred and ref must have one shape"):
        SpatiallyWeightedLoss(base, loss_fn)(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 32, 32))


def test_a_mask_of_another_shape_is_named(loss_fn: RelationalLoss, make_pair: PairMaker, base: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"weight must have shape \(2, 1, 48, 64\) or \(2, 48, 64\), got \(48, 64\)"):
        SpatiallyWeightedLoss(base, loss_fn)(*make_pair(), weight=torch.ones(48, 64))
