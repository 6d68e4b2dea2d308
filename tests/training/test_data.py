from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from relqa_loss.images import write_image
from relqa_loss.training.data import batches, load_photographs, random_crops, seeded

PhotoMaker = Callable[..., Tensor]


@pytest.fixture
def folder(tmp_path: Path, make_photos: PhotoMaker) -> Path:
    for index, photo in enumerate(make_photos(8, 40, 56)):
        write_image(tmp_path / "photos" / f"{index}.png", photo)
    return tmp_path / "photos"


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


# --- photographs


def test_photographs_are_read_as_8_bit_and_split(folder: Path) -> None:
    photographs = load_photographs(folder, validation_share=0.5, smallest_side=32)
    assert len(photographs.training) + len(photographs.validation) == 8
    assert photographs.training
    assert photographs.validation
    assert photographs.skipped == ()
    assert all(p.dtype == torch.uint8 and p.shape == (3, 40, 56) for p in photographs.training)


def test_split_depends_on_a_photographs_own_name_only(folder: Path, make_photos: PhotoMaker) -> None:
    before = load_photographs(folder, 0.5, 32)
    (folder / "0.png").unlink()
    write_image(folder / "deeper" / "z.png", make_photos(1, 40, 56, seed=5)[0])
    after = load_photographs(folder, 0.5, 32)

    def shared(photographs: list[Tensor], others: list[Tensor]) -> int:
        return sum(any(torch.equal(a, b) for b in others) for a in photographs)

    assert shared(before.training, after.validation) == shared(before.validation, after.training) == 0
    assert shared(before.training, after.training) + shared(before.validation, after.validation) == 7
    assert len(after.training) + len(after.validation) == 8


def test_a_larger_share_only_adds_to_the_validation_photographs(folder: Path) -> None:
    few, many = load_photographs(folder, 0.3, 32), load_photographs(folder, 0.7, 32)
    assert len(few.validation) < len(many.validation)
    assert all(any(torch.equal(photo, other) for other in many.validation) for photo in few.validation)


def test_no_photograph_is_trained_and_validated_on(folder: Path) -> None:
    photographs = load_photographs(folder, 0.0, 32)
    assert len(photographs.training) == 8
    assert photographs.validation == []


def test_files_that_cannot_be_used_are_skipped_and_named(folder: Path, make_photos: PhotoMaker) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    write_image(folder / "tiny.png", make_photos(1, 20, 90)[0])
    photographs = load_photographs(folder, 0.5, 32)
    assert len(photographs.training) + len(photographs.validation) == 8
    assert [name for name, _ in photographs.skipped] == ["broken.png", "tiny.png"]
    assert "smaller than 32x32 pixels" in photographs.skipped[1][1]


def test_digest_depends_on_names_and_contents(folder: Path, make_photos: PhotoMaker) -> None:
    first = load_photographs(folder, 0.5, 32).digest
    assert load_photographs(folder, 0.1, 16).digest == first
    write_image(folder / "3.png", make_photos(1, 40, 56, seed=8)[0])
    second = load_photographs(folder, 0.5, 32).digest
    (folder / "3.png").rename(folder / "33.png")
    third = load_photographs(folder, 0.5, 32).digest
    assert len({first, second, third}) == 3


def test_folder_without_a_usable_photograph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no photograph in folder"):
        load_photographs(tmp_path, 0.1, 32)
    with pytest.raises(ValueError, match="not there"):
        load_photographs(tmp_path / "missing", 0.1, 32)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no photograph to train on \(1 left out, the first: broken\.png"):
        load_photographs(tmp_path, 0.1, 32)


# --- crops


def test_crops_have_the_asked_shape_and_range(folder: Path) -> None:
    photographs = load_photographs(folder, 0.0, 32).training
    crops = random_crops(photographs, 6, 32, 0.6, seeded(1, 2))
    assert crops.shape == (6, 3, 32, 32)
    assert crops.dtype == torch.float32
    assert 0 <= crops.min()
    assert crops.max() <= 1
    assert (crops.std(dim=(1, 2, 3)) > 0.02).all()


def test_crops_are_a_function_of_the_generator(folder: Path) -> None:
    photographs = load_photographs(folder, 0.0, 32).training
    first = random_crops(photographs, 4, 32, 0.6, seeded(1, 2))
    assert torch.equal(first, random_crops(photographs, 4, 32, 0.6, seeded(1, 2)))
    assert not torch.equal(first, random_crops(photographs, 4, 32, 0.6, seeded(1, 3)))


def test_crops_at_full_scale_are_pixels_of_the_photograph(folder: Path) -> None:
    photo = load_photographs(folder, 0.0, 32).training[0]
    windows = photo.unfold(1, 32, 1).unfold(2, 32, 1).float() / 255
    for crop in random_crops([photo], 4, 32, 1.0, seeded(5)):
        found = [(windows == c[:, None, None]).flatten(3).all(dim=3).all(dim=0).any() for c in (crop, crop.flip(2))]
        assert any(found)


def test_a_photograph_of_exactly_the_crop_size_will_do(make_photos: PhotoMaker) -> None:
    photo = (make_photos(1, 32, 32)[0] * 255).to(torch.uint8)
    assert random_crops([photo], 3, 32, 0.5, seeded(1)).shape == (3, 3, 32, 32)


def test_flat_photographs_do_not_hang_the_search() -> None:
    flat = torch.full((3, 40, 40), 90, dtype=torch.uint8)
    assert random_crops([flat], 2, 32, 0.6, seeded(1)).std() == pytest.approx(0, abs=1e-6)


def test_textured_crops_are_preferred_to_flat_ones(make_photos: PhotoMaker) -> None:
    flat = torch.full((3, 40, 40), 90, dtype=torch.uint8)
    textured = (make_photos(1, 40, 40)[0] * 255).to(torch.uint8)
    crops = random_crops([flat, textured], 64, 32, 1.0, seeded(1))
    assert (crops.std(dim=(1, 2, 3)) > 0.02).float().mean() > 0.9


def test_neighbouring_seeds_share_nothing() -> None:
    draws = {float(torch.rand((), generator=seeded(seed, step))) for seed in range(4) for step in range(4)}
    assert len(draws) == 16
    assert float(torch.rand((), generator=seeded(1, 23))) != float(torch.rand((), generator=seeded(12, 3)))


# --- batches


def step_and_draw(step: int) -> Tensor:
    return torch.cat([torch.tensor([float(step)]), torch.rand(3, generator=seeded(4, step))])


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_order_whatever_the_number_of_workers(workers: int) -> None:
    expected = [step_and_draw(step) for step in range(2, 6)]
    before = torch.random.get_rng_state()
    assert same(list(batches(step_and_draw, range(2, 6), workers)), expected)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_left_to_do_after_the_last_step() -> None:
    assert list(batches(step_and_draw, range(6, 6), 0)) == []
