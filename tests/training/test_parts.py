"""A recipe of several parts, trained by the command line, beside the same parts one by one."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from relqa_loss import RelationalLoss
from relqa_loss.cli import main
from relqa_loss.distortions import availability
from relqa_loss.distortions.bank import BANK, by_name
from relqa_loss.images import MissingExtra, write_image
from relqa_loss.training import release, scorer_stage
from relqa_loss.training.data import load_photographs
from relqa_loss.training.distributed import Ranks
from relqa_loss.training.loop import CHECKPOINT, METRICS, Progress
from relqa_loss.training.parts import train_parts
from relqa_loss.training.predictor_stage import new_predictor, train_predictor
from relqa_loss.training.recipe_toml import load_parts
from relqa_loss.training.start import start_from
from relqa_loss.training.stopping import Stopped

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Tensor]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, photo in enumerate(make_photos(6, 56, 64)):
        write_image(folder / f"{index}.png", photo)
    return folder


@pytest.fixture
def train(tiny_parts: Path, photos: Path) -> Callable[..., int]:
    def run(stage: str, out: Path, *further: str | Path) -> int:
        words = ["train", stage, "--recipe", tiny_parts, "--data", photos, "--out", out, *further]
        return main([str(word) for word in words])

    return run


@pytest.fixture
def trained(train: Callable[..., int], tmp_path: Path) -> Path:
    assert train("predictor", tmp_path / "run") == 0
    return tmp_path / "run"


def averages(out: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(out / CHECKPOINT, weights_only=True)["average"]
    return state


def test_parts_are_the_runs_that_they_would_be_one_by_one(
    trained: Path, tiny_parts: Path, photos: Path, tmp_path: Path
) -> None:
    assert sorted(entry.name for entry in trained.iterdir()) == [CHECKPOINT, "first", "maps", METRICS, "pairs"]
    start = None
    for part, done in zip(load_parts(tiny_parts), (trained / "first", trained / "maps", trained), strict=True):
        config, out = part.recipe.predictor, tmp_path / part.name
        photographs = load_photographs(photos, part.recipe.data.validation_share, config.crop)
        train_predictor(part.recipe, photographs, out, start=start)
        start = start_from(new_predictor(config), out)
        assert all(torch.equal(tensor, averages(done)[name]) for name, tensor in averages(out).items())
    (*_, before, last) = start.runs
    assert (before["trained"], before["seed"], last["trained"], last["seed"]) == ("decoder", 6, "competition", 7)


def test_the_scorer_is_taught_on_the_last_part_and_the_weights_know_all(
    trained: Path, train: Callable[..., int], tmp_path: Path
) -> None:
    assert train("scorer", tmp_path / "scorer", "--predictor", trained) == 0
    loss_fn = RelationalLoss(tmp_path / "scorer" / "weights")
    assert float(loss_fn(*torch.rand(2, 1, 3, 32, 32))) > 0
    provenance = json.loads((tmp_path / "scorer" / "weights" / "config.json").read_text())["provenance"]
    assert [run["trained"] for run in provenance["earlier_runs"]] == ["all", "decoder"]
    assert (provenance["recipe"]["seed"], provenance["recipe"]["predictor"]["trained"]) == (7, "competition")


def test_the_weights_are_measured_where_test_photographs_are_named_and_written_again_on_resuming(
    trained: Path,
    train: Callable[..., int],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release, "BANK", [by_name("darken"), by_name("luma_noise")])
    out = tmp_path / "scorer"
    options = ["--predictor", trained, "--test", photos, "--source", "Mine=CC0", "--note", "a trial", "--name", "tiny"]
    assert train("scorer", out, *options) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "evaluation.json").read_text())
    assert set(printed["per_operator"]) == {"darken", "luma_noise"} and printed["photographs"] == 6
    written = {path.name: path.read_bytes() for path in (out / "weights").iterdir()}
    card, provenance = written["README.md"].decode(), json.loads(written["config.json"])["provenance"]
    assert "# tiny\n" in card and "- Mine: CC0" in card and "localisation" in card.lower()
    assert provenance["notes"] == ["a trial"] and provenance["sources"] == [["Mine", "CC0"]]
    # A finished run has no step left to draw tiers for.
    shutil.rmtree(out / "weights")
    monkeypatch.setattr(scorer_stage, "start_at_scale", None)
    assert train("scorer", out, *options, "--resume") == 0
    again = {path.name: path.read_bytes() for path in (out / "weights").iterdir()}
    assert {name: again[name] for name in again if name != "README.md"} == {
        name: written[name] for name in written if name != "README.md"
    }
    monkeypatch.undo()
    further = ["--predictor", trained, "--scorer-from", out / "weights"]
    assert train("scorer", tmp_path / "further", *further) == 0
    config = json.loads((tmp_path / "further" / "weights" / "config.json").read_text())
    assert (
        config["provenance"]["earlier_scorer_runs"] and config["files"] != json.loads(written["config.json"])["files"]
    )


MINE = """
from relqa_loss.distortions import Distortion


def fog(images, share, generator):
    share = share.to(images).view(-1, 1, 1, 1)
    return images * (1 - share) + share


DISTORTIONS = [Distortion("fog", "tone", {"contrast": -1.0}, span=(0.02, 0.6), apply=fog)]
"""


def test_operators_of_ones_own_come_from_a_file_and_are_told_of(
    train: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    mine = tmp_path / "mine_for_this_test.py"
    mine.write_text(MINE)
    run, scorer = tmp_path / "run", tmp_path / "scorer"
    workers = ["--further", mine, "--set", "predictor.workers=1"]
    assert train("predictor", run, *workers) == 0
    assert train("predictor", run, "--resume") == 1
    assert "other operators of your own" in capsys.readouterr().err
    assert train("scorer", scorer, *workers, "--predictor", run) == 0
    config = json.loads((scorer / "weights" / "config.json").read_text())
    assert config["provenance"]["further_operators"] == ["fog"]
    assert all(one["further_operators"] == ["fog"] for one in config["provenance"]["earlier_runs"])
    card = (scorer / "weights" / "README.md").read_text()
    assert card.count("also on `fog`") == 3
    for name, text, message in (
        ("json.py", MINE, "must have a name that no other module has"),
        ("wave.py", MINE, "must have a name that no other module has"),
        ("empty_for_this_test.py", "", "must hold a list DISTORTIONS"),
        ("no-module.py", MINE, "must be a Python file that can be imported"),
    ):
        (tmp_path / name).write_text(text)
        assert train("predictor", tmp_path / "none", "--further", tmp_path / name) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_run_that_was_interrupted_goes_on_where_it_was(
    trained: Path, tiny_parts: Path, photos: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if (progress.stage, progress.step) in cuts:
            cuts.remove((progress.stage, progress.step))
            raise InterruptedError

    cuts = [("maps, predictor", 2), ("settled, pairs", 1), ("settled, predictor", 2)]
    arguments = load_parts(tiny_parts), photos, tmp_path / "cut"
    with pytest.raises(InterruptedError):
        train_parts(*arguments, device=CPU, progress=interrupt)
    before = (tmp_path / "cut" / "first" / CHECKPOINT).stat()
    while cuts:
        with pytest.raises(InterruptedError):
            train_parts(*arguments, resume=True, device=CPU, progress=interrupt)
    told: list[Progress] = []
    train_parts(*arguments, resume=True, device=CPU, progress=told.append)
    assert (tmp_path / "cut" / "first" / CHECKPOINT).stat() == before
    assert [(one.stage, one.step) for one in told] == [("settled, predictor", 2), ("settled, predictor", 3)]
    for of in ("maps", ""):
        whole = averages(trained / of)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in averages(tmp_path / "cut" / of).items())


def test_sigterm_in_the_last_step_of_a_part_begins_no_other(tiny_parts: Path, photos: Path, tmp_path: Path) -> None:
    def terminate(progress: Progress) -> None:
        if progress.step == progress.steps:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match=r"at step 4 of 4, checkpoint written: resume to go on \(part 'first'\)"):
        train_parts(load_parts(tiny_parts), photos, tmp_path, device=CPU, progress=terminate)
    assert [entry.name for entry in tmp_path.iterdir()] == ["first"]


def test_a_folder_that_is_not_of_these_parts_is_refused_before_anything_is_trained(
    trained: Path, train: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.rmtree(trained / "first")
    assert train("predictor", trained) != 0
    assert f"{trained / 'maps'} already holds a run; resume it or choose another folder" in capsys.readouterr().err
    assert train("predictor", trained, "--resume") != 0
    wanted = (
        f"{trained / 'maps'} holds a run, and {trained / 'first'}, from which this recipe would start it, holds none"
    )
    assert wanted in capsys.readouterr().err
    shutil.rmtree(trained / "maps")
    assert train("scorer", tmp_path / "scorer", "--predictor", trained) != 0
    assert f"no {CHECKPOINT} in {trained / 'maps'}" in capsys.readouterr().err
    (trained / CHECKPOINT).unlink()
    assert train("predictor", trained) != 0  # the pairs are still there
    assert f"{trained} already holds a run" in capsys.readouterr().err
    assert not (trained / "first").exists()


def test_what_no_part_could_be_trained_on_is_refused_before_anything_is_trained(
    tiny_parts: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, error: type[Exception] = ValueError, **overrides: str) -> None:
        parts = load_parts(tiny_parts, {key.replace("__", "."): value for key, value in overrides.items()})
        with pytest.raises(error, match=message):
            train_parts(parts, photos, tmp_path / "run", device=CPU)
        assert not (tmp_path / "run").exists()

    refused("no photograph to train part 'settled' on: it takes crops of 64 .*has 56", settled__predictor__crop="64")
    with monkeypatch.context() as patch:
        patch.setattr("relqa_loss.training.parts.current", lambda: Ranks(0, 2))
        refused("batch must be a multiple of the number of processes, 2, got 3", settled__predictor__batch="3")
    monkeypatch.setattr(availability, "has_codec", lambda codec: False)
    every_codec = json.dumps([one.name for one in BANK if one.codec])
    refused("codec", MissingExtra, data__held_out=every_codec, settled__data__held_out="[]")
