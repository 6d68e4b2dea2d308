from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor, nn

from relqa_loss import weights

CONFIG = {"channels": 4, "names": ["a", "b"]}


def example_tensors() -> dict[str, Tensor]:
    return nn.Conv2d(3, 4, 3).state_dict()


def write_example(folder: Path, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "predictor": example_tensors(),
        "predictor_config": CONFIG,
        "scorer": {"w": torch.arange(5.0)},
        "scorer_config": {"depth": 2},
        "provenance": {"recipe": "small", "seed": 7},
    } | changes
    weights.save(folder, **arguments)
    return arguments


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / weights.CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = write_example(tmp_path)
    loaded = weights.load(tmp_path)
    assert loaded.config["predictor"] == CONFIG
    assert loaded.config["scorer"] == {"depth": 2}
    assert loaded.config["provenance"] == {"recipe": "small", "seed": 7}
    assert loaded.folder == tmp_path
    for section in ("predictor", "scorer"):
        tensors = getattr(loaded, section)
        assert tensors.keys() == saved[section].keys()
        assert all(torch.equal(tensors[key], saved[section][key]) for key in tensors)
    for name, digest in loaded.sha256.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_save_leaves_the_four_files_and_nothing_else(tmp_path: Path) -> None:
    write_example(tmp_path / "deep" / "folder")
    assert sorted(os.listdir(tmp_path / "deep" / "folder")) == sorted(weights.FILES)


def test_a_figure_is_saved_beside_the_card_and_goes_with_the_weights_it_belongs_to(tmp_path: Path) -> None:
    write_example(tmp_path, figure=b"of these weights")
    assert (tmp_path / weights.FIGURE_FILE).read_bytes() == b"of these weights"
    assert weights.load(tmp_path).config["files"].keys() == {weights.PREDICTOR_FILE, weights.SCORER_FILE}
    write_example(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(weights.FILES)


def test_a_new_card_leaves_the_rest_of_the_folder_as_it_is(tmp_path: Path) -> None:
    write_example(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    weights.save_card(tmp_path, "# Grün\n", b"figure")
    card = {weights.CARD_FILE: "# Grün\n".encode()}
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == before | card | {weights.FIGURE_FILE: b"figure"}
    weights.save_card(tmp_path, "# Later\n")  # and a figure that it does not refer to goes
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before | {weights.CARD_FILE: b"# Later\n"}


def test_save_writes_safetensors_metadata(tmp_path: Path) -> None:
    write_example(tmp_path)
    with safetensors.safe_open(tmp_path / weights.SCORER_FILE, "pt") as file:
        assert file.metadata() == {"format": "pt", "relqa_loss": "0.1.0", "recipe": "small", "seed": "7"}


def test_save_keeps_a_given_card_and_claims_no_figures_without_one(tmp_path: Path) -> None:
    write_example(tmp_path, card="# Measured: grün\n")
    assert (tmp_path / weights.CARD_FILE).read_text(encoding="utf-8") == "# Measured: grün\n"
    write_example(tmp_path)
    assert "No figures have been measured" in (tmp_path / weights.CARD_FILE).read_text(encoding="utf-8")


def test_save_takes_views_and_shared_memory(tmp_path: Path) -> None:
    grid = torch.arange(12.0).reshape(3, 4)
    write_example(tmp_path, scorer={"across": grid.T, "down": grid})
    loaded = weights.load(tmp_path).scorer
    assert torch.equal(loaded["across"], grid.T)
    assert torch.equal(loaded["down"], grid)


def test_save_is_repeatable_bit_for_bit_across_processes(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from relqa_loss import weights; weights.save(sys.argv[1], predictor={'a': torch.ones(3)},"
        "predictor_config={}, scorer={'b': torch.zeros(2, 2)}, scorer_config={},"
        "provenance={k: k for k in 'pqrstuvwxyz'})"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    for name in weights.FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.parametrize("bad", [{"depth": object()}, {"depth": float("nan")}])
def test_save_refuses_what_json_cannot_hold_and_writes_nothing(tmp_path: Path, bad: dict[str, Any]) -> None:
    write_example(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in weights.FILES}
    with pytest.raises((TypeError, ValueError), match="JSON"):
        write_example(tmp_path, scorer={"w": torch.ones(1)}, scorer_config=bad)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("stop_before", weights.FILES)
def test_an_interrupted_save_is_never_a_silent_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_before: str
) -> None:
    write_example(tmp_path)
    replace = os.replace

    def failing_replace(source: Path, target: Path) -> None:
        if Path(target).name == stop_before:
            raise OSError("power cut")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing_replace)
    with pytest.raises(OSError, match="power cut"):
        write_example(
            tmp_path,
            predictor={key: value + 1 for key, value in example_tensors().items()},
            scorer={"w": torch.arange(5.0) + 1},
            scorer_config={"depth": 3},
        )
    assert sorted(os.listdir(tmp_path)) == sorted(weights.FILES)
    try:
        loaded = weights.load(tmp_path)
    except ValueError:
        return
    assert loaded.config["scorer"] == {"depth": 2}
    assert torch.equal(loaded.scorer["w"], torch.arange(5.0))


def test_a_save_onto_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_example(tmp_path, figure=b"figure")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == weights.CONFIG_FILE:
            raise OSError("No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_example(tmp_path, scorer={"w": torch.arange(5.0) + 1})
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("name", [weights.PREDICTOR_FILE, weights.SCORER_FILE])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_load_refuses_a_damaged_file_by_name(tmp_path: Path, name: str, damage: str) -> None:
    write_example(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(ValueError, match=name):
        weights.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"format_version": 7}', b'{"format_version": 6}']
)
def test_load_refuses_a_bad_config_by_name(tmp_path: Path, content: bytes) -> None:
    write_example(tmp_path)
    (tmp_path / weights.CONFIG_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=weights.CONFIG_FILE):
        weights.load(tmp_path)


@pytest.mark.parametrize("section", ["predictor", "scorer", "files"])
def test_load_names_a_missing_section(tmp_path: Path, section: str) -> None:
    write_example(tmp_path)
    edit_config(tmp_path, **{section: None})
    with pytest.raises(ValueError, match=f"config.json lacks the section '{section}'"):
        weights.load(tmp_path)


def test_load_refuses_a_file_without_digest(tmp_path: Path) -> None:
    write_example(tmp_path)
    edit_config(tmp_path, files={})
    with pytest.raises(ValueError, match=r"predictor\.safetensors has no sha256"):
        weights.load(tmp_path)


def test_load_refuses_other_formats_even_with_the_right_digest(tmp_path: Path) -> None:
    write_example(tmp_path)
    torch.save({"w": torch.ones(2)}, tmp_path / weights.SCORER_FILE)
    digests = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in (weights.PREDICTOR_FILE, weights.SCORER_FILE)
    }
    edit_config(tmp_path, files=digests)
    with pytest.raises(ValueError, match=r"scorer\.safetensors is not a safetensors file"):
        weights.load(tmp_path)


def test_load_of_an_empty_folder_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=weights.CONFIG_FILE):
        weights.load(tmp_path)


def test_load_strictly_fills_a_module() -> None:
    module = nn.Conv2d(3, 4, 3)
    tensors = {key: value + 1 for key, value in module.state_dict().items()}
    weights.load_strictly(module, tensors, "predictor.safetensors")
    assert all(torch.equal(module.state_dict()[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "missing bias"),
        ({"extra": torch.ones(1)}, "unexpected extra"),
        ({"bias": torch.ones(5)}, r"bias is float32 \(5,\), needs float32 \(4,\)"),
        ({"bias": torch.ones(4, dtype=torch.float64)}, r"bias is float64 \(4,\), needs float32 \(4,\)"),
    ],
)
def test_load_strictly_names_what_differs_and_changes_nothing(change: dict[str, Tensor | None], message: str) -> None:
    module = nn.Conv2d(3, 4, 3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    changed = {key: value + 1 for key, value in before.items()} | change
    tensors = {key: value for key, value in changed.items() if value is not None}
    with pytest.raises(ValueError, match=f"predictor.safetensors does not fit Conv2d: .*{message}"):
        weights.load_strictly(module, tensors, "predictor.safetensors")
    assert all(torch.equal(module.state_dict()[key], before[key]) for key in before)


def test_every_bundled_name_resolves_and_loads() -> None:
    names = weights.bundled()
    assert "relqa-v1" in names
    for name in names:
        loaded = weights.fetch(name)
        assert loaded.predictor
        assert loaded.scorer


def test_a_bundled_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "relqa-v1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert weights.resolve("relqa-v1").is_absolute()


def test_a_folder_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert weights.resolve("owner/name") == Path("owner/name")
    assert weights.resolve(tmp_path / "owner") == tmp_path / "owner"


@pytest.mark.parametrize("revision", [None, "v2", "refs/pr/3"])
def test_hub_names_carry_a_revision(revision: str | None) -> None:
    name = "owner/name" if revision is None else f"owner/name@{revision}"
    found = weights.resolve(name)
    assert found == ("owner/name", revision) and str(found) == name


@pytest.mark.parametrize("name", ["relqa-v9", "", "./nowhere", "a/b/c", "owner/name@", Path("owner/name")])
def test_an_unknown_name_lists_the_bundled_ones(name: str | Path) -> None:
    with pytest.raises(ValueError, match=r"unknown weights .*known: relqa-v1"):
        weights.resolve(name)


def test_a_near_miss_is_offered() -> None:
    with pytest.raises(ValueError, match="did you mean 'relqa-v1'"):
        weights.resolve("relqa_v1")


def test_a_wrong_type_is_named() -> None:
    with pytest.raises(TypeError, match="weights must be a str or a path, got int"):
        weights.resolve(3)  # type: ignore[arg-type]
