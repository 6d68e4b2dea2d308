"""Speed and memory beside others: what the peers are, and what is made of the times."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from relqa_loss import RelationalLoss
from relqa_loss.evaluation import speed, speed_peers
from relqa_loss.evaluation.memory import METHODS, MIB
from relqa_loss.evaluation.speed import OURS, TARGETS, Contender, Cost, machine, measure
from relqa_loss.evaluation.speed_peers import LEAST_SIDE, MS_SSIM_SIDE, lpips_alexnet, lpips_vgg16, ms_ssim_loss
from relqa_loss.evaluation.speed_profile import PARTS, Laps, forward_by_parts, profile
from relqa_loss.evaluation.targets import verdicts

LossMaker = Callable[..., RelationalLoss]
PairMaker = Callable[..., tuple[Tensor, Tensor]]

SMALL = (1, 3, LEAST_SIDE, LEAST_SIDE)


# --- the peers


@pytest.mark.parametrize(
    ("build", "parameters", "convolutions", "widths", "strides"),
    [
        # Numbers of parameters of the published networks' convolutions.
        (lpips_alexnet, 2_469_696, 5, (64, 192, 384, 256, 256), None),
        (lpips_vgg16, 14_714_688, 13, (64, 128, 256, 512, 512), (1, 2, 4, 8, 16)),
    ],
    ids=["alexnet", "vgg16"],
)
def test_peers_have_the_published_shapes(
    build: Callable[[], speed_peers.PerceptualNetwork],
    parameters: int,
    convolutions: int,
    widths: tuple[int, ...],
    strides: tuple[int, ...] | None,
) -> None:
    network = build()
    found = [one for one in network.modules() if isinstance(one, torch.nn.Conv2d)]
    assert len(found) == convolutions
    assert sum(p.numel() for one in found for p in one.parameters()) == parameters
    taps = network.features(torch.rand(2, 3, 64, 64))
    assert tuple(tap.shape[1] for tap in taps) == widths
    if strides is not None:
        assert tuple(64 // tap.shape[2] for tap in taps) == strides
    for tap in taps:
        lengths = tap.square().sum(dim=1)
        assert ((lengths - 1).abs() < 1e-3).logical_or(lengths == 0).all()
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("build", [lpips_alexnet, lpips_vgg16])
def test_peers_are_distances_with_gradients(
    build: Callable[[], speed_peers.PerceptualNetwork], make_pair: PairMaker
) -> None:
    network = build()
    pred, ref = make_pair(1, LEAST_SIDE, LEAST_SIDE)
    pred.requires_grad_()
    value = network(pred, ref)
    value.backward()
    assert value > 0
    assert network(ref, ref) == 0
    assert pred.grad is not None
    assert pred.grad.isfinite().all()
    assert pred.grad.abs().max() > 0


def test_ms_ssim_is_turned_into_a_loss(make_pair: PairMaker) -> None:
    pytest.importorskip("pytorch_msssim")
    loss, version = ms_ssim_loss()
    pred, ref = make_pair(1, MS_SSIM_SIDE, MS_SSIM_SIDE)
    assert version
    assert float(loss(ref, ref)) == pytest.approx(0, abs=1e-5)
    assert 1e-3 < float(loss(pred, ref)) < 1
    with pytest.raises(AssertionError):
        loss(pred[..., 1:, 1:], ref[..., 1:, 1:])


# --- who takes part


def contenders(
    loss_fn: RelationalLoss, side: int, compiled: bool = False
) -> tuple[dict[str, Contender], dict[str, str]]:
    found, left_out = speed._contenders(loss_fn, torch.rand(1, 3, side, side), "float32", compiled, 0)
    return {one.key: one for one in found}, left_out


def test_ms_ssim_sits_out_where_it_is_undefined_or_missing(
    loss_fn: RelationalLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, left_out = contenders(loss_fn, MS_SSIM_SIDE - 1)
    assert list(found) == [OURS, "prepared", "lpips_alexnet", "lpips_vgg16"]
    assert left_out == {"MS-SSIM of pytorch-msssim": "needs pictures of at least 161 pixels a side"}
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    found, left_out = contenders(loss_fn, MS_SSIM_SIDE)
    assert "ms_ssim" not in found
    assert 'pip install "relqa_loss[benchmark]"' in left_out["MS-SSIM of pytorch-msssim"]


def test_a_prepared_reference_counts_with_what_it_holds(loss_fn: RelationalLoss) -> None:
    ref = torch.rand(1, 3, 64, 64)
    found, _ = contenders(loss_fn, 64)
    prepared = loss_fn.prepare(ref)
    assert found["prepared"].held == 4 * sum(x.numel() for x in (prepared.images, *prepared.features))
    assert all(one.held == 0 for key, one in found.items() if key != "prepared")
    pred = torch.rand(1, 3, 64, 64)
    assert torch.equal(found["prepared"].loss(pred), found[OURS].loss(pred))


def test_only_the_loss_is_compiled(loss_fn: RelationalLoss, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    contenders(loss_fn, 64)
    assert compiled == []
    contenders(loss_fn, 64, compiled=True)
    assert compiled == [loss_fn]


# --- what is made of the times


def made_contenders(monkeypatch: pytest.MonkeyPatch, times: dict[str, list[float]], order: list[str]) -> None:
    """Contenders that take the given milliseconds and MiB by the letters of their keys."""
    losses = {key: (lambda pred, key=key: pred.sum() * len(key)) for key in times}
    made = [Contender(key, key, loss, held=MIB * len(key)) for key, loss in losses.items()]
    names = {id(loss): key for key, loss in losses.items()}
    clocks = {key: iter(taken) for key, taken in times.items()}

    def pass_ms(loss: speed.Loss, pred: Tensor, precision: str) -> float:
        order.append(names[id(loss)])
        return next(clocks[names[id(loss)]])

    monkeypatch.setattr(speed, "_contenders", lambda *_: (made, {"other": "is not there"}))
    monkeypatch.setattr(speed, "pass_ms", pass_ms)
    monkeypatch.setattr(speed, "pass_peak", lambda *_: 0)


def test_all_take_turns_and_ratios_are_those_of_one_turn(
    loss_fn: RelationalLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    made_contenders(monkeypatch, {OURS: [99, 2, 3, 4], "peer": [1, 4, 12, 2]}, order)
    report = measure(loss_fn, shape=SMALL, repeats=3, warmup=1)
    assert order == [OURS, "peer"] * 4
    peer = report.contenders["peer"]
    assert peer == Cost("peer", 4, 2, 3 / 4, (0.25, 2.0), 3, 4.0, len(OURS) / 4)
    assert report.contenders[OURS].ratio == report.contenders[OURS].memory_ratio == 1
    assert list(report.contenders) == [OURS, "peer"]
    assert report.left_out == {"other": "is not there"}
    assert report.memory_method == METHODS["cpu"]


def test_a_slow_one_leaves_early_and_is_compared_with_the_turns_it_took(
    loss_fn: RelationalLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    made_contenders(monkeypatch, {OURS: [1, 1, 1, 50, 50], "slow": [10_000, 10_000, 10_000]}, order)
    report = measure(loss_fn, shape=SMALL, repeats=5, warmup=0)
    assert order == [OURS, "slow"] * 3 + [OURS] * 2
    slow = report.contenders["slow"]
    assert slow.repeats == 3
    assert slow.ratio == pytest.approx(1e-4)
    assert slow.ratio_spread == pytest.approx((1e-4, 1e-4))
    assert report.contenders[OURS].repeats == 5


def test_a_pass_reaches_pred_under_the_precision_asked_for() -> None:
    seen: list[tuple[bool, Tensor]] = []

    def loss(pred: Tensor) -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), pred))
        return pred.square().sum()

    pred = torch.rand(SMALL)
    assert speed.pass_ms(loss, pred) > 0
    assert speed.pass_ms(loss, pred, "bfloat16") > 0
    assert speed.pass_peak(loss, pred) >= pred.numel() * 4
    assert [low for low, _ in seen] == [False, True, False]
    for _, image in seen:
        assert image.grad is not None
        assert torch.equal(image.grad, 2 * pred)
    assert pred.grad is None


def test_targets_read_a_report(loss_fn: RelationalLoss) -> None:
    report = measure(loss_fn, shape=SMALL, repeats=1, warmup=0)
    found = verdicts(report.to_dict()["contenders"], TARGETS)
    measured = {one.target.figure.path: one.measured for one in found}
    assert measured["lpips_vgg16", "ratio"] == report.contenders["lpips_vgg16"].ratio
    assert measured["lpips_vgg16", "memory_ratio"] == report.contenders["lpips_vgg16"].memory_ratio
    assert measured["ms_ssim", "ratio"] is None
    goals = {one.target.figure.path: one.target.goal for one in found}
    assert goals == {
        ("lpips_alexnet", "ratio"): 1.0,
        ("lpips_vgg16", "ratio"): 0.05,
        ("ms_ssim", "ratio"): 1.5,
        ("lpips_vgg16", "memory_ratio"): 0.5,
    }
    for one in report.contenders.values():
        assert one.ms >= one.best_ms > 0
        assert one.peak_mib > SMALL[2] * SMALL[3] * 3 * 4 / MIB
    # VGG16 starts at full resolution, AlexNet at a quarter of the side.
    assert report.contenders["lpips_vgg16"].peak_mib > report.contenders["lpips_alexnet"].peak_mib


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repeats": 0}, "repeats must be at least 1 and warmup at least 0, got 0 and 2"),
        ({"warmup": -1}, "got 7 and -1"),
        ({"shape": (1, 3, 31, 64)}, r"shape must be at least \(1, 3, 32, 32\), got \(1, 3, 31, 64\)"),
        ({"shape": (0, 3, 64, 64)}, r"got \(0, 3, 64, 64\)"),
        ({"precision": "bfloat"}, "unknown precision 'bfloat'; did you mean 'bfloat16'"),
        ({"device": "meta"}, "device must be one of cpu, cuda"),
    ],
)
def test_wrong_settings_are_one_clear_error(loss_fn: RelationalLoss, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(loss_fn, **settings)


def test_a_loss_of_one_value_per_pair_cannot_be_timed(make_loss: LossMaker) -> None:
    with pytest.raises(ValueError, match="loss_fn must have reduction 'mean' or 'sum', got 'none'"):
        measure(make_loss(reduction="none"), shape=SMALL)


# --- where the time goes


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_parts_make_up_the_loss(make_loss: LossMaker, make_pair: PairMaker, reduction: str) -> None:
    loss = make_loss(reduction=reduction, axis_weights={"noise": 3.0})
    pred, ref = make_pair(2, 48, 64)
    value = forward_by_parts(loss, pred, ref, Laps(pred.device))
    assert torch.equal(value, loss(pred, ref))


def test_a_profile_names_every_part_and_leaves_the_loss_as_it_was(loss_fn: RelationalLoss) -> None:
    report = profile(loss_fn, shape=(1, 3, 32, 32), repeats=2)
    assert tuple(report["ms"]) == tuple(report["share"]) == PARTS
    assert all(ms > 0 for ms in report["ms"].values())
    assert sum(report["share"].values()) == pytest.approx(1)
    texture = loss_fn.predictor.texture
    assert not texture._forward_hooks
    assert not texture._forward_pre_hooks


def test_laps_add_up_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    from relqa_loss.evaluation import speed_profile

    ticks = iter([0.0, 1.0, 3.0, 6.0])
    monkeypatch.setattr(speed_profile.time, "perf_counter", lambda: next(ticks))
    laps = Laps(torch.device("cpu"))
    for part in ("encoder", "floor", "encoder"):
        laps.lap(part)
    assert laps.ms == {**dict.fromkeys(PARTS, 0.0), "encoder": 4000.0, "floor": 2000.0}


def test_profiles_refuse_what_would_add_steps_of_its_own(loss_fn: RelationalLoss, make_loss: LossMaker) -> None:
    with pytest.raises(ValueError, match=r"shape must have sides that divide by 16 .* got \(1, 3, 40, 32\)"):
        profile(loss_fn, shape=(1, 3, 40, 32))
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        profile(loss_fn, repeats=0)
    with pytest.raises(ValueError, match=r"data_range \(0.0, 1.0\) to be profiled, got \(-1.0, 1.0\)"):
        profile(make_loss(data_range=(-1, 1)), shape=(1, 3, 32, 32))
    with pytest.raises(ValueError, match="unknown precision"):
        profile(copy.deepcopy(loss_fn), shape=(1, 3, 32, 32), precision="half")  # type: ignore[arg-type]


@pytest.mark.gpu
def test_on_cuda_everything_is_measured_in_bfloat16_too(make_loss: LossMaker) -> None:
    loss = make_loss().cuda()
    report = measure(loss, shape=(1, 3, 192, 192), repeats=1, warmup=1, device="cuda", precision="bfloat16")
    assert report.memory_method == METHODS["cuda"]
    assert report.setup["precision"] == "bfloat16"
    assert all(one.ms > 0 and one.peak_mib > 0 for one in report.contenders.values())
    assert profile(loss, shape=(1, 3, 64, 64), repeats=1, device="cuda")["ms"]["backward"] > 0


def test_what_allocates_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert machine(torch.device("cpu"), "float32")["allocator"] == ""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    assert machine(torch.device("cpu"), "float32")["allocator"] == "LD_PRELOAD=libjemalloc.so MALLOC_TRIM_THRESHOLD_=1"
