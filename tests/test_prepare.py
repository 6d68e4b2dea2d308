"""A prepared reference: the values of the reference itself, bit for bit, and one clear error where it does not fit."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relqa_loss import RelationalLoss, SpatiallyWeightedLoss
from relqa_loss.prepared import PreparedReference

LossMaker = Callable[..., RelationalLoss]
PairMaker = Callable[..., tuple[Tensor, Tensor]]

VALUES = ("distance", "parts", "floor", "maps", "score")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(16, 16), (50, 70), (64, 96)], ids=str)
def test_loss_and_gradient_are_those_of_the_reference_bit_for_bit(
    loss_fn: RelationalLoss, loss_fn64: RelationalLoss, make_pair: PairMaker, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    loss = loss_fn64 if dtype == torch.float64 else loss_fn
    pred, ref = make_pair(2, *size, dtype=dtype)
    pred.requires_grad_()
    prepared = loss.prepare(ref)
    weight = torch.rand(2, *size)
    for settings in ({}, {"weight": weight}):
        value, expected = loss(pred, prepared, **settings), loss(pred, ref, **settings)
        assert torch.equal(value, expected)
        assert torch.equal(*(torch.autograd.grad(x, pred)[0] for x in (value, expected)))
    assert loss(ref, prepared) == 0


def test_relate_takes_it_as_b_and_as_ref(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, ref = make_pair()
    b = ref + 0.5 * (a - ref)
    prepared_b, prepared_ref = loss_fn.prepare(b), loss_fn.prepare(ref)
    for arguments, plain in (
        ((a, prepared_b), (a, b)),
        ((a, b, prepared_ref), (a, b, ref)),
        ((a, prepared_b, prepared_ref), (a, b, ref)),
        ((a, prepared_b, ref), (a, b, ref)),
    ):
        found, expected = loss_fn.relate(*arguments), loss_fn.relate(*plain)
        for name in VALUES:
            assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_the_reference_may_be_overwritten_and_gets_no_gradient(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    expected = loss_fn(pred, ref)
    ref.requires_grad_()
    prepared = loss_fn.prepare(ref)
    assert not any(x.requires_grad for x in (prepared.images, *prepared.features))
    with torch.no_grad():
        ref.zero_()
    assert torch.equal(loss_fn(pred, prepared), expected)


def test_other_ranges_and_dtypes(make_loss: LossMaker, make_pair: PairMaker) -> None:
    loss = make_loss(data_range=(-1, 1))
    pred, ref = (2 * x - 1 for x in make_pair())
    assert torch.equal(loss(pred.half(), loss.prepare(ref)), loss(pred.half(), ref))
    assert torch.equal(loss(pred, loss.prepare(ref.half())), loss(pred, ref.half()))


def test_prepared_in_inference_mode_serves_training(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    with torch.inference_mode():
        prepared = loss_fn.prepare(ref.clone())
    (slope,) = torch.autograd.grad(loss_fn(pred.requires_grad_(), prepared), pred)
    assert torch.equal(slope, torch.autograd.grad(loss_fn(pred, ref), pred)[0])


def test_the_encoder_runs_once_for_many_predictions(
    loss_fn: RelationalLoss, make_pair: PairMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pred, ref = make_pair()
    calls: list[int] = []
    forward = loss_fn.predictor.encoder.forward
    monkeypatch.setattr(loss_fn.predictor.encoder, "forward", lambda x: calls.append(1) or forward(x))
    prepared = loss_fn.prepare(ref)
    for step in range(3):
        loss_fn(pred + 0.01 * step, prepared)
    assert len(calls) == 1 + 3


def test_is_frozen_moves_and_prints_no_values(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    prepared = loss_fn.prepare(make_pair()[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepared.images = torch.zeros(1)  # type: ignore[misc]
    moved = prepared.to("meta")
    assert isinstance(moved, PreparedReference)
    assert {x.device.type for x in (moved.images, *moved.features)} == {"meta"}
    assert (moved.data_range, moved.weights) == (prepared.data_range, prepared.weights)
    assert "tensor(" not in repr(prepared)


def test_goes_through_a_compiled_loss(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    prepared = loss_fn.prepare(ref)
    torch.compiler.reset()
    compiled = torch.compile(loss_fn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pred, prepared), loss_fn(pred, ref), rtol=1e-5, atol=1e-6)


# --- what does not fit


def test_what_does_not_fit_is_one_clear_error(
    loss_fn: RelationalLoss, loss_fn64: RelationalLoss, make_loss: LossMaker, make_pair: PairMaker
) -> None:
    pred, ref = make_pair()
    prepared = loss_fn.prepare(ref)
    with pytest.raises(ValueError, match=r"ref was prepared for shape \(2, 3, 48, 64\), but pred has \(1, 3, 48, 64\)"):
        loss_fn(pred[:1], prepared)
    with pytest.raises(ValueError, match=r"b was prepared for shape .*, but a has \(2, 3, 48, 32\)"):
        loss_fn.relate(pred[..., :32], prepared)
    with pytest.raises(ValueError, match="device meta, but pred is on cpu"):
        loss_fn(pred, prepared.to("meta"))
    with pytest.raises(ValueError, match=r"dtype torch\.float32, but the loss computes in torch\.float64"):
        loss_fn64(pred, prepared)
    with pytest.raises(ValueError, match=r"data_range \(0.0, 1.0\), but the loss has \(0.0, 255.0\)"):
        make_loss(data_range=255)(pred, prepared)
    with pytest.raises(ValueError, match=r"data_range .*; weights .*: prepare it again"):
        loss_fn(pred, dataclasses.replace(prepared, data_range=(-1.0, 1.0), weights="0" * 64))
    with pytest.raises(ValueError, match="ref is prepared, which holds features of the whole picture"):
        loss_fn(pred, prepared, tile=32)
    with pytest.raises(ValueError, match="ref is prepared"):
        loss_fn.relate(pred, ref, prepared, tile=32)


def test_weights_that_came_later_want_a_reference_of_their_own(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    changed = copy.deepcopy(loss_fn)
    a, b = make_pair(1, 16, 16)
    known = changed.prepare(b)
    changed.load_state_dict(loss_fn.state_dict())
    assert changed(a, known) == loss_fn(a, b)
    nn.ModuleList([changed]).load_state_dict({f"0.{name}": 1.01 * one for name, one in loss_fn.state_dict().items()})
    with pytest.raises(ValueError, match="ref was prepared for weights"):
        changed(a, known)
    assert changed(a, changed.prepare(b)) == changed(a, b)
    assert loss_fn(a, loss_fn.prepare(b)) == loss_fn(a, b)
    changed.bfloat16().load_state_dict(loss_fn.state_dict())
    changed.prepare(b)


def test_a_is_never_prepared(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    prepared = loss_fn.prepare(make_pair()[1])
    with pytest.raises(TypeError, match=r"pred must be a torch.Tensor of shape \(B, 3, H, W\), got PreparedReference"):
        loss_fn(prepared, prepared)
    with pytest.raises(ValueError, match="ref must have 3 channels"):
        loss_fn.prepare(torch.rand(1, 1, 32, 32))


def test_weight_maps_follow_a_prepared_reference(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    weighted = SpatiallyWeightedLoss(torch.nn.L1Loss(reduction="none"), copy.deepcopy(loss_fn))
    assert torch.equal(weighted.weights(pred, loss_fn.prepare(ref)), weighted.weights(pred, ref))
