"""The operators of the bank: each does what its name says, to each image on its own, and reproducibly."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import resources
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from relqa_loss.distortions import bank, filters
from relqa_loss.distortions.availability import _PILLOW_FEATURES, can_run
from relqa_loss.distortions.bank import BANK, by_name
from relqa_loss.distortions.processing import median
from relqa_loss.distortions.record import KNOTS, Distortion
from relqa_loss.images import MissingExtra
from relqa_loss.relation import AXES, SHIFT_AXES, TONE_AXES

RANDOM = {
    "motion_blur", "channel_shift", "luma_noise", "shot_noise", "chroma_noise", "film_grain", "row_noise",
    "hot_pixels", "impulse_noise", "interlace", "mosquito_noise", "elastic_warp", "missing_blocks", "line_dropout",
    "copied_patch", "denoised", "jitter", "rotation", "zoom", "barrel", "colour_blocks", "block_intensity",
    "pattern_patches", "local_swap", "repeated_jpeg", "noisy_jpeg", "jpeg_errors", "comfort_noise", "jpeg2000_errors",
    "sparse_sampling", "rgb_noise", "speckle_noise", "correlated_noise", "masked_noise", "high_frequency_noise", "prnu",
}  # fmt: skip
"""Operators that draw; every other one must not look at the generator."""

each_operator = pytest.mark.parametrize("operator", BANK, ids=lambda one: one.name)


def photo_like(batch: int = 1, height: int = 96, width: int = 96, dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth colour, hard edges, fine texture, in the middle of the range."""
    g = torch.Generator().manual_seed(7)
    soft = torch.nn.functional.interpolate(torch.rand(batch, 3, 5, 5, generator=g), (height, width), mode="bicubic")
    y = torch.linspace(0, 1, height).view(1, 1, height, 1)
    x = torch.linspace(0, 1, width).view(1, 1, 1, width)
    edges = (((x - 0.5) ** 2 + (y - 0.45) ** 2) < 0.08).float() * 0.3 + ((x + y) > 1.3).float() * -0.2
    texture = 0.06 * torch.randn(batch, 1, height, width, generator=g) * (x > 0.6)
    return (0.15 + 0.6 * soft + edges + texture).clamp(0.02, 0.98).to(dtype)


def run(operator: Distortion, images: Tensor, parameter: Tensor, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    if operator.flow is not None:
        return filters.displaced(images, operator.flow(images, parameter, g)).clamp(0, 1)
    assert operator.apply is not None
    return operator.apply(images, parameter, g)


def at(operator: Distortion, images: Tensor, position: float, seed: int = 0) -> Tensor:
    return run(operator, images, operator.parameter_at(torch.full((images.shape[0],), position)), seed)


def test_bank_covers_every_axis_and_both_signs_of_the_signed_ones() -> None:
    shown = {(axis, effect > 0) for one in BANK for axis, effect in one.effects.items() if abs(effect) == 1}
    assert all((axis, True) in shown for axis in AXES)
    assert all((axis, False) in shown for axis in (*TONE_AXES, *SHIFT_AXES, "blur"))


def test_bank_is_large_and_names_are_unique() -> None:
    names = [one.name for one in BANK]
    assert len(names) >= 40
    assert len(set(names)) == len(names)


def test_flags_follow_the_families() -> None:
    for one in BANK:
        if one.family in ("tone", "geometry", "loss"):
            assert not one.inclusion, one.name
        assert (one.flow is not None) == (one.family == "geometry"), one.name
        assert one.source, one.name
        assert one.batched, one.name
    coded = {one.name for one in BANK if one.codec is not None}
    assert coded == {"jpeg", "webp", "jpeg2000", "avif", "repeated_jpeg", "noisy_jpeg", "jpeg_errors"}
    assert {one.name for one in BANK if not one.trace} == {"copied_patch", "pattern_patches", "local_swap"}


def test_severity_table_is_used_and_names_only_known_operators() -> None:
    table = resources.files("relqa_loss.distortions").joinpath(bank.SEVERITY_FILE)
    entries = json.loads(table.read_text())["levels"] if table.is_file() else {}
    assert set(entries) <= {one.name for one in BANK}
    for one in BANK:
        assert one.levels == (tuple(entries[one.name]) if one.name in entries else None)
        if one.levels is not None:
            assert len(one.levels) == KNOTS


def test_by_name_finds_and_offers_the_nearest() -> None:
    assert by_name("jpeg").name == "jpeg"
    with pytest.raises(ValueError, match="did you mean 'gaussian_blur'"):
        by_name("gausian_blur")


@each_operator
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (40, 33)])
def test_shape_dtype_and_range_are_kept(operator: Distortion, size: tuple[int, int]) -> None:
    for dtype in (torch.float32, torch.float64):
        images = photo_like(2, *size, dtype=dtype)
        before = images.clone()
        for position in (0.0, 1.0):
            result = at(operator, images, position)
            assert result.shape == images.shape
            assert result.dtype == dtype
            assert result.isfinite().all()
            assert result.min() >= 0
            assert result.max() <= 1
        assert torch.equal(images, before)


@each_operator
def test_black_and_white_pictures_stay_finite(operator: Distortion) -> None:
    for value in (0.0, 1.0):
        assert at(operator, torch.full((1, 3, 24, 24), value), 1.0).isfinite().all()


@each_operator
def test_same_seed_same_bytes_and_only_random_operators_draw(operator: Distortion) -> None:
    images = photo_like(4, 48, 48)
    first = at(operator, images, 0.9, seed=1)
    assert torch.equal(first, at(operator, images, 0.9, seed=1))
    same = [torch.equal(first, at(operator, images, 0.9, seed=seed)) for seed in (2, 3, 4)]
    assert all(same) == (operator.name not in RANDOM)


@each_operator
def test_draws_do_not_depend_on_the_parameter(operator: Distortion) -> None:
    images = photo_like(2, 32, 32)
    states = []
    for position in (0.0, 1.0):
        g = torch.Generator().manual_seed(5)
        function = operator.apply or operator.flow
        assert function is not None
        function(images, operator.parameter_at(torch.full((2,), position)), g)
        states.append(g.get_state())
    assert torch.equal(*states)


@each_operator
def test_effect_grows_along_the_span(operator: Distortion) -> None:
    side = 192 if operator.name == "jpeg_errors" else 96  # whole segments of the file are lost
    images = photo_like(3, side, side)
    change = [(at(operator, images, k / 4) - images).abs().mean().item() for k in range(5)]
    assert change[0] > 0
    assert all(later > earlier for earlier, later in pairwise(change)), change


@each_operator
def test_each_image_follows_its_own_parameter(operator: Distortion) -> None:
    # Damaged files lose whole segments, so that a small picture has few different states.
    side = 128 if operator.name == "jpeg_errors" else 48
    images = photo_like(3, side, side)
    parameter = operator.parameter_at(torch.tensor([0.1, 0.5, 1.0]))
    together = run(operator, images, parameter)
    mixed = run(operator, images, parameter[[0, 0, 2]])
    torch.testing.assert_close(together[[0, 2]], mixed[[0, 2]], atol=1e-5, rtol=0)
    assert (together[1] - mixed[1]).abs().max() > 1e-3
    if operator.name not in RANDOM:
        for k in range(3):
            alone = run(operator, images[k : k + 1], parameter[k : k + 1])
            torch.testing.assert_close(together[k : k + 1], alone, atol=1e-5, rtol=0)


def statistics(images: Tensor) -> dict[str, float]:
    y, chroma = filters.split_chroma(images)
    red, green, blue = images.unbind(1)
    return {
        "brightness": y.mean().item(),
        "contrast": y.std((2, 3)).mean().item(),
        "saturation": chroma.square().sum(1).sqrt().mean().item(),
        "tint_blue": (blue - (red + green) / 2).mean().item(),
        "tint_red": (red - green).mean().item(),
    }


MOVES_A_TONE = [one for one in BANK if set(one.effects) & set(TONE_AXES) and one.name != "hue"]
"""A turn of the hues moves each place another way: its targets have a profile, which is tested on its own."""


@pytest.mark.parametrize("operator", MOVES_A_TONE, ids=lambda one: one.name)
def test_tone_operators_move_the_axes_they_declare(operator: Distortion) -> None:
    images = photo_like(4)
    before, after = statistics(images), statistics(at(operator, images, 0.5))
    for axis, effect in operator.effects.items():
        if axis in TONE_AXES:
            assert (after[axis] - before[axis]) * effect > 0.01 * abs(effect), axis


@pytest.mark.parametrize("name", ["tint_blue", "tint_yellow", "tint_red", "tint_green", "saturate", "desaturate"])
def test_colour_operators_keep_luma_inside_the_gamut(name: str) -> None:
    images = 0.4 + 0.2 * photo_like()
    change = filters.luma(at(by_name(name), images, 0.3)) - filters.luma(images)
    assert change.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["tint_blue", "tint_yellow", "tint_red", "tint_green"])
def test_casts_do_not_move_the_other_cast(name: str) -> None:
    images = 0.4 + 0.2 * photo_like()
    before, after = statistics(images), statistics(at(by_name(name), images, 0.3))
    other = ({"tint_blue", "tint_red"} - set(by_name(name).effects)).pop()
    assert after[other] == pytest.approx(before[other], abs=1e-5)


@pytest.mark.parametrize(
    "operator", [o for o in BANK if o.effects.get("blur") == 1 and not o.codec], ids=lambda o: o.name
)
def test_blurs_take_detail_away_and_keep_the_mean(operator: Distortion) -> None:
    images = photo_like(2)
    result = at(operator, images, 0.9)
    assert _detail(result) < 0.7 * _detail(images)
    assert result.mean().item() == pytest.approx(images.mean().item(), abs=0.02)


def _detail(images: Tensor) -> float:
    return (images[..., 1:, 1:] - images[..., :-1, :-1]).abs().mean().item()


def test_oversharpening_adds_detail() -> None:
    images = photo_like(2)
    assert _detail(at(by_name("oversharpen"), images, 0.5)) > 1.2 * _detail(images)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur"])
def test_blur_of_a_dot_is_centred_on_it(name: str) -> None:
    images = torch.zeros(1, 3, 41, 51)
    images[..., 20, 25] = 1
    result = at(by_name(name), images, 0.7)[0, 0]
    mass = result.sum()
    assert mass.item() == pytest.approx(1, abs=1e-3)
    assert (result.sum(0) @ torch.arange(51.0) / mass).item() == pytest.approx(25, abs=0.01)
    assert (result.sum(1) @ torch.arange(41.0) / mass).item() == pytest.approx(20, abs=0.01)


def test_gaussian_blur_has_the_stated_sigma() -> None:
    images = torch.zeros(1, 3, 61, 61, dtype=torch.float64)
    images[..., 30, 30] = 1
    row = run(by_name("gaussian_blur"), images, torch.tensor([3.0]))[0, 0].sum(0)
    variance = (row * (torch.arange(61.0, dtype=torch.float64) - 30) ** 2).sum() / row.sum()
    assert variance.sqrt().item() == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize(("name", "axis", "sign"), [
    ("shift_right", 0, 1), ("shift_left", 0, -1), ("shift_down", 1, 1), ("shift_up", 1, -1),
])  # fmt: skip
def test_shifts_give_their_displacement(name: str, axis: int, sign: int) -> None:
    operator = by_name(name)
    assert operator.flow is not None
    images = photo_like(2, 20, 24)
    flow = operator.flow(images, operator.parameter_at(torch.ones(2)), torch.Generator())
    assert flow.shape == (2, 2, 20, 24)
    assert torch.equal(flow[:, axis], torch.full((2, 20, 24), 4.0 * sign))
    assert torch.equal(flow[:, 1 - axis], torch.zeros(2, 20, 24))


def test_displaced_moves_content_along_the_flow() -> None:
    images = photo_like(1, 20, 24)
    flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1)
    moved = filters.displaced(images, flow.expand(1, 2, 20, 24))
    torch.testing.assert_close(moved[..., :18, 3:], images[..., 2:, :21], atol=1e-4, rtol=0)


def test_elastic_warp_reaches_what_it_is_told_and_is_smooth() -> None:
    operator = by_name("elastic_warp")
    assert operator.flow is not None
    flow = operator.flow(photo_like(2, 128, 128), torch.tensor([2.0, 6.0]), torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.square().sum(1).sqrt().amax((1, 2)), torch.tensor([2.0, 6.0]))
    assert (flow[..., 1:] - flow[..., :-1]).abs().max() < 0.6


@pytest.mark.parametrize("name", ["luma_noise", "film_grain", "row_noise", "mosquito_noise"])
def test_luminance_noise_is_equal_in_the_channels(name: str) -> None:
    images = 0.4 + 0.2 * photo_like()
    change = at(by_name(name), images, 0.3) - images
    torch.testing.assert_close(change[:, 0], change[:, 1], atol=1e-5, rtol=0)


def test_chroma_noise_keeps_luma() -> None:
    images = 0.4 + 0.2 * photo_like()
    result = at(by_name("chroma_noise"), images, 0.3)
    assert (filters.luma(result) - filters.luma(images)).abs().max() < 1e-5
    assert (result - images).abs().mean() > 0.01


def test_luma_noise_has_the_stated_sigma() -> None:
    images = torch.full((1, 3, 128, 128), 0.5)
    change = run(by_name("luma_noise"), images, torch.tensor([0.1])) - images
    assert change.std().item() == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("name", ["hot_pixels", "impulse_noise", "missing_blocks", "line_dropout", "copied_patch"])
def test_damage_is_nested_along_the_ladder(name: str) -> None:
    images = photo_like(2)
    weak, strong = at(by_name(name), images, 0.5), at(by_name(name), images, 0.9)
    hit = weak != images
    assert hit.any()
    assert torch.equal(weak[hit], strong[hit])
    assert (strong != images).sum() > hit.sum()


def test_posterize_leaves_few_values() -> None:
    assert len(run(by_name("posterize"), photo_like(), torch.tensor([4.0])).unique()) <= 4


def test_block_dct_and_jpeg_put_steps_on_the_grid() -> None:
    images = photo_like(2)
    for name in ("block_dct", "jpeg"):
        steps = (at(by_name(name), images, 1.0).diff(dim=-1)).abs().mean((0, 1, 2))
        on_grid = steps[7::8].mean()
        off_grid = steps[torch.arange(95) % 8 != 7].mean()
        assert on_grid > 2 * off_grid, name


def test_pixelate_shows_flat_cells() -> None:
    result = run(by_name("pixelate"), photo_like(), torch.tensor([8.0]))
    assert torch.equal(result, result[..., ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_interlace_keeps_the_even_rows() -> None:
    images = photo_like()
    result = at(by_name("interlace"), images, 0.8)
    assert torch.equal(result[..., ::2, :], images[..., ::2, :])
    assert not torch.equal(result[..., 1::2, :], images[..., 1::2, :])


@pytest.mark.parametrize("count", [5, 9])
def test_median_network_equals_sorting(count: int) -> None:
    planes = torch.rand(count, 4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(median(list(planes)), planes.median(dim=0).values)


def test_colour_transforms_invert() -> None:
    images = photo_like(dtype=torch.float64)
    torch.testing.assert_close(filters.join_chroma(*filters.split_chroma(images)), images)
    torch.testing.assert_close(filters.to_encoded(filters.to_linear(images)), images)


def test_reflecting_beyond_the_picture_agrees_with_padding_twice() -> None:
    images = photo_like(1, 16, 16)
    twice = filters.pad_reflect(filters.pad_reflect(images, 15, 15), 5, 5)
    assert torch.equal(filters.pad_reflect(images, 20, 20), twice)


@pytest.mark.parametrize("codec", ["JPEG", "WEBP", "JPEG2000"])
def test_missing_codec_names_what_brings_it(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = pytest.importorskip("PIL.features")
    operator = by_name(codec.lower())
    assert can_run(operator)
    monkeypatch.setattr(features, "check", lambda name: False)
    assert not can_run(operator)
    with pytest.raises(MissingExtra, match=rf'Pillow built with {codec}: pip install "relqa_loss\[images\]"'):
        at(operator, photo_like(), 0.5)


def test_missing_pillow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert not can_run(by_name("jpeg"))
    assert can_run(by_name("block_dct"))
    with pytest.raises(MissingExtra, match=r'Pillow: pip install "relqa_loss\[images\]"'):
        at(by_name("jpeg"), photo_like(), 0.5)


def test_codecs_of_the_bank_are_known_to_availability() -> None:
    pytest.importorskip("PIL")
    asked = {one.codec for one in BANK if one.codec is not None}
    assert asked == set(_PILLOW_FEATURES)
    assert not can_run(replace(by_name("jpeg"), codec="unheard of"))
