"""A recipe of several parts, trained by the command line, beside the same parts one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from relqa_loss import RelationalLoss
from relqa_loss.cli import main
from relqa_loss.images import write_image
from relqa_loss.training.data import load_photographs
from relqa_loss.training.distributed import Ranks
from relqa_loss.training.loop import CHECKPOINT, METRICS, Progress
from relqa_loss.training.parts import train_parts
from relqa_loss.training.predictor_stage import new_predictor, train_predictor
from relqa_loss.training.recipe_toml import load_parts
from relqa_loss.training.start import start_from


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


def test_a_run_that_was_interrupted_goes_on_where_it_was(
    trained: Path, tiny_parts: Path, photos: Path, tmp_path: Path
) -> None:
    class Interruption(Exception):
        pass

    def interrupt(progress: Progress) -> None:
        seen.append((progress.stage, progress.steps))
        if progress.step == 2 and progress.steps == 3:  # of the maps
            raise Interruption

    seen: list[tuple[str, int]] = []
    arguments = load_parts(tiny_parts), photos, tmp_path / "cut"
    with pytest.raises(Interruption):
        train_parts(*arguments, device=torch.device("cpu"), progress=interrupt)
    assert not (tmp_path / "cut" / CHECKPOINT).exists()
    before = (tmp_path / "cut" / "first" / CHECKPOINT).stat()
    told: list[Progress] = []
    train_parts(*arguments, resume=True, device=torch.device("cpu"), progress=told.append)
    assert (tmp_path / "cut" / "first" / CHECKPOINT).stat() == before
    assert told[0].steps == 3 and told[0].step == 2
    for of in ("maps", ""):
        whole = averages(trained / of)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in averages(tmp_path / "cut" / of).items())


def test_what_would_be_refused_later_is_refused_at_once(
    trained: Path, train: Callable[..., int], tiny_parts: Path, photos: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    (trained / "first" / CHECKPOINT).unlink()
    assert train("predictor", trained) != 0
    assert f"{trained / 'maps'} already holds a run; resume it or choose another folder" in capsys.readouterr().err
    assert not (trained / "first" / CHECKPOINT).exists()
    monkeypatch.setattr("relqa_loss.training.parts.current", lambda: Ranks(0, 2))
    parts = load_parts(tiny_parts, {"settled.predictor.batch": "3"})
    with pytest.raises(ValueError, match="batch must be a multiple of the number of processes, 2, got 3"):
        train_parts(parts, photos, tmp_path / "odd", device=torch.device("cpu"))
    assert not (tmp_path / "odd").exists()
