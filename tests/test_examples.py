import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("PIL")

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_main(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()


def test_every_example_is_run_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {
        "compare_two_images",
        "training_loop",
        "weighted_loss",
        "pick_checkpoint",
        "triplet_dataset",
    }


def test_compare_two_images_runs_as_a_script(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "compare_two_images.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("distance ") and len(done.stdout.splitlines()) == 4
    assert "darker" in done.stdout and "grainier" in done.stdout


def test_training_loop_brings_the_distance_down():
    before, after = run_main("training_loop")
    assert 0 < after < before


def test_weighted_loss_moves_the_gradient_to_the_patch():
    shares = run_main("weighted_loss")
    assert shares["plain L1"] == pytest.approx(1 / 9, abs=0.02)
    assert min(shares["weighted L1"], shares["own code"]) > 1.5 * shares["plain L1"]
    assert shares["curriculum"] < shares["plain L1"]


def test_pick_checkpoint_keeps_the_best():
    assert run_main("pick_checkpoint") == "step 2000"


def test_triplet_dataset_names_what_it_did():
    names = run_main("triplet_dataset")
    assert len(names) >= 16 and len(set(names)) > 8
    assert names == run_main("triplet_dataset")
