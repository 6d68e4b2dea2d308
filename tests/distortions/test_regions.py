from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from relqa_loss.distortions import REGIONS, draw_region, nested_regions, visibility, warp


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("size", [(16, 16), (64, 96), (97, 33)])
def test_regions_are_masks_of_the_right_size(kind: str, size: tuple[int, int]) -> None:
    images = torch.rand(3, 3, *size, generator=seeded())
    mask = draw_region(kind, images, seeded(1))
    assert mask.shape == (3, 1, *size)
    assert mask.min() >= 0 and mask.max() <= 1
    assert (mask.amax(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("kind", REGIONS)
def test_regions_repeat_with_the_seed_and_only_with_it(kind: str, photos: Tensor) -> None:
    first = draw_region(kind, photos, seeded(1))
    assert torch.equal(first, draw_region(kind, photos, seeded(1)))
    if kind != "whole":
        assert not torch.equal(first, draw_region(kind, photos, seeded(2)))


@pytest.mark.parametrize("kind", ["soft", "image", "shape"])
def test_regions_leave_a_part_of_the_picture_out(kind: str, photos: Tensor) -> None:
    for seed in range(5):
        mask = draw_region(kind, photos, seeded(seed))
        assert (mask == 0).float().mean() > 0.1
        assert (mask == 1).float().mean() > 0


def test_image_regions_follow_the_picture(photos: Tensor) -> None:
    # Shadows, edges and texture are on the left, highlights on the right.
    picture = torch.full((16, 3, 64, 64), 0.9)
    picture[..., :32] = 0.2 * torch.rand(16, 1, 64, 32, generator=seeded())
    mask = draw_region("image", picture, seeded(1))
    left, right = mask[..., :28].mean(dim=(1, 2, 3)), mask[..., 36:].mean(dim=(1, 2, 3))
    assert (left > 2 * right).any() and (right > 2 * left).any()
    assert ((left > 2 * right) | (right > 2 * left)).float().mean() > 0.8


def test_flat_pictures_have_finite_regions() -> None:
    assert draw_region("image", torch.full((2, 3, 32, 32), 0.5), seeded()).isfinite().all()


def test_nested_regions_hold_all_smaller_ones(photos: Tensor) -> None:
    masks = nested_regions(photos, 5, seeded(3))
    assert masks.shape == (2, 5, 1, 64, 96)
    steps = masks[:, 1:] - masks[:, :-1]
    assert (steps >= 0).all()
    assert (steps.flatten(2).sum(dim=2) > 0).all()


def test_unknown_region_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'gradient'"):
        draw_region("gradiant", torch.rand(1, 3, 16, 16), seeded())


def test_nested_regions_need_a_count() -> None:
    with pytest.raises(ValueError, match="count"):
        nested_regions(torch.rand(1, 3, 16, 16), 0, seeded())


def constant(x: float, y: float, like: Tensor) -> Tensor:
    return torch.tensor([x, y]).view(1, 2, 1, 1).expand(like.shape[0], 2, *like.shape[-2:]).to(like)


@pytest.mark.parametrize(("x", "y"), [(3, 0), (-2, 0), (0, 4), (-1, -5)])
def test_warp_moves_content_by_the_displacement(x: int, y: int, photos: Tensor) -> None:
    moved = warp(photos, constant(x, y, photos))
    expected = torch.roll(photos, (y, x), dims=(2, 3))
    inner = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(moved[inner], expected[inner], atol=2e-5, rtol=0)


def test_warp_leaves_what_rests_bitwise_untouched(photos: Tensor) -> None:
    displacement = constant(1.5, 0.0, photos).clone()
    displacement[0] = 0
    displacement[1, :, :, :40] = 0
    moved = warp(photos, displacement)
    assert torch.equal(moved[0], photos[0])
    assert torch.equal(moved[1, :, :, :40], photos[1, :, :, :40])
    assert not torch.equal(moved[1, :, :, 40:], photos[1, :, :, 40:])


def test_warp_wants_a_displacement_of_the_size_of_the_images(photos: Tensor) -> None:
    with pytest.raises(ValueError, match="displacement"):
        warp(photos, torch.zeros(2, 2, 8, 8))


def test_visibility_is_zero_where_nothing_changed_and_one_half_at_tau() -> None:
    reference = torch.full((1, 3, 64, 64), 0.5)
    distorted = reference.clone()
    distorted[..., 32:] += 2 / 255 / 3**0.5
    seen = visibility(reference, distorted)
    assert seen.shape == (1, 64, 64)
    assert (seen[..., :26] == 0).all()
    torch.testing.assert_close(seen[..., 40:], torch.full((1, 64, 24), 0.5), atol=1e-4, rtol=0)
