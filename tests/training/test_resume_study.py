"""Real processes of the command line: killed and resumed, asked to stop, repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from relqa_loss.digests import tensors_digest
from relqa_loss.images import write_image
from relqa_loss.training.data import load_photographs
from relqa_loss.training.loop import CHECKPOINT, METRICS
from relqa_loss.training.predictor_stage import train_predictor
from relqa_loss.training.recipe_toml import load_recipe
from relqa_loss.training.resume_study import (
    _examine,
    _identity,
    _trains_beyond,
    compare,
    log_steps,
    resume_study,
)

TINY = {
    "predictor.steps": "30",
    "predictor.batch": "2",
    "predictor.crop": "32",
    "predictor.warmup": "2",
    "predictor.workers": "0",
    "predictor.checkpoint_seconds": "0.0",
    "predictor.log_every": "2",
    "predictor.validate_every": "1000",
    "data.validation_share": "0.5",
    "predictor.widths": "[4, 6, 8, 10]",
    "predictor.pair_widths": "[4, 4, 4, 4]",
    "predictor.texture_widths": "[4, 4, 4]",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Tensor]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(make_photos(4, 56, 64)):
        write_image(folder / f"{index}.png", photo)
    return folder


@pytest.fixture(scope="module")
def report(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("study")
    return resume_study(photos, folder, overrides=TINY, kills=3, seed=1, threads=[1])


def test_a_run_that_is_killed_and_resumed_ends_bitwise_where_an_undisturbed_one_does(report: dict[str, Any]) -> None:
    assert report["kills_that_happened"] == 3
    trained = [kill["after_step"] for kill in report["kills"]]
    assert trained == sorted(set(trained))
    assert report["killed_and_undisturbed"] == {
        "largest_weight_difference": 0.0,
        "same_log_steps": True,
        "same_log_values": True,
        "same_validation": True,
    }


def test_a_kill_leaves_a_checkpoint_that_can_be_read_and_resuming_leaves_no_stray_file(report: dict[str, Any]) -> None:
    assert all(kill["checkpoint_step"] is not None for kill in report["kills"])
    assert report["stray_files"] == []


def test_undisturbed_processes_repeat_each_other_bitwise(report: dict[str, Any]) -> None:
    assert [one["largest_weight_difference"] for one in report["undisturbed_repeated"]] == [0.0]


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_of_one_recipe_give_the_same_bytes(photos: Path, tmp_path: Path, threads: int) -> None:
    recipe = load_recipe("cpu-small", TINY | {"predictor.steps": "3"})
    photographs = load_photographs(photos, recipe.data.validation_share, recipe.predictor.crop)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (train_predictor(recipe, photographs, tmp_path / name) for name in "ab")
    finally:
        torch.set_num_threads(before)
    assert tensors_digest(first) == tensors_digest(second)
    assert compare(tmp_path / "a", tmp_path / "b")["same_log_values"]


def test_the_comparison_sees_another_seed(photos: Path, tmp_path: Path) -> None:
    for seed in "12":
        recipe = load_recipe("cpu-small", TINY | {"predictor.steps": "4", "seed": seed})
        photographs = load_photographs(photos, recipe.data.validation_share, recipe.predictor.crop)
        train_predictor(recipe, photographs, tmp_path / seed)
    difference = compare(tmp_path / "1", tmp_path / "2")
    assert difference["largest_weight_difference"] > 1e-3
    assert difference["same_log_steps"]
    assert not difference["same_log_values"]


def test_a_study_without_kills_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one, got 0"):
        resume_study(photos, tmp_path, kills=0)


def test_more_kills_than_a_run_has_moments_are_refused_after_its_first_run(photos: Path, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(ValueError, match=r"kills must be at most \d+, .* got 50"):
        resume_study(photos, tmp_path, overrides=TINY, kills=50, threads=[1], progress=told.append)
    assert len(told) == 1


def test_a_run_that_fails_by_itself_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"failed by itself: .*no photograph in folder"):
        resume_study(tmp_path, tmp_path, overrides=TINY)


def write_log(out: Path, *steps: int) -> None:
    (out / "new").write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))
    (out / "new").replace(out / METRICS)


def test_lines_that_a_resumed_process_has_kept_are_not_yet_training(tmp_path: Path) -> None:
    write_log(tmp_path, 2, 4, 6)
    before = _identity(tmp_path / METRICS)
    assert not _trains_beyond(tmp_path, before, 2)  # the log of the killed process
    write_log(tmp_path, 2, 4)
    assert not _trains_beyond(tmp_path, before, 5)
    write_log(tmp_path, 2, 4, 6)
    assert _trains_beyond(tmp_path, before, 5)


def test_what_an_earlier_kill_has_left_is_not_a_checkpoint_under_way(tmp_path: Path) -> None:
    unfinished = tmp_path / f".{CHECKPOINT}.tmp"
    unfinished.write_bytes(b"half")
    assert _examine(tmp_path, None).torn
    leftover = _identity(unfinished)
    assert not _examine(tmp_path, leftover).torn
    unfinished.write_bytes(b"another half")
    os.utime(unfinished, ns=(0, 0))
    assert _examine(tmp_path, leftover).torn
    unfinished.unlink()
    assert not _examine(tmp_path, leftover).torn


def test_a_checkpoint_that_a_kill_left_unreadable_ends_the_study(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half")
    with pytest.raises(RuntimeError, match=r"a kill left a checkpoint that cannot be read: .* damaged"):
        _examine(tmp_path, None)


# --- SIGTERM


@pytest.fixture
def running(photos: Path, tmp_path: Path, repository: Path) -> Iterator[subprocess.Popen[str]]:
    """A run with a data worker that would go on for long, in a process group of its own."""
    changes = {"predictor.steps": "100000", "predictor.workers": "1", "predictor.checkpoint_seconds": "1e6"}
    options = [f"--set={key}={value}" for key, value in (TINY | changes).items()]
    command = ["train", "predictor", "--data", str(photos), "--out", str(tmp_path / "out"), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "relqa_loss.cli", *command],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not log_steps(tmp_path / "out") and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups and their signals: this system has none")
def test_sigterm_to_a_whole_job_saves_a_checkpoint_and_says_so(running: subprocess.Popen[str], tmp_path: Path) -> None:
    os.killpg(running.pid, signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGTERM, said
    state = torch.load(tmp_path / "out" / CHECKPOINT, weights_only=True)
    assert said.splitlines()[-1] == (
        f"relqa train: stopped by SIGTERM at step {state['step']} of 100000, checkpoint written: resume to go on"
    )
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [CHECKPOINT, METRICS]


def test_a_recipe_of_several_parts_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="recipe must be of one part, got cpu-held-out of 3"):
        resume_study(tmp_path, tmp_path / "runs", recipe="cpu-held-out")
    assert not (tmp_path / "runs").exists()
