"""Weight maps as a function of distortion maps, on maps made up for the purpose; no network runs here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from relqa_loss import AXES
from relqa_loss.spatial_weights import spatial_weights

SETTINGS = [
    {"strength": 1.0},
    {"strength": 10.0, "limit": 3.0},
    {"strength": 0.5, "focus": -1.0},
    {"strength": 4.0, "focus": 0.3, "limit": 1.5},
    {"axes": ("noise", "blur"), "strength": 2.0},
]


def random_maps(seed: int, batch: int = 3, height: int = 24, width: int = 32) -> Tensor:
    """Signed, heavy-tailed, zero in places: a few pixels far above the rest, as one lost block makes them."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, len(AXES), height, width, generator=generator).pow(5)
    return maps * (torch.rand(maps.shape, generator=generator) > 0.5)


def random_mask(seed: int) -> Tensor:
    mask = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(seed))
    return mask * (mask > 0.3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_mean_is_one_per_image_and_the_contrast_is_bounded(seed: int, settings: dict) -> None:
    weights = spatial_weights(random_maps(seed), **settings)
    limit = settings.get("limit", 20.0)
    assert weights.shape == (3, 1, 24, 32)
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(3))
    assert weights.min() >= 1 / limit and weights.max() <= limit * (1 + 1e-6)
    highest, lowest = weights.amax(dim=(1, 2, 3)), weights.amin(dim=(1, 2, 3))
    assert (highest / lowest <= limit * (1 + 1e-5)).all() and (highest > lowest).all()


@pytest.mark.parametrize("seed", range(3))
def test_one_strong_pixel_does_not_take_the_whole_loss(seed: int) -> None:
    maps = torch.zeros(1, len(AXES), 64, 64)
    maps[0, seed, 20, 30] = 5.0
    weights = spatial_weights(maps, strength=100.0, limit=8.0)
    assert weights.argmax() == 20 * 64 + 30
    assert weights.max() == pytest.approx(8.0, rel=0.01)
    assert weights.min() == pytest.approx(1.0, rel=0.01)


def test_the_formula(seed: int = 4) -> None:
    maps = random_maps(seed)
    emphasis = maps[:, [AXES.index("blur"), AXES.index("occlusion")]].abs().sum(dim=1, keepdim=True)
    raw = (1 + 0.5 * emphasis / emphasis.mean(dim=(1, 2, 3), keepdim=True)).clamp(max=6) ** 0.25
    expected = raw / raw.mean(dim=(1, 2, 3), keepdim=True)
    got = spatial_weights(maps, axes=("blur", "occlusion"), strength=0.5, limit=6, focus=0.25)
    torch.testing.assert_close(got, expected)


def test_signs_and_scale_of_the_maps_do_not_matter() -> None:
    maps = random_maps(0)
    expected = spatial_weights(maps)
    assert torch.equal(spatial_weights(-maps), expected)
    torch.testing.assert_close(spatial_weights(1e-6 * maps), expected)
    torch.testing.assert_close(spatial_weights(1e6 * maps), expected)


def test_each_image_is_weighed_by_itself() -> None:
    maps = random_maps(1)
    together = spatial_weights(maps)
    for index in range(3):
        torch.testing.assert_close(spatial_weights(maps[index : index + 1]), together[index : index + 1])


@pytest.mark.parametrize("focus", [1.0, 0.0, -1.0, torch.tensor(0.25)], ids=str)
@pytest.mark.parametrize("size", [1e-38, 0.0], ids=str)
def test_maps_that_say_nothing_weigh_all_places_alike(focus: float, size: float) -> None:
    maps = torch.full((2, len(AXES), 8, 8), size)
    torch.testing.assert_close(spatial_weights(maps, focus=focus), torch.ones(2, 1, 8, 8))


def test_focus_goes_from_the_easy_places_over_all_alike_to_the_hard_ones() -> None:
    maps = random_maps(2)
    hard, mild, even, easy = (spatial_weights(maps, focus=focus) for focus in (1.0, 0.5, 0.0, -1.0))
    torch.testing.assert_close(even, torch.ones_like(even))
    # In each image the easy weights are the inverse of the hard ones, up to the scale that gives mean 1.
    product = hard * easy
    torch.testing.assert_close(product, product[..., :1, :1].expand_as(product))
    order = hard.flatten(1).argsort(dim=1)
    for weights in (hard, mild, 1 / easy):
        in_order = weights.flatten(1).gather(1, order)
        assert (in_order.diff(dim=1) >= -1e-6).all()
    assert (hard.amax(dim=(1, 2, 3)) > mild.amax(dim=(1, 2, 3))).all()


def test_focus_may_be_a_tensor() -> None:
    maps = random_maps(3)
    torch.testing.assert_close(spatial_weights(maps, focus=torch.tensor(-0.4)), spatial_weights(maps, focus=-0.4))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_mask_takes_part_and_what_it_hides_has_no_say(settings: dict) -> None:
    maps, mask = random_maps(5), random_mask(6)
    weights = spatial_weights(maps, weight=mask, **settings)
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(3))
    hidden = (mask == 0).unsqueeze(1)
    assert hidden.any() and (weights[hidden] == 0).all() and (weights[~hidden] > 0).all()
    elsewhere = torch.where(hidden, 1000 * random_maps(7), maps)
    torch.testing.assert_close(spatial_weights(elsewhere, weight=mask, **settings), weights)
    torch.testing.assert_close(spatial_weights(maps, weight=7 * mask.unsqueeze(1), **settings), weights)


def test_a_cut_out_weighs_as_the_picture_under_the_same_mask() -> None:
    maps = random_maps(8)
    mask = torch.zeros(3, 24, 32)
    mask[:, 4:20, 8:24] = 1
    inside = spatial_weights(maps, weight=mask)[:, :, 4:20, 8:24]
    cut = spatial_weights(maps[:, :, 4:20, 8:24])
    torch.testing.assert_close(inside / inside.mean(), cut / cut.mean())


def test_masks_without_a_distortion_inside_and_masks_of_nothing_are_defined() -> None:
    maps = torch.zeros(1, len(AXES), 16, 16)
    maps[..., 8:] = 3.0
    left = torch.zeros(1, 16, 16)
    left[..., :8] = 1
    torch.testing.assert_close(spatial_weights(maps, weight=left), 2 * left.unsqueeze(1))
    assert torch.equal(spatial_weights(maps, weight=torch.zeros(1, 16, 16)), torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_half_precision_maps_are_summed_in_float32(dtype: torch.dtype, wanted: torch.dtype) -> None:
    maps = torch.full((1, len(AXES), 300, 300), 4.0, dtype=dtype)
    maps[..., :150, :] = 0
    weights = spatial_weights(maps)
    assert weights.dtype == wanted
    torch.testing.assert_close(weights.mean(), torch.ones((), dtype=wanted))
    assert weights.max() / weights.min() == pytest.approx(3.0)


def test_nothing_of_it_has_a_gradient() -> None:
    maps, mask = random_maps(9).requires_grad_(), random_mask(9).requires_grad_()
    assert not spatial_weights(maps, weight=mask).requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axes": ["ringin"]}, "did you mean 'ringing'"),
        ({"axes": []}, "axes must name at least one axis"),
        ({"strength": -0.1}, "strength must be finite and >= 0, got -0.1"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": float("inf")}, "strength"),
        ({"limit": 0.5}, "limit must be finite and >= 1, got 0.5"),
        ({"limit": float("inf")}, "limit"),
        ({"focus": 1.5}, r"focus must lie in \[-1, 1\], got 1.5"),
        ({"weight": torch.ones(3, 24, 31)}, "weight must have shape"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spatial_weights(random_maps(0), **settings)
