"""What must not change the values: mode, copies, precision, batch mates, memory format, compilers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from relqa_loss import RelationalLoss

PairMaker = Callable[..., tuple[Tensor, Tensor]]

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
"""Float32 kernels may order their sums differently for another batch size or layout."""


def test_frozen_and_in_evaluation_mode(loss_fn: RelationalLoss) -> None:
    assert not any(parameter.requires_grad for parameter in loss_fn.parameters())
    assert not any(module.training for module in loss_fn.modules())


def test_train_does_not_wake_it(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    before = loss_fn(*make_pair())
    parent = nn.Sequential(loss_fn)
    assert parent.train().training
    assert not any(module.training for module in loss_fn.modules())
    assert loss_fn.train(True) is loss_fn
    assert torch.equal(loss_fn(*make_pair()), before)


def test_an_optimiser_of_the_parent_finds_nothing_to_train(loss_fn: RelationalLoss) -> None:
    parent = nn.ModuleDict({"net": nn.Conv2d(3, 3, 1), "loss": loss_fn})
    assert sum(p.numel() for p in parent.parameters() if p.requires_grad) == 12


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))], ids=["deepcopy", "pickle"]
)
def test_copies_give_the_same_values(
    loss_fn: RelationalLoss, make_pair: PairMaker, duplicate: Callable[[RelationalLoss], RelationalLoss]
) -> None:
    twin = duplicate(loss_fn)
    assert torch.equal(twin(*make_pair()), loss_fn(*make_pair()))
    assert not twin.train().training
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_a_pickled_loss_keeps_its_settings(make_loss: Callable[..., RelationalLoss], make_pair: PairMaker) -> None:
    loss = make_loss(reduction="none", data_range=(-1, 1), axis_weights={"blur": 3.0})
    assert torch.equal(pickle.loads(pickle.dumps(loss))(*make_pair()), loss(*make_pair()))


def test_values_do_not_depend_on_what_was_computed_before(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    first = loss_fn(*make_pair())
    loss_fn(*make_pair(1, 17, 23, seed=9))
    assert torch.equal(loss_fn(*make_pair()), first)


# --- precision


def test_cast_to_float64_computes_and_answers_in_float64(
    loss_fn: RelationalLoss, loss_fn64: RelationalLoss, make_pair: PairMaker
) -> None:
    pair = make_pair()
    rel, rel64 = loss_fn.relate(*pair), loss_fn64.relate(*pair)
    for name in ("distance", "parts", "floor", "maps", "score"):
        assert getattr(rel64, name).dtype == torch.float64, name
        torch.testing.assert_close(getattr(rel, name).double(), getattr(rel64, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_pictures_are_computed_in_float32(
    loss_fn: RelationalLoss, make_pair: PairMaker, dtype: torch.dtype
) -> None:
    pred, ref = make_pair(dtype=dtype)
    value = loss_fn(pred.requires_grad_(), ref)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss_fn(pred.detach().float(), ref.float()))
    value.backward()
    assert pred.grad is not None
    assert pred.grad.dtype == dtype
    assert pred.grad.isfinite().all()


def test_dtypes_of_a_pair_may_differ(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pred, ref = make_pair()
    assert torch.equal(loss_fn(pred.half(), ref), loss_fn(pred.half().float(), ref))
    assert torch.equal(loss_fn(pred, ref.double()), loss_fn(pred, ref))


def test_bfloat16_autocast_stays_close_to_float32(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    pair = make_pair()
    exact = loss_fn.relate(*pair)
    with torch.autocast("cpu", torch.bfloat16):
        rel = loss_fn.relate(*pair)
        maps, score = rel.maps, rel.score
    assert rel.distance.dtype == torch.float32
    assert score.dtype == torch.float32
    # bfloat16 keeps 8 bits (relative step 0.8 %); sums over pixels are float32, so that the distance does better than
    # a single value.
    torch.testing.assert_close(rel.distance, exact.distance, rtol=0.02, atol=0)
    assert (maps.float() - exact.maps).abs().max() < 0.06 * exact.maps.abs().max()


def test_bfloat16_autocast_is_zero_at_identity_with_a_finite_gradient(
    loss_fn: RelationalLoss, make_pair: PairMaker
) -> None:
    ref = make_pair()[1]
    pred = ref.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss_fn(pred, ref)
    value.backward()
    assert value == 0
    assert pred.grad is not None
    assert pred.grad.isfinite().all()


# --- batch and layout


def test_batch_mates_do_not_matter(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair(4)
    together = loss_fn.relate(a, b)
    for index in range(4):
        alone = loss_fn.relate(a[index : index + 1], b[index : index + 1])
        torch.testing.assert_close(together.distance[index : index + 1], alone.distance, **ROUNDING)
        torch.testing.assert_close(together.parts[index : index + 1], alone.parts, **ROUNDING)
        torch.testing.assert_close(together.maps[index : index + 1], alone.maps, **ROUNDING)
        torch.testing.assert_close(together.score[index : index + 1], alone.score, **ROUNDING)


def test_memory_format_does_not_matter(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair()
    plain = loss_fn.relate(a, b)
    other = loss_fn.relate(a.contiguous(memory_format=torch.channels_last), b)
    sliced = loss_fn.relate(torch.cat([a, a], dim=3)[..., :64], b)
    for rel in (other, sliced):
        torch.testing.assert_close(rel.distance, plain.distance, **ROUNDING)
        torch.testing.assert_close(rel.maps, plain.maps, **ROUNDING)


def test_inputs_are_left_as_they_were(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    a, b = make_pair()
    loss_fn(a, b, weight=(weight := torch.rand(2, 48, 64)))
    assert torch.equal(a, make_pair()[0])
    assert torch.equal(b, make_pair()[1])
    assert weight.max() <= 1


# --- compilers


@pytest.mark.parametrize("size", [(48, 64), (50, 70)], ids=str)
def test_compiled_in_one_graph_equals_eager(
    loss_fn: RelationalLoss, make_pair: PairMaker, size: tuple[int, int]
) -> None:
    pred, ref = make_pair(2, *size)
    torch.compiler.reset()
    # aot_eager traces forward and backward like the default backend and skips its C++ compilation, which takes minutes
    # on a small machine. fullgraph=True is the promise: no graph break, and so nothing that waits for the device.
    compiled = torch.compile(loss_fn, fullgraph=True, backend="aot_eager")
    value, expected = compiled(pred.requires_grad_(), ref), loss_fn(pred, ref)
    torch.testing.assert_close(value, expected, **ROUNDING)
    (slope,) = torch.autograd.grad(value, pred)
    (expected_slope,) = torch.autograd.grad(expected, pred)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-4, atol=1e-8)


class _MapsAndScore(nn.Module):
    def __init__(self, loss_fn: RelationalLoss) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rel = self.loss_fn.relate(a, b)
        return rel.distance, rel.maps, rel.score


def test_maps_and_score_compile_in_one_graph(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    torch.compiler.reset()
    module = _MapsAndScore(loss_fn)
    compiled = torch.compile(module, fullgraph=True, backend="eager")(*make_pair())
    for got, expected in zip(compiled, module(*make_pair()), strict=True):
        torch.testing.assert_close(got, expected, **ROUNDING)


def test_exported_program_equals_eager(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    module = _MapsAndScore(loss_fn)
    program = torch.export.export(module, make_pair())
    for got, expected in zip(program.module()(*make_pair(seed=5)), module(*make_pair(seed=5)), strict=True):
        torch.testing.assert_close(got, expected, **ROUNDING)


def test_forward_reads_no_value_back_from_the_device(loss_fn: RelationalLoss) -> None:
    # The meta device has no values: anything that asked for one would raise.
    on_meta = copy.deepcopy(loss_fn).to("meta")
    pair = torch.empty(2, 3, 50, 70, device="meta"), torch.empty(2, 3, 50, 70, device="meta")
    assert on_meta(*pair, weight=torch.empty(2, 50, 70, device="meta")).shape == ()
    rel = on_meta.relate(*pair, ref=pair[0])
    assert rel.maps.shape[-2:] == (50, 70)
    assert rel.score.shape == (2,)
