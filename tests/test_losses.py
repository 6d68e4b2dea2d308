"""The contract of `RelationalLoss`: what its numbers promise, whatever the weights have learned."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from relqa_loss import AXES, RelationalLoss
from relqa_loss.losses import normalise_weight

LossMaker = Callable[..., RelationalLoss]
PairMaker = Callable[..., tuple[Tensor, Tensor]]

SIZES = [(16, 16), (17, 23), (50, 70), (64, 32), (16, 81)]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def exact_loss(dtype: torch.dtype, loss_fn: RelationalLoss, loss_fn64: RelationalLoss) -> RelationalLoss:
    """The loss in the precision of the ``dtype`` fixture."""
    return loss_fn64 if dtype == torch.float64 else loss_fn


def test_is_a_positive_scalar_where_the_pictures_differ(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    value = loss_fn(*make_pair())
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value > 0


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_identity_is_exactly_zero(
    exact_loss: RelationalLoss, dtype: torch.dtype, make_pair: PairMaker, size: tuple[int, int]
) -> None:
    ref = make_pair(2, *size, dtype=dtype)[1]
    rel = exact_loss.relate(ref, ref.clone())
    assert exact_loss(ref, ref.clone()) == 0
    for name in ("distance", "parts", "floor", "maps", "score"):
        assert (getattr(rel, name) == 0).all(), name
    assert (exact_loss.relate(ref, ref.clone(), ref=make_pair(2, *size, dtype=dtype)[0]).score == 0).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_swap_flips_maps_and_score_bit_for_bit_and_keeps_the_distance(
    exact_loss: RelationalLoss, dtype: torch.dtype, make_pair: PairMaker, size: tuple[int, int]
) -> None:
    a, b = make_pair(2, *size, dtype=dtype)
    there, back = exact_loss.relate(a, b), exact_loss.relate(b, a)
    assert torch.equal(there.maps, -back.maps)
    assert torch.equal(there.score, -back.score)
    assert torch.equal(there.parts, back.parts)
    assert torch.equal(there.floor, back.floor)
    assert torch.equal(there.distance, back.distance)
    assert there.maps.abs().max() > 0
    assert there.score.abs().max() > 0


def test_swap_flips_the_anchored_score_bit_for_bit(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, ref = make_pair()
    b = make_pair(seed=7)[1]
    assert torch.equal(loss_fn.relate(a, b, ref=ref).score, -loss_fn.relate(b, a, ref=ref).score)


def test_anchored_score_is_the_difference_of_distances_to_the_original(
    loss_fn: RelationalLoss, make_pair: PairMaker
) -> None:
    a, ref = make_pair()
    b = (a - ref) * 2 + ref
    score = loss_fn.relate(a, b, ref=ref).score
    assert torch.equal(score, loss_fn.relate(b, ref).distance - loss_fn.relate(a, ref).distance)
    assert (score > 0).all(), "a, with half of the error, must be better than b"


def test_anchored_score_is_transitive_up_to_rounding(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, ref = make_pair()
    b, c = ref + 0.5 * (a - ref), ref + 0.1
    a_b, b_c, a_c = (loss_fn.relate(x, y, ref=ref).score for x, y in ((a, b), (b, c), (a, c)))
    torch.testing.assert_close(a_b + b_c, a_c, rtol=1e-5, atol=1e-6)


def test_parts_and_floor_are_positive_and_add_up_to_the_distance(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    rel = loss_fn.relate(*make_pair())
    assert rel.parts.shape == (2, len(AXES))
    assert (rel.parts >= 0).all()
    assert (rel.floor > 0).all()
    torch.testing.assert_close(rel.parts.sum(dim=1) + rel.floor, rel.distance)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps_have_the_size_of_the_input(loss_fn: RelationalLoss, make_pair: PairMaker, size: tuple[int, int]) -> None:
    rel = loss_fn.relate(*make_pair(2, *size))
    assert rel.maps.shape == (2, len(AXES), *size)
    assert rel["blur"].shape == (2, *size)
    assert rel.distance.shape == rel.score.shape == (2,)


def test_forward_is_the_mean_distance_of_relate(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pair = make_pair()
    torch.testing.assert_close(loss_fn(*pair), loss_fn.relate(*pair).distance.mean())


def test_a_larger_error_of_one_kind_costs_more(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    values = [loss_fn(ref + scale * (pred - ref), ref) for scale in (0.25, 0.5, 1.0, 2.0)]
    assert values == sorted(values)


def test_one_step_of_one_pixel_in_four_megapixels_is_seen(loss_fn: RelationalLoss) -> None:
    ref = torch.full((1, 3, 2000, 2000), 128 / 255)
    pred = ref.clone()
    pred[0, 1, 1234, 777] = 129 / 255
    with torch.no_grad():
        assert loss_fn(pred, ref) > 0


# --- settings


def test_reductions_agree(make_loss: LossMaker, make_pair: PairMaker) -> None:
    pair = make_pair(3)
    each = make_loss(reduction="none")(*pair)
    assert each.shape == (3,)
    torch.testing.assert_close(make_loss(reduction="mean")(*pair), each.mean())
    torch.testing.assert_close(make_loss(reduction="sum")(*pair), each.sum())


def test_unknown_reduction_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        RelationalLoss(reduction="means")  # type: ignore[arg-type]


@pytest.mark.parametrize(("data_range", "low", "high"), [(255, 0, 255), (255.0, 0, 255), ((-1, 1), -1, 1)], ids=str)
def test_data_range_gives_the_values_of_the_scaled_pictures(
    make_loss: LossMaker,
    loss_fn: RelationalLoss,
    make_pair: PairMaker,
    data_range: float | tuple[float, float],
    low: float,
    high: float,
) -> None:
    pair = make_pair()
    in_range = [image * (high - low) + low for image in pair]
    rel, expected = make_loss(data_range=data_range).relate(*in_range), loss_fn.relate(*pair)
    torch.testing.assert_close(rel.distance, expected.distance, rtol=1e-4, atol=0)
    torch.testing.assert_close(rel.maps, expected.maps, rtol=1e-3, atol=1e-5)


def test_data_range_applies_to_the_anchor_too(
    make_loss: LossMaker, loss_fn: RelationalLoss, make_pair: PairMaker
) -> None:
    a, ref = make_pair()
    b = make_pair(seed=3)[0]
    score = make_loss(data_range=255).relate(a * 255, b * 255, ref=ref * 255).score
    torch.testing.assert_close(score, loss_fn.relate(a, b, ref=ref).score, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "data_range",
    [0, -1.0, (1, 1), (1, 0), math.nan, (0, math.nan), math.inf, (-math.inf, 0), (0, 1, 2), None, "1"],
    ids=str,
)
def test_impossible_data_range_is_refused(data_range: Any) -> None:
    with pytest.raises(ValueError, match="data_range"):
        RelationalLoss(data_range=data_range)


def test_axis_weights_scale_parts_and_keep_the_floor(
    make_loss: LossMaker, loss_fn: RelationalLoss, make_pair: PairMaker
) -> None:
    pair = make_pair()
    plain = loss_fn.relate(*pair)
    scaled = make_loss(axis_weights={"blur": 2.0, "noise": 0.0}).relate(*pair)
    factors = torch.ones(len(AXES))
    factors[AXES.index("blur")], factors[AXES.index("noise")] = 2.0, 0.0
    torch.testing.assert_close(scaled.parts, plain.parts * factors)
    assert torch.equal(scaled.floor, plain.floor)
    torch.testing.assert_close(scaled.distance, (plain.parts * factors).sum(dim=1) + plain.floor)


def test_with_every_axis_off_the_floor_still_sees_a_difference(make_loss: LossMaker, make_pair: PairMaker) -> None:
    pair = make_pair()
    blind = make_loss(axis_weights=dict.fromkeys(AXES, 0.0))
    assert torch.equal(blind(*pair), blind.relate(*pair).floor.mean())
    assert blind(*pair) > 0


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf])
def test_impossible_axis_weight_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"axis_weights\['blur'\]"):
        RelationalLoss(axis_weights={"blur": factor})


def test_unknown_axis_weight_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'brightness'"):
        RelationalLoss(axis_weights={"brightnes": 1.0})


# --- weight maps


@pytest.mark.parametrize("size", [(48, 64), (17, 23), (50, 70)], ids=str)
def test_constant_weight_is_no_weight(loss_fn: RelationalLoss, make_pair: PairMaker, size: tuple[int, int]) -> None:
    pair = make_pair(2, *size)
    weight = torch.full((2, 1, *size), 0.37)
    torch.testing.assert_close(loss_fn(*pair, weight=weight), loss_fn(*pair), rtol=1e-5, atol=0)


def test_weight_with_and_without_channel_agree(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pair = make_pair()
    weight = torch.rand(2, 48, 64)
    assert torch.equal(loss_fn(*pair, weight=weight), loss_fn(*pair, weight=weight.unsqueeze(1)))


@pytest.mark.parametrize("size", [(48, 64), (50, 70)], ids=str)
def test_scaling_the_weight_changes_nothing(
    loss_fn: RelationalLoss, make_pair: PairMaker, size: tuple[int, int]
) -> None:
    pair = make_pair(2, *size)
    weight = torch.rand(2, *size)
    per_image = torch.tensor([3.0, 1e-3]).view(2, 1, 1)
    torch.testing.assert_close(loss_fn(*pair, weight=per_image * weight), loss_fn(*pair, weight=weight))


@pytest.mark.parametrize("size", [(96, 160), (90, 150)], ids=str)
def test_difference_far_inside_a_zero_weighted_region_is_ignored(
    loss_fn: RelationalLoss, make_pair: PairMaker, size: tuple[int, int]
) -> None:
    ref = make_pair(1, *size)[1]
    pred = ref.clone()
    pred[..., 36:44, 20:28] = 1 - pred[..., 36:44, 20:28]
    weight = torch.ones(1, *size)
    # Far inside: the cells of the coarsest level see some 70 pixels around them, and only the floor and the finest
    # level are local; the left 120 columns are masked, the difference ends at column 28.
    weight[..., :120] = 0
    masked, unmasked = loss_fn(pred, ref, weight=weight), loss_fn(pred, ref)
    assert masked <= 1e-3 * unmasked
    assert loss_fn(pred, ref, weight=1 - weight) > unmasked


def test_weight_that_is_zero_everywhere_gives_zero(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    assert loss_fn(*make_pair(), weight=torch.zeros(2, 48, 64)) == 0


def test_weight_of_another_shape_is_refused(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    for shape in [(2, 3, 48, 64), (1, 1, 48, 64), (48, 64), (2, 64, 48)]:
        with pytest.raises(ValueError, match=r"weight must have shape \(2, 1, 48, 64\) or \(2, 48, 64\)"):
            loss_fn(*make_pair(), weight=torch.ones(shape))


def test_weight_that_is_no_tensor_or_elsewhere_is_refused(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    with pytest.raises(TypeError, match="weight"):
        loss_fn(*make_pair(), weight=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must be on cpu"):
        loss_fn(*make_pair(), weight=torch.ones(2, 48, 64, device="meta"))


def test_normalised_weight_has_mean_one_per_image() -> None:
    weight = normalise_weight(
        torch.rand(3, 20, 30) * torch.tensor([1.0, 50.0, 1e-4]).view(3, 1, 1), torch.rand(3, 3, 20, 30)
    )
    assert weight.shape == (3, 1, 20, 30)
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3)), torch.ones(3))


# --- wrong input


def test_sides_under_16_are_one_clear_error(loss_fn: RelationalLoss) -> None:
    for size in [(15, 64), (64, 15), (1, 1)]:
        small = torch.rand(1, 3, *size)
        with pytest.raises(ValueError, match=f"pred must be at least 16x16 pixels, got {size[0]}x{size[1]}"):
            loss_fn(small, small)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.rand(3, 32, 32), ValueError, "4 dimensions"),
        (torch.rand(1, 1, 32, 32), ValueError, "3 channels"),
        (torch.rand(1, 32, 32, 3), ValueError, "3 channels"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "uint8"),
        (torch.rand(0, 3, 32, 32), ValueError, "empty batch"),
        ("photo.png", TypeError, "torch.Tensor"),
    ],
    ids=["rank", "grey", "channels last", "uint8", "empty", "path"],
)
def test_wrong_input_is_named(loss_fn: RelationalLoss, bad: Tensor, error: type[Exception], message: str) -> None:
    good = torch.rand(1, 3, 32, 32)
    with pytest.raises(error, match=f"(?s)pred.*{message}"):
        loss_fn(bad, good)
    with pytest.raises(error, match=f"(?s)ref.*{message}"):
        loss_fn(good, bad)
    with pytest.raises(error, match=f"(?s)b .*{message}"):
        loss_fn.relate(good, bad)
    with pytest.raises(error, match=f"(?s)ref.*{message}"):
        loss_fn.relate(good, good, ref=bad)


def test_different_shapes_are_refused_and_both_named(loss_fn: RelationalLoss) -> None:
    with pytest.raises(ValueError, match=r"pred and ref must have one shape.*\(1, 3, 32, 32\).*\(2, 3, 32, 32\)"):
        loss_fn(torch.rand(1, 3, 32, 32), torch.rand(2, 3, 32, 32))


def test_different_devices_are_refused_and_both_named(loss_fn: RelationalLoss) -> None:
    with pytest.raises(ValueError, match="pred and ref must be on one device, got cpu and meta"):
        loss_fn(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32, device="meta"))


def test_pictures_on_another_device_than_the_loss_are_named(loss_fn: RelationalLoss) -> None:
    elsewhere = torch.rand(1, 3, 16, 16, device="meta")
    for name, call in (
        ("pred", lambda: loss_fn(elsewhere, elsewhere)),
        ("a", lambda: loss_fn.relate(elsewhere, elsewhere)),
        ("ref", lambda: loss_fn.prepare(elsewhere)),
        ("a", lambda: loss_fn.predictor(elsewhere, elsewhere)),
    ):
        with pytest.raises(ValueError, match=rf"{name} must be on cpu, where the \w+ is, got meta: move one"):
            call()


def test_a_half_precision_loss_weighs_and_scales_as_the_whole_one(
    loss_fn: RelationalLoss, make_loss: LossMaker, make_pair: PairMaker
) -> None:
    half = copy.deepcopy(loss_fn).half()
    a, b = make_pair(1, 32, 48)
    attention = torch.zeros(1, 1, 32, 48)
    attention[..., 8:24, 8:24] = 1e-7
    assert half(a, b, weight=attention) == pytest.approx(float(loss_fn(a, b, weight=attention)), rel=0.02)
    deep = make_loss(data_range=65535.0).half()
    assert deep(a * 65535, b * 65535) == pytest.approx(float(loss_fn(a, b)), rel=0.02)


def test_equal_pictures_of_unlike_dtypes_are_equal_in_any_range(make_loss: LossMaker, make_pair: PairMaker) -> None:
    loss_fn = make_loss(data_range=(-2.1, 2.6))
    a = make_pair(1, 32, 48)[0] * 4.7 - 2.1
    assert loss_fn(a, a.double()) == 0
    assert not loss_fn.relate(a.double(), a).maps.any()


@pytest.mark.filterwarnings("error")
def test_a_loss_that_was_made_in_inference_mode_trains(make_pair: PairMaker) -> None:
    with torch.inference_mode():
        made = RelationalLoss(axis_weights={"blur": 2.0})
    a, b = make_pair(1, 32, 32)
    made(a.requires_grad_(), b).backward()
    assert a.grad is not None and a.grad.any()


def test_settings_may_be_numbers_of_numpy(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    np = pytest.importorskip("numpy")
    a, b = make_pair(1, 16, 16)
    settings = {"data_range": np.float32(255), "axis_weights": {"blur": np.float32(2), "noise": np.int64(1)}}
    same = RelationalLoss(data_range=255, axis_weights={"blur": 2.0})
    assert RelationalLoss(**settings)(a * 255, b * 255) == same(a * 255, b * 255)
    for refused in ({"data_range": True}, {"axis_weights": {"blur": True}}):
        with pytest.raises((TypeError, ValueError), match="must be a number"):
            RelationalLoss(**refused)


def test_an_axis_weight_that_is_no_number_is_named() -> None:
    with pytest.raises(TypeError, match=r"axis_weights\['blur'\] must be a number"):
        RelationalLoss(axis_weights={"blur": "2"})  # type: ignore[dict-item]
