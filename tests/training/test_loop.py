"""The loop with a toy model: schedule, log, checkpoints, and resuming as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relqa_loss.digests import tensors_digest
from relqa_loss.training.data import seeded
from relqa_loss.training.loop import (
    CHECKPOINT,
    METRICS,
    Progress,
    load_average,
    read_checkpoint,
    run,
    schedule,
)
from relqa_loss.training.recipe import StageConfig
from relqa_loss.training.stopping import Stopped

CPU = torch.device("cpu")
CONFIG = StageConfig(steps=12, warmup=3, precision="float32", workers=0, checkpoint_seconds=0.0, log_every=5)


class Interruption(Exception):
    pass


def toy_batch(step: int) -> Tensor:
    return torch.randn(8, 4, generator=seeded(7, step))


def squared_error(model: nn.Module) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
    def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        batch = batch.to(next(model.parameters()).device)
        loss = (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()
        return loss, {"double": 2 * loss}

    return loss_of


def interrupted_at(step: int, loss_of: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    calls = 0

    def interrupting(batch: Tensor) -> Any:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Interruption
        return loss_of(batch)

    return interrupting


def train(
    out: Path,
    *,
    config: StageConfig = CONFIG,
    model: nn.Linear | None = None,
    stop: int | None = None,
    resume: bool = False,
    fingerprint: str = "f",
    loss_of: Callable[[Tensor], Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: torch.device = CPU,
) -> nn.Linear:
    torch.manual_seed(1)
    model = (nn.Linear(4, 1) if model is None else model).to(device)
    loss_of = squared_error(model) if loss_of is None else loss_of
    run(
        "toy",
        model,
        config,
        toy_batch,
        loss_of if stop is None else interrupted_at(stop, loss_of),
        lambda averaged: {"weight_norm": float(averaged.weight.detach().norm())},  # type: ignore[union-attr]
        out,
        fingerprint=fingerprint,
        record={"trained_without": ["jpeg"]},
        resume=resume,
        device=device,
        progress=progress,
    )
    return model


def constant(value: float) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
    parameter = torch.zeros((), requires_grad=True)
    return lambda batch: (value + 0 * parameter, {})


def log_lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


# --- schedule


def test_learning_rate_rises_to_its_peak_and_falls_to_a_hundredth() -> None:
    config = StageConfig(steps=100, warmup=10, learning_rate=2.0)
    rates = [schedule(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert rates[100] == pytest.approx(0.02)


def test_a_schedule_without_warm_up_starts_at_its_peak() -> None:
    assert schedule(0, StageConfig(steps=5, warmup=0, learning_rate=2.0)) == pytest.approx(2.0)


# --- training and its log


def test_training_lowers_the_loss_and_leaves_the_average_in_the_model(tmp_path: Path) -> None:
    config = StageConfig(
        steps=150, warmup=5, learning_rate=0.1, average=0.9, precision="float32", workers=0, log_every=10
    )
    model = train(tmp_path, config=config)
    lines = log_lines(tmp_path)
    assert lines[-1]["loss"] < 0.05 * lines[0]["loss"]
    twin = nn.Linear(4, 1)
    assert load_average(twin, tmp_path, 150, "f") > 0
    assert torch.equal(twin.weight, model.weight)
    trained = torch.load(tmp_path / CHECKPOINT, weights_only=True)["model"]["weight"]
    assert not torch.equal(trained, model.weight)


def test_log_has_a_line_every_few_steps_and_at_the_end(tmp_path: Path) -> None:
    train(tmp_path)
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert all(line["double"] == pytest.approx(2 * line["loss"]) for line in lines)
    assert [("weight_norm" in line) for line in lines] == [False, False, True]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_log_holds_means_since_the_last_line(tmp_path: Path) -> None:
    train(tmp_path, loss_of=constant(3.0))
    assert [line["loss"] for line in log_lines(tmp_path)] == pytest.approx([3.0, 3.0, 3.0])


def test_progress_is_told_at_every_logged_step(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(tmp_path, progress=seen.append)
    assert [(p.stage, p.step, p.steps) for p in seen] == [("toy", 5, 12), ("toy", 10, 12), ("toy", 12, 12)]
    assert seen[-1].seconds_left == 0
    assert all(p.steps_per_second > 0 for p in seen)


# --- interruption


@pytest.mark.parametrize("stop", [1, 5, 7, 11])
def test_an_interrupted_run_resumed_ends_bitwise_where_an_uninterrupted_one_does(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Interruption):
        train(tmp_path / "cut", stop=stop)
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["step"] == stop
    resumed = train(tmp_path / "cut", resume=True)
    assert tensors_digest(resumed) == tensors_digest(whole)


def test_the_log_of_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        train(tmp_path, stop=7)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 10, "loss": 1.0}\n{"step": 12, "lo')  # beyond the checkpoint; cut in two
    train(tmp_path, resume=True)
    assert [line["step"] for line in log_lines(tmp_path)] == [5, 10, 12]


def test_the_log_of_a_resumed_run_holds_the_means_of_an_uninterrupted_one(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    with pytest.raises(Interruption):
        train(tmp_path / "cut", stop=7)
    train(tmp_path / "cut", resume=True)
    whole, cut = (
        [{name: value for name, value in line.items() if name != "seconds"} for line in log_lines(tmp_path / one)]
        for one in ("whole", "cut")
    )
    assert cut == whole


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    whole = train(tmp_path)
    log = (tmp_path / METRICS).read_text()
    assert tensors_digest(train(tmp_path, resume=True, stop=0)) == tensors_digest(whole)
    assert (tmp_path / METRICS).read_text() == log


def test_resume_where_nothing_is_starts_from_scratch(tmp_path: Path) -> None:
    assert tensors_digest(train(tmp_path / "a", resume=True)) == tensors_digest(train(tmp_path / "b"))


def test_seconds_count_over_resumptions(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        train(tmp_path, stop=7)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    torch.save(state | {"seconds": 1000.0}, tmp_path / CHECKPOINT)
    train(tmp_path, resume=True)
    assert log_lines(tmp_path)[-1]["seconds"] > 1000


def test_a_checkpoint_of_an_earlier_version_has_no_record_and_is_resumed(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Interruption):
        train(tmp_path / "cut", stop=7)
    path = tmp_path / "cut" / CHECKPOINT
    state = torch.load(path, weights_only=True)
    assert state.pop("record") == {"trained_without": ["jpeg"]}
    torch.save(state, path)
    assert tensors_digest(train(tmp_path / "cut", resume=True)) == tensors_digest(whole)
    assert read_checkpoint(path, ["record"])["record"] == {"trained_without": ["jpeg"]}


@pytest.mark.gpu
def test_a_resumed_optimiser_counts_its_steps_where_a_new_one_does(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        train(tmp_path, stop=7, device=torch.device("cuda"))
    train(tmp_path, resume=True, device=torch.device("cuda"))
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["model"]["weight"].is_cuda
    assert state["optimiser"]["state"][0]["step"].device.type == "cpu"


# --- SIGTERM


def asking_to_stop_at(step: int, loss_of: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    calls = 0

    def asking(batch: Tensor) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            signal.raise_signal(signal.SIGTERM)
        return loss_of(batch)

    return asking


def test_sigterm_saves_the_step_under_way_and_a_resumed_run_ends_where_it_would_have(tmp_path: Path) -> None:
    rarely = dataclasses.replace(CONFIG, checkpoint_seconds=1e6)
    whole = train(tmp_path / "whole")
    torch.manual_seed(1)
    model = nn.Linear(4, 1)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by SIGTERM at step 7 of 12"):
        train(tmp_path / "cut", config=rarely, model=model, loss_of=asking_to_stop_at(7, squared_error(model)))
    assert signal.getsignal(signal.SIGTERM) is before
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["step"] == 7
    assert tensors_digest(train(tmp_path / "cut", resume=True)) == tensors_digest(whole)


def test_sigterm_during_the_last_step_keeps_it_and_nothing_comes_after(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    with pytest.raises(Stopped, match="at step 12 of 12"):
        train(tmp_path, model=model, loss_of=asking_to_stop_at(12, squared_error(model)))
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 12


def test_outside_the_main_thread_training_leaves_the_signal_alone(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        before = signal.getsignal(signal.SIGTERM)
        assert pool.submit(train, tmp_path).result() is not None
        assert signal.getsignal(signal.SIGTERM) is before


# --- refusals


def test_a_checkpoint_of_another_recipe_or_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        train(tmp_path, stop=7)
    with pytest.raises(ValueError, match="another recipe"):
        train(tmp_path, resume=True, fingerprint="g")


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes(), (tmp_path / METRICS).read_bytes()
    with pytest.raises(ValueError, match="already holds a run"):
        train(tmp_path)
    assert ((tmp_path / CHECKPOINT).read_bytes(), (tmp_path / METRICS).read_bytes()) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, bad: float) -> None:
    with pytest.raises(ValueError, match="the toy's loss is no longer finite at step 5"):
        train(tmp_path, loss_of=constant(bad))


def test_a_checkpoint_never_holds_weights_that_are_not_finite(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    calls = 0

    def breaks_down(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal calls
        calls += 1
        return model(batch).square().mean() * (math.nan if calls == 7 else 1.0), {}

    with pytest.raises(ValueError, match="no longer finite"):
        train(tmp_path, model=model, loss_of=breaks_down)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["step"] == 6
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_an_unfinished_or_foreign_run_has_no_average_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished run"):
        load_average(nn.Linear(4, 1), tmp_path, 12, "f")
    with pytest.raises(Interruption):
        train(tmp_path, stop=7)
    with pytest.raises(ValueError, match=r"not finished \(7 of 12 steps\)"):
        load_average(nn.Linear(4, 1), tmp_path, 12, "f")
    train(tmp_path, resume=True)
    with pytest.raises(ValueError, match="another recipe"):
        load_average(nn.Linear(4, 1), tmp_path, 12, "g")
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for damaged in (b"not a checkpoint", whole[:-100], whole[: len(whole) // 2]):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load_average(nn.Linear(4, 1), tmp_path, 12, "f")


@pytest.mark.parametrize("content", [{"settings": {}, "model": {}}, [1, 2], torch.zeros(2)])
def test_a_file_of_torch_that_is_no_checkpoint_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged or not a checkpoint of this package.*average"):
        read_checkpoint(tmp_path / CHECKPOINT, ("average",))
    with pytest.raises(ValueError, match="not a checkpoint of this package"):
        train(tmp_path, resume=True)


def test_digest_of_tensors_changes_with_one_bit() -> None:
    model = nn.Linear(4, 1)
    before = tensors_digest(model)
    assert tensors_digest(model) == before
    with torch.no_grad():
        model.weight[0, 0] = torch.nextafter(model.weight[0, 0], torch.tensor(math.inf))
    assert tensors_digest(model) != before
