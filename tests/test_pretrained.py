"""`RelationalLoss` to a folder and back."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from relqa_loss import RelationalLoss, weights

PairMaker = Callable[..., tuple[Tensor, Tensor]]
FIGURE = "failures.webp"
FILES = {"config.json", "predictor.safetensors", "scorer.safetensors", "README.md"}


def files_of(loss: RelationalLoss) -> set[str]:
    return FILES if loss.card_figure is None else FILES | {FIGURE}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def saved(loss_fn: RelationalLoss, tmp_path: Path) -> Path:
    return loss_fn.save_pretrained(tmp_path / "weights")


def test_round_trip_through_a_folder_gives_the_same_values(
    loss_fn: RelationalLoss, saved: Path, make_pair: PairMaker
) -> None:
    again = RelationalLoss.from_pretrained(saved)
    for name in ("distance", "maps", "score"):
        assert torch.equal(getattr(again.relate(*make_pair()), name), getattr(loss_fn.relate(*make_pair()), name))
    assert again.info()["files"] == weights.load(saved).sha256


def test_saving_twice_gives_the_same_bytes(loss_fn: RelationalLoss, saved: Path, tmp_path: Path) -> None:
    other = RelationalLoss(saved).save_pretrained(tmp_path / "other")
    assert {path.name for path in saved.iterdir()} == files_of(loss_fn)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == contents(saved)


def test_a_figure_of_the_card_is_carried_along_and_none_is_no_harm(saved: Path, tmp_path: Path) -> None:
    (saved / FIGURE).write_bytes(b"figure")
    copied = RelationalLoss(saved).save_pretrained(tmp_path / "with")
    assert contents(copied) == contents(saved)
    (saved / FIGURE).unlink()
    copied = RelationalLoss(saved).save_pretrained(tmp_path / "with")
    assert {path.name for path in copied.iterdir()} == FILES


def test_model_card_and_provenance_survive(loss_fn: RelationalLoss, saved: Path) -> None:
    assert (saved / "README.md").read_text() == loss_fn.model_card
    assert RelationalLoss(saved).info()["provenance"] == loss_fn.info()["provenance"]


def test_settings_are_passed_on_by_from_pretrained(saved: Path, make_pair: PairMaker) -> None:
    settings: dict[str, Any] = {"reduction": "none", "data_range": (-1.0, 1.0), "axis_weights": {"blur": 3.0}}
    loss = RelationalLoss.from_pretrained(saved, **settings)
    assert torch.equal(loss(*make_pair()), RelationalLoss(saved, **settings)(*make_pair()))
    assert loss(*make_pair()).shape == (2,)


def test_a_cast_loss_saves_the_weights_it_was_loaded_from(
    loss_fn64: RelationalLoss, saved: Path, tmp_path: Path
) -> None:
    folder = loss_fn64.save_pretrained(tmp_path / "cast")
    assert weights.load(folder).sha256 == weights.load(saved).sha256


@pytest.mark.parametrize("how", ["cast", "loaded"])
def test_weights_that_are_no_longer_those_of_the_card_are_saved_without_its_figures(
    loss_fn: RelationalLoss, tmp_path: Path, how: str
) -> None:
    changed = copy.deepcopy(loss_fn)
    if how == "cast":
        changed.bfloat16()
    else:
        changed.load_state_dict({name: 1.01 * tensor for name, tensor in loss_fn.state_dict().items()})
    again = RelationalLoss(changed.save_pretrained(tmp_path / "weights"))
    assert again.model_card is not None and again.model_card != loss_fn.model_card
    assert again.card_figure is None
    before, after = loss_fn.info()["provenance"], again.info()["provenance"]
    (*_, note) = after["notes"]
    assert note.startswith("Changed after this training: the tensors are not those of predictor.safetensors ")
    assert after == before | {"notes": [*before.get("notes", []), note]}


def test_altered_weights_are_refused(saved: Path) -> None:
    path = saved / "scorer.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ValueError, match=r"scorer\.safetensors.*damaged"):
        RelationalLoss(saved)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_default_dtype_does_not_reach_the_loss(saved: Path, dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        loss_fn = RelationalLoss(saved)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in (*loss_fn.parameters(), *loss_fn.buffers())} == {torch.float32}


def test_a_default_device_does_not_empty_the_loss(saved: Path) -> None:
    with torch.device("meta"):
        loss_fn = RelationalLoss(saved)
    assert {tensor.device.type for tensor in (*loss_fn.parameters(), *loss_fn.buffers())} == {"cpu"}


def test_building_a_loss_leaves_the_random_state_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    RelationalLoss(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_a_section_that_does_not_fit_is_one_error(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    config["predictor"]["depth"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json does not fit DistortionPredictor: .*depth"):
        RelationalLoss(folder)
