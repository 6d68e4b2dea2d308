"""The selection study: what counts as choosing with the jury, and the command that trains, measures and prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from relqa_loss.cli import main
from relqa_loss.images import write_image
from relqa_loss.restoration.restorers import L1, Plan, train
from relqa_loss.restoration.selection_study import study

PHOTOGRAPHS, CHECKPOINTS = 12, 6
JURY = ("first", "second", "third")


def runs(**noise: float) -> dict[str, dict[str, dict[str, Sequence[float]]]]:
    """Two runs whose checkpoint k is truly k bad; every measure sees that through noise of its own."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, dict[str, Sequence[float]]]] = {}
    for run in ("one", "two"):
        found[run] = {
            f"step {k}": {name: list(k + sigma * rng.normal(size=PHOTOGRAPHS)) for name, sigma in noise.items()}
            for k in range(CHECKPOINTS)
        }
    return found


def test_who_sees_clearly_sides_with_the_jury_more_often() -> None:
    table = runs(RelationalLoss=0.1, L1=20.0, PSNR=20.0, first=0.1, second=0.1, third=30.0)
    report = study(table, ["RelationalLoss", "L1", "PSNR"], JURY, draws=200)
    assert report["pairs"] == 2 * 2 * 15
    ours, theirs = report["choosers"]["RelationalLoss"], report["choosers"]["L1"]
    assert ours["agreement"]["value"] == ours["picked"]["value"] == 1.0
    assert 0.3 < theirs["agreement"]["value"] < 0.8 and theirs["agreement"]["lead"]["low"] > 0
    assert theirs["agreement"]["verdict"] == "better" and report["goal"]["reached"]
    assert theirs["disputed"]["pairs"] == round((1 - theirs["agreement"]["value"]) * 60)
    assert theirs["disputed"]["ours"]["value"] == 1.0
    assert ours["by_juror"]["first"]["value"] == 1.0 > ours["by_juror"]["third"]["value"]
    assert 0.2 < report["unanimous"] < 0.9 and ours["unanimous"]["value"] == 1.0
    assert ours["decided"] == {"share": 1.0, "agreement": 1.0}
    assert theirs["decided"]["share"] < 0.3


def test_the_goal_is_short_where_a_rival_sees_as_clearly() -> None:
    table = runs(RelationalLoss=0.1, L1=0.1, PSNR=9.0, first=0.1)
    report = study(table, ["RelationalLoss", "L1", "PSNR"], ["first"], draws=100)
    assert report["goal"]["rivals"]["L1"] == "tie" and not report["goal"]["reached"]
    assert report["choosers"]["L1"]["disputed"] == {"pairs": 0, "ours": {"value": None, "low": None, "high": None}}


def test_choices_and_verdicts_come_from_different_halves() -> None:
    # On even photographs every measure says that the first is better, on odd ones the second: none agrees with any.
    flips = [float(k % 2) for k in range(PHOTOGRAPHS)]
    turned = [1 - value for value in flips]
    table = {
        "run": {"a": dict.fromkeys(("RelationalLoss", "j"), flips), "b": dict.fromkeys(("RelationalLoss", "j"), turned)}
    }
    report = study(table, ["RelationalLoss"], ["j"], draws=10)
    assert report["choosers"]["RelationalLoss"]["agreement"]["value"] == 0.0
    assert report["choosers"]["RelationalLoss"]["picked"]["value"] == 0.0


def test_a_chooser_that_cannot_tell_is_half_right() -> None:
    table = runs(RelationalLoss=0.1, j=0.1)
    for one in table.values():
        for row in one.values():
            row["blind"] = [1.0] * PHOTOGRAPHS
    blind = study(table, ["RelationalLoss", "blind"], ["j"], draws=10)["choosers"]["blind"]
    assert blind["agreement"]["value"] == 0.5 and blind["decided"] == {"share": 0.0, "agreement": None}


def test_too_little_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 photographs, got 3"):
        study({"run": {"a": {"RelationalLoss": [1.0] * 3}}}, ["RelationalLoss"], ["RelationalLoss"])
    for table, jury in ((runs(RelationalLoss=1.0), []), ({"run": {"a": {"RelationalLoss": [1.0] * 4}}}, ["x"])):
        with pytest.raises(ValueError, match="at least one juror, and two checkpoints"):
            study(table, ["RelationalLoss"], jury)


def test_checkpoints_along_the_way_are_those_of_the_run(make_photos: Callable[..., Tensor], tmp_path: Path) -> None:
    photographs = [(photo * 255).round().to(torch.uint8) for photo in make_photos(3, 48, 56)]
    plan = Plan(start_steps=3, steps=2, batch=1, crop=32)

    def trained(folder: str, along: Sequence[int], said: list[str] | None = None) -> dict[str, Tensor]:
        made = train(
            "denoise", 0, {L1: None}, photographs, plan, tmp_path / folder,
            digest="some", weights={}, distance="", along=along, progress=None if said is None else said.append,
        )  # fmt: skip
        return {name: one.model.tail.weight for name, one in made.items()}

    plain, watched = trained("plain", ()), trained("watched", (1, 2))
    assert list(plain) == [L1]
    assert list(watched) == ["start after 1 steps", "start after 2 steps", "start", f"{L1} after 1 steps", L1]
    assert torch.equal(plain[L1], watched[L1])
    weights = list(watched.values())
    assert not any(torch.equal(a, b) for k, a in enumerate(weights) for b in weights[k + 1 :])
    said: list[str] = []
    again = trained("watched", (1, 2), said)
    assert said == [] and all(torch.equal(again[name], watched[name]) for name in watched)
    # A checkpoint is missing: the others are read, not written over with those of another run.
    (tmp_path / "watched" / "denoise-0-start-after-1-steps.pt").unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "watched").iterdir()}
    plan = replace(plan, batch=2)
    with pytest.raises(ValueError, match=r"denoise-0-start\S* was trained with other settings"):
        trained("watched", (1, 2))
    assert {path.name: path.read_bytes() for path in (tmp_path / "watched").iterdir()} == before


def test_command_trains_measures_and_prints(
    capsys: pytest.CaptureFixture[str], make_photos: Callable[..., Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("piq")
    for index, photo in enumerate(make_photos(4, 48, 56)):
        write_image(tmp_path / "photos" / f"{index}.png", photo)
    options = {
        "--data": tmp_path / "photos", "--test": tmp_path / "photos", "--out": tmp_path / "runs", "--tasks": "denoise",
        "--losses": f"{L1};L1 + RelationalLoss", "--start-steps": 2, "--steps": 1, "--every": 1, "--crop": 32,
        "--batch": 1, "--test-crop": 32, "--jury": "gmsd", "--json": tmp_path / "out.json",
    }  # fmt: skip
    arguments = ["benchmark", "selection", *(str(part) for option in options.items() for part in option)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "chosen by" in printed and "goal (better than validation L1 and PSNR by the intervals): " in printed
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["choosers"]) == {"RelationalLoss", "L1", "PSNR", "SSIM"} and report["pairs"] == 2 * 6
    (names,) = report["checkpoints"].values()
    assert names == ["start after 1 steps", "start", L1, "L1 + RelationalLoss"]
    assert report["photographs"] == 4 and report["jury"] == ["gmsd"]
    assert main([*arguments, "--jury", "psnr"]) == 2 and "choose nothing, got psnr" in capsys.readouterr().err
    (tmp_path / "photos" / "3.png").unlink()
    assert main([*arguments, "--out", str(tmp_path / "other")]) == 1
    assert "at least 4 photographs, got 3" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
