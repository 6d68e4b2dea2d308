"""`RelationalLoss` to a folder or the Hub and back; the Hub is a fake here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
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


def test_altered_weights_are_refused(saved: Path) -> None:
    path = saved / "scorer.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ValueError, match=r"scorer\.safetensors.*damaged"):
        RelationalLoss(saved)


class FakeHub:
    """Stands for `huggingface_hub.HfApi`; remembers what it was asked to do."""

    def __init__(self) -> None:
        self.token: str | None = None
        self.created: list[tuple[str, bool | None]] = []
        self.uploads: list[dict[str, Any]] = []

    def __call__(self, token: str | None = None) -> FakeHub:
        self.token = token
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        assert exist_ok
        self.created.append((repo_id, private))

    def upload_folder(self, *, repo_id: str, folder_path: str, revision: str | None, commit_message: str) -> object:
        files = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in Path(folder_path).rglob("*")}
        self.uploads.append({"repo_id": repo_id, "files": files, "revision": revision, "message": commit_message})
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")


def test_push_to_hub_uploads_exactly_the_files_of_the_folder(
    loss_fn: RelationalLoss, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    address = loss_fn.push_to_hub("me/mine", private=True, token="secret", revision="draft", commit_message="First")
    assert address == "https://hub.example/me/mine/commit/1"
    assert hub.token == "secret"
    assert hub.created == [("me/mine", True)]
    (upload,) = hub.uploads
    assert (upload["repo_id"], upload["revision"], upload["message"]) == ("me/mine", "draft", "First")
    assert upload["files"] == contents(saved)


@pytest.mark.parametrize(
    ("arguments", "revision"),
    [
        ({"name_or_path": "me/mine"}, None),
        ({"name_or_path": "me/mine@v2"}, "v2"),
        ({"name_or_path": "me/mine", "revision": "v2"}, "v2"),
    ],
    ids=["no revision", "in the name", "as an argument"],
)
def test_from_pretrained_asks_the_hub_for_the_revision(
    saved: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str], revision: str | None
) -> None:
    asked = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision, set(allow_patterns)))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    RelationalLoss.from_pretrained(**arguments)
    assert asked == [("me/mine", revision, FILES | {FIGURE})]


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
