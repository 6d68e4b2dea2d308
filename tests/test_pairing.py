import pytest
import torch

from relqa_loss.images import write_image
from relqa_loss.pairing import misfit, pair_folders

pytest.importorskip("PIL")


def fill(folder, *names, side=16):
    for name in names:
        write_image(folder / name, torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)))


def test_folders_are_paired_by_name_whatever_the_ending(tmp_path):
    fill(tmp_path / "ref", "b.png", "a.png", "c.png")
    fill(tmp_path / "one", "a.webp", "b.tiff", "c.png", "z.png")
    fill(tmp_path / "two", "a.png", "c.png")
    found = pair_folders(tmp_path / "ref", [tmp_path / "one", tmp_path / "two"])
    assert found.names == ("a", "c")
    assert [path.name for path in found.paths[0]] == ["a.png", "a.webp", "a.png"]
    assert found.lacking == ((tmp_path / "two", ("b",)),)
    assert found.unasked == (tmp_path / "one" / "z.png",)


def test_two_files_of_one_name_are_one_clear_error(tmp_path):
    fill(tmp_path / "ref", "a.png")
    fill(tmp_path / "out", "a.png", "a.webp")
    with pytest.raises(ValueError, match=r"two photographs named 'a': a\.png and a\.webp"):
        pair_folders(tmp_path / "ref", [tmp_path / "out"])


def test_of_another_size_both_files_are_named(tmp_path):
    small, large = torch.zeros(3, 16, 20), torch.zeros(3, 20, 16)
    assert misfit(tmp_path / "a.png", small, tmp_path / "b.png", small) == ""
    reason = misfit(tmp_path / "a.png", small, tmp_path / "b.png", large)
    assert "a.png is 20x16 pixels" in reason and "b.png 16x20" in reason
