from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from relqa_loss import distortions
from relqa_loss.distortions import (
    BANK,
    Component,
    Distortion,
    DistortionEngine,
    Triplet,
    distort,
    dominance,
    ladder,
)
from relqa_loss.distortions.draws import Draws, Streams, uniform
from relqa_loss.distortions.filters import below
from relqa_loss.distortions.render import Renderer
from relqa_loss.distortions.resampling import sparse_sampling
from relqa_loss.distortions.visibility import visibility
from relqa_loss.relation import AXES, PIXELS_PER_UNIT_SHIFT, axis_index


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _dim(images: Tensor, amount: Tensor, generator: Generator) -> Tensor:
    return images * (1 - amount.view(-1, 1, 1, 1))


def _grain(images: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return images + sigma.view(-1, 1, 1, 1) * noise


def _slide(images: Tensor, pixels: Tensor, generator: Generator) -> Tensor:
    across = pixels.view(-1, 1, 1).expand(-1, *images.shape[-2:])
    return torch.stack((across, torch.zeros_like(across)), dim=1)


DIM = Distortion("dim", "tone", {"brightness": -1.0, "contrast": -0.5}, (0.05, 0.5), _dim)
GRAIN = Distortion("grain", "sensor", {"noise": 1.0}, (0.01, 0.2), _grain)
SLIDE = Distortion("slide", "geometry", {"shift_x": 1.0}, (0.0, 8.0), flow=_slide)
SECRET = replace(GRAIN, name="secret", effects={"occlusion": 1.0}, trace=False)
OWN = (DIM, GRAIN, SLIDE, SECRET)


def region_of(part: Component, image: Tensor) -> Tensor:
    renderer = Renderer(image, {part.name: GRAIN})
    renderer.render([(0, (part,))])
    region = renderer.region(0, part)
    assert region is not None
    return region


def same(one: Triplet, other: Triplet) -> bool:
    fields = ("reference", "distorted", "maps", "weight")
    return one.recipe == other.recipe and all(torch.equal(getattr(one, f), getattr(other, f)) for f in fields)


# --- triplets ---------------------------------------------------------------------------------------------------------


def test_whole_bank_makes_triplets(photos: Tensor) -> None:
    engine = DistortionEngine()
    triplet = engine(photos, generator=seeded())
    assert len(engine.names) >= 40
    assert triplet.reference is photos
    assert triplet.distorted.shape == photos.shape
    assert triplet.maps.shape == (2, len(AXES), 64, 96)
    assert triplet.weight.shape == (2, 64, 96)
    assert triplet.distorted.min() >= 0 and triplet.distorted.max() <= 1
    assert triplet.weight.min() >= 0 and triplet.weight.max() <= 1
    assert (triplet.maps.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_same_seed_same_bytes(photos: Tensor) -> None:
    engine = DistortionEngine(OWN, components={3: 1.0})
    assert same(engine(photos, generator=seeded(5)), engine(photos, generator=seeded(5)))
    assert not same(engine(photos, generator=seeded(5)), engine(photos, generator=seeded(6)))
    assert (
        engine(photos, generator=seeded(5)).recipe
        == DistortionEngine(OWN, components={3: 1.0})(photos, generator=seeded(5)).recipe
    )


def test_images_do_not_depend_on_their_batch(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(4)
    engine = DistortionEngine(OWN)
    whole = engine(images, generator=seeded(1))
    for i in range(4):
        alone = engine.render(images[i : i + 1], whole.recipe[i : i + 1])
        assert torch.equal(alone.distorted[0], whole.distorted[i])
        assert torch.equal(alone.maps[0], whole.maps[i])


def test_with_a_generator_of_its_own_an_image_becomes_what_it_would_alone(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(3)
    engine = DistortionEngine(OWN, components={1: 0.5, 2: 0.5})
    together = engine(images, generator=[seeded(7), seeded(8), seeded(9)])
    tiers = engine.tier(images, size=3, generator=[seeded(7), seeded(8), seeded(9)])
    for i in range(3):
        alone = engine(images[i : i + 1], generator=seeded(7 + i))
        assert alone.recipe[0] == together.recipe[i]
        assert torch.equal(alone.distorted[0], together.distorted[i])
        tier = engine.tier(images[i : i + 1], size=3, generator=seeded(7 + i))
        assert tier.recipes[0] == tiers.recipes[i]
        assert torch.equal(tier.images[0], tiers.images[i])


def test_as_many_generators_as_images_are_wanted(photos: Tensor) -> None:
    with pytest.raises(ValueError, match="generator must be one or hold one for each of 2 images, got 1"):
        DistortionEngine(OWN)(photos, generator=[seeded(1)])
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got int"):
        DistortionEngine(OWN).tier(photos, generator=[seeded(1), 2])  # type: ignore[list-item]


def test_global_random_state_is_neither_read_nor_moved(photos: Tensor) -> None:
    engine = DistortionEngine()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = engine(photos, generator=seeded(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, engine(photos, generator=seeded(3)))


def test_recipe_survives_json_and_reproduces_bit_for_bit(photos: Tensor) -> None:
    engine = DistortionEngine()
    for seed in range(4):
        triplet = engine(photos, generator=seeded(seed))
        text = json.dumps([[asdict(component) for component in recipe] for recipe in triplet.recipe])
        recipes = [tuple(Component(**values) for values in recipe) for recipe in json.loads(text)]
        assert same(engine.render(photos, recipes), triplet)


def test_targets_are_region_times_severity_times_effect(photos: Tensor) -> None:
    engine = DistortionEngine([DIM, GRAIN])
    parts = (Component("dim", 0.5, "soft", 3), Component("grain", 0.8, "shape", 4))
    maps = engine.render(photos[:1], [parts]).maps[0]
    dim, grain = (region_of(part, photos[:1]) for part in parts)
    torch.testing.assert_close(maps[axis_index("brightness")], -0.5 * dim[0, 0])
    torch.testing.assert_close(maps[axis_index("contrast")], -0.25 * dim[0, 0])
    torch.testing.assert_close(maps[axis_index("noise")], 0.8 * grain[0, 0])
    others = [k for k, axis in enumerate(AXES) if axis not in ("brightness", "contrast", "noise")]
    assert (maps[others] == 0).all()


def test_pixels_outside_the_region_are_bitwise_the_reference(photos: Tensor) -> None:
    engine = DistortionEngine(OWN)
    for name in engine.names:
        part = Component(name, 1.0, "shape", 11)
        region = region_of(part, photos[:1])
        triplet = engine.render(photos[:1], [(part,)])
        outside = (region == 0).expand(-1, 3, -1, -1)
        assert torch.equal(triplet.distorted[outside], photos[:1][outside])
        assert not torch.equal(triplet.distorted, photos[:1])


def test_shift_targets_are_the_true_displacement(photos: Tensor) -> None:
    triplet = DistortionEngine([SLIDE]).render(photos, [(Component("slide", 0.5, "whole", 0),)] * 2)
    expected = torch.roll(photos, 4, dims=3)  # 4 px to the right
    torch.testing.assert_close(triplet.distorted[..., 10:-10], expected[..., 10:-10], atol=2e-5, rtol=0)
    assert (triplet.maps[:, axis_index("shift_x")] == 4 / PIXELS_PER_UNIT_SHIFT).all()
    assert (triplet.maps[:, axis_index("shift_y")] == 0).all()


def test_displacements_in_a_row_add_up(photos: Tensor) -> None:
    twice = (Component("slide", 0.25, "whole", 0), Component("slide", 0.5, "whole", 1))
    triplet = DistortionEngine([SLIDE]).render(photos, [twice] * 2)
    torch.testing.assert_close(
        triplet.maps[:, axis_index("shift_x")], torch.full((2, 64, 96), 6 / PIXELS_PER_UNIT_SHIFT)
    )
    expected = torch.roll(photos, 6, dims=3)
    torch.testing.assert_close(triplet.distorted[..., 16:-16], expected[..., 16:-16], atol=2e-5, rtol=0)


def test_targets_move_along_with_the_content(photos: Tensor) -> None:
    still = (Component("dim", 0.5, "shape", 7),)
    moved = (*still, Component("slide", 0.5, "whole", 1))
    engine = DistortionEngine([DIM, SLIDE])
    k = axis_index("brightness")
    before, after = (engine.render(photos[:1], [recipe]).maps[0, k] for recipe in (still, moved))
    torch.testing.assert_close(after[:, 10:], before[:, 6:-4], atol=1e-5, rtol=0)


def test_weight_is_zero_where_nothing_changed() -> None:
    flat = torch.full((1, 3, 64, 64), 0.5)
    flat[..., 44:] = torch.rand(1, 3, 64, 20, generator=seeded())
    triplet = DistortionEngine(["gaussian_blur"]).render(flat, [(Component("gaussian_blur", 0.3, "whole", 0),)])
    sky = torch.isclose(triplet.distorted, flat, atol=1e-6).all(dim=1)
    assert sky[..., :20].all()
    assert triplet.weight[..., :10].max() < 1e-6
    assert triplet.weight[..., 50:].mean() > 0.9
    nothing = DistortionEngine([DIM]).render(flat, [(Component("dim", 0.0, "whole", 0),)])
    assert torch.equal(nothing.distorted, flat)
    assert (nothing.weight == 0).all() and (nothing.maps == 0).all()


def test_weight_is_zero_where_an_operator_leaves_no_trace(photos: Tensor) -> None:
    part = Component("secret", 0.9, "shape", 2)
    triplet = DistortionEngine([SECRET, GRAIN]).render(photos[:1], [(part, Component("grain", 0.9, "whole", 3))])
    region = region_of(part, photos[:1])
    assert (triplet.weight[:, None][region > 0] == 0).all()
    assert (triplet.weight[:, None][region == 0] > 0).float().mean() > 0.9


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur"])
@pytest.mark.parametrize("level", [0.3, 0.5, 0.7])
def test_a_component_claims_nothing_where_it_changed_nothing_and_leaves_the_weight_to_the_others(
    name: str, level: float
) -> None:
    flat = torch.full((1, 3, 64, 160), level)
    flat[..., 112:] = torch.rand(1, 3, 64, 48, generator=seeded())
    recipe = (Component(name, 0.5, "whole", 0), Component("grain", 0.9, "whole", 1))
    triplet = DistortionEngine([GRAIN, name]).render(flat, [recipe])
    sky, texture = slice(0, 24), slice(136, 160)
    blur, noise = (triplet.maps[0, axis_index(axis)] for axis in ("blur", "noise"))
    assert (blur[:, sky] == 0).all() and (blur[:, texture] == 0.5).all()
    assert (noise == torch.tensor(0.9)).all()
    assert triplet.weight[..., sky].mean() > 0.9 and triplet.weight[..., texture].mean() > 0.9


def test_weight_is_next_to_zero_where_one_of_several_components_changed_too_little_to_be_seen() -> None:
    gentle = torch.full((1, 3, 64, 96), 0.5)
    gentle[..., :48] += 0.002 * torch.linspace(0, 40, 48).cos()  # a swell of half an 8-bit step
    gentle[..., 48:] = torch.rand(1, 3, 64, 48, generator=seeded())
    recipe = (Component("gaussian_blur", 0.5, "whole", 0), Component("grain", 0.9, "whole", 1))
    engine = DistortionEngine([GRAIN, "gaussian_blur"])
    weight, of_grain = (engine.render(gentle, [parts]).weight for parts in (recipe, recipe[1:]))
    blur = engine.render(gentle, [recipe]).maps[0, axis_index("blur")]
    assert (blur[:, 8:24] == 0.5).all()
    assert of_grain[..., 8:24].mean() > 0.9 and weight[..., 8:24].max() < 0.2


def test_what_a_later_operator_carries_to_other_places_is_not_taught_there(photos: Tensor) -> None:
    lose, blur = Component("missing_blocks", 0.9, "whole", 3), Component("gaussian_blur", 1.0, "whole", 1)
    engine = DistortionEngine(["gaussian_blur", "missing_blocks"])
    smeared, whole = (engine.render(photos[:1], [recipe]) for recipe in ((lose, blur), (blur,)))
    unclaimed = smeared.maps[0, axis_index("occlusion")] == 0
    carried = visibility(whole.distorted, smeared.distorted)[0]
    assert carried[unclaimed].max() > 0.5 and carried[unclaimed].min() < 0.1
    assert (smeared.weight[0] <= 1 - carried + 1e-6)[unclaimed].all()


def test_a_displacement_is_claimed_of_flat_places_too_and_takes_what_is_claimed_along(photos: Tensor) -> None:
    flat = torch.full((1, 3, 64, 96), 0.5)
    shift = Component("slide", 0.5, "whole", 1)
    grain = Component("grain", 0.9, "whole", 2)
    triplet = DistortionEngine([SLIDE, GRAIN]).render(flat, [(shift, grain)])
    assert (triplet.maps[0, axis_index("shift_x")] == 4 / PIXELS_PER_UNIT_SHIFT).all()
    assert triplet.weight.max() < 1e-6  # grain is seen, the displacement is not
    lose = Component("missing_blocks", 0.9, "whole", 3)
    engine = DistortionEngine([SLIDE, "missing_blocks"])
    still, moved = (engine.render(photos[:1], [recipe]) for recipe in ((lose,), (lose, shift)))
    k = axis_index("occlusion")
    assert (still.maps[0, k] == 0).any()
    torch.testing.assert_close(moved.maps[0, k][:, 10:], still.maps[0, k][:, 6:-4], atol=1e-5, rtol=0)


def test_lost_places_are_claimed_where_they_are(photos: Tensor) -> None:
    lose = (Component("missing_blocks", 0.9, "whole", 3),)
    grain = (Component("grain", 0.9, "whole", 1),)
    engine = DistortionEngine([GRAIN, "missing_blocks"])
    alone, both = (engine.render(photos[:1], [recipe]) for recipe in (lose, grain + lose))
    lost = (alone.distorted != photos[:1]).any(dim=1)[0]
    assert 0.02 < lost.float().mean() < 0.5
    near = torch.nn.functional.max_pool2d(lost[None].float(), 13, stride=1, padding=6)[0] > 0
    occlusion = both.maps[0, axis_index("occlusion")]
    assert (occlusion[near] == torch.tensor(0.9)).all() and (occlusion[~near] == 0).all()
    assert both.weight[0][~near].mean() > 0.9  # grain alone, and known to be


def test_weight_is_zero_where_a_later_component_covers_an_earlier_one(photos: Tensor) -> None:
    def lose_the_right_half(images: Tensor, share: Tensor, generator: Generator) -> Tensor:
        return torch.cat((images[..., :48], torch.zeros_like(images[..., 48:])), dim=-1)

    lost = Distortion("lost", "loss", {"occlusion": 1.0}, (0.0, 1.0), lose_the_right_half)
    recipe = (Component("grain", 0.9, "whole", 1), Component("lost", 0.8, "whole", 5))
    weight = DistortionEngine([GRAIN, lost]).render(photos[:1], [recipe]).weight[0]
    assert weight[:, 56:].max() == 0
    assert DistortionEngine([lost]).render(photos[:1], [recipe[1:]]).weight[0, :, 56:].mean() > 0.9


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_profile_shapes_the_target_and_is_levelled_to_the_severity(photos: Tensor, scale: float) -> None:
    def slope(before: Tensor, after: Tensor) -> dict[str, Tensor]:
        assert torch.equal(before, photos[:1]) and after.mean() < before.mean()
        return {"brightness": scale * torch.linspace(-1, 1, before.shape[-1]).expand(1, *before.shape[-2:])}

    engine = DistortionEngine([replace(DIM, profile=slope)])
    maps = engine.render(photos[:1], [(Component("dim", 0.5, "whole", 0),)]).maps[0]
    brightness = maps[axis_index("brightness")]
    slopes = torch.linspace(-1, 1, 96).expand(64, -1)
    torch.testing.assert_close(brightness / brightness[0, 0], -slopes)
    assert (brightness[:, 0] > 0).all()
    # What is laid down, weighted by where it acts, is severity x effect.
    size = brightness.abs()
    torch.testing.assert_close(size.square().sum() / size.sum(), torch.tensor(0.5))
    assert (maps[axis_index("contrast")] == -0.25).all()  # axes that the profile does not name are even


def test_images_may_share_calls(make_photos: Callable[..., Tensor]) -> None:
    """As on accelerators: the pictures are the same up to rounding, save where a codec or a threshold jumps."""
    images = make_photos(12, 48, 48)
    engine = DistortionEngine()
    recipes = engine(images, generator=seeded(3)).recipe
    repeated = [recipes[i % 4] for i in range(12)]
    table = {one.name: one for one in engine.distortions}
    alone, together = (Renderer(images, table, together=most).render(list(enumerate(repeated))) for most in (1, 5))
    for one, other in zip(alone, together, strict=True):
        assert ((one - other).abs() < 1e-4).float().mean() > 0.99


def test_each_operator_gives_an_image_its_own_draw_in_a_shared_call(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(3, 48, 48)
    for distortion in DistortionEngine().distortions:
        jobs = [(i, (Component(distortion.name, 0.7, "whole", 10 + i),)) for i in range(3)]
        table = {distortion.name: distortion}
        alone, together = (torch.cat(Renderer(images, table, together=most).render(jobs)) for most in (1, 3))
        share = ((alone - together).abs() < 1e-4).float().mean(dim=(1, 2, 3))
        assert share.min() > 0.98, distortion.name


def test_own_operators_are_never_called_with_several_images() -> None:
    seen = []

    def watch(images: Tensor, amount: Tensor, generator: Generator) -> Tensor:
        seen.append(images.shape[0])
        assert isinstance(generator, Generator)
        return images * 0.5

    images = torch.rand(3, 3, 16, 16, generator=seeded())
    own = Distortion("own", "tone", {"brightness": -1.0}, (0.0, 1.0), watch)
    Renderer(images, {"own": own}, together=8).render([(i, (Component("own", 1.0, "whole", 0),)) for i in range(3)])
    assert seen == [1, 1, 1]


def test_streams_refuse_another_number_of_images() -> None:
    streams = Streams([1, 2], torch.device("cpu"))
    assert torch.equal(uniform((2, 3), streams)[1:], uniform((1, 3), seeded(2)))
    with pytest.raises(ValueError, match="number of images, 2"):
        uniform((3, 3), streams)


def test_extended_engine(photos: Tensor) -> None:
    engine = DistortionEngine(["gaussian_blur"], severity=(0.4, 0.5), components={1: 1.0})
    larger = engine.extended(DIM, "luma_noise")
    assert engine.names == ("gaussian_blur",)
    assert larger.names == ("gaussian_blur", "dim", "luma_noise")
    assert all(0.4 <= recipe[0].severity <= 0.5 for recipe in larger(photos, generator=seeded()).recipe)
    with pytest.raises(ValueError, match="distinct"):
        larger.extended(DIM)


def test_missing_codec_is_named_and_skipped_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relqa_loss.distortions.availability.has_codec", lambda codec: codec != "WEBP")
    with pytest.raises(ImportError, match=r"webp \(WEBP\).*missing_codecs='skip'"):
        DistortionEngine()
    with pytest.raises(ImportError, match="WEBP"):
        DistortionEngine(["webp", "gaussian_blur"])
    assert "webp" not in DistortionEngine(missing_codecs="skip").names
    assert DistortionEngine(["webp", "gaussian_blur"], missing_codecs="skip").names == ("gaussian_blur",)
    with pytest.raises(ValueError, match="did you mean 'skip'"):
        DistortionEngine(missing_codecs="skipp")
    engine = DistortionEngine(missing_codecs="skip", odds={"webp": 2, "jpeg": 3}, whole=["webp"]).extended(DIM)
    assert "webp" not in engine.names and "dim" in engine.names


def test_triplets_move_as_one(photos: Tensor) -> None:
    triplet = DistortionEngine(OWN)(photos, generator=seeded())
    assert same(triplet.to("cpu"), triplet)
    moved = triplet.to("meta")
    assert {t.device.type for t in (moved.reference, moved.distorted, moved.maps, moved.weight)} == {"meta"}
    assert moved.recipe == triplet.recipe


def test_components_do_not_undo_each_other(photos: Tensor) -> None:
    engine = DistortionEngine(["gaussian_blur", "oversharpen", "luma_noise"], components={2: 1.0})
    seen = set()
    for seed in range(12):
        for recipe in engine(photos[..., :32, :32], generator=seeded(seed)).recipe:
            seen.add(tuple(component.name for component in recipe))
    assert {frozenset(names) for names in seen} == {
        frozenset({"gaussian_blur", "luma_noise"}),
        frozenset({"oversharpen", "luma_noise"}),
    }
    assert all(names[-1] == "luma_noise" for names in seen)


@pytest.mark.parametrize(("count", "share"), [(1, 3 / 8), (2, 3 / 8 + 5 / 8 * 3 / 7)])
def test_odds_are_how_often_an_operator_is_drawn(count: int, share: float) -> None:
    names = ["gaussian_blur", "jpeg", "luma_noise", "hue", "fade", "brighten"]
    engine = DistortionEngine(names, components={count: 1.0}, odds={"jpeg": 3})
    drawn = [{part.name for part in engine.plan(Draws(seed))} for seed in range(600)]
    assert all(len(one) == count for one in drawn)
    assert sum("jpeg" in one for one in drawn) / 600 == pytest.approx(share, abs=0.06)
    even, plain = DistortionEngine(names, odds=dict.fromkeys(names, 1)), DistortionEngine(names)
    assert [even.plan(Draws(seed)) for seed in range(9)] == [plain.plan(Draws(seed)) for seed in range(9)]


def test_operators_that_act_on_the_whole_picture_change_nothing_else() -> None:
    names = {"missing_blocks", "colour_blocks"}
    plain, changed = DistortionEngine(), DistortionEngine(whole=iter(names))
    recipes = [plain.plan(Draws(seed)) for seed in range(300)]
    assert any(part.name in names and part.region != "whole" for recipe in recipes for part in recipe)
    for seed, recipe in enumerate(recipes):
        wanted = tuple(replace(part, region="whole") if part.name in names else part for part in recipe)
        assert changed.plan(Draws(seed)) == wanted


def test_an_extended_engine_draws_as_before() -> None:
    engine = DistortionEngine(["hue"], whole=["hue"], odds={"hue": 99}, components={1: 1.0}).extended("jpeg")
    drawn = [part for seed in range(20) for part in engine.plan(Draws(seed))]
    assert {part.name for part in drawn} == {"hue"} and {part.region for part in drawn} == {"whole"}


def test_severity_range_and_probabilities_are_respected(photos: Tensor) -> None:
    engine = DistortionEngine(OWN, severity=(0.4, 0.5), regions={"shape": 1, "whole": 0}, components={2: 3})
    for recipe in engine(photos, generator=seeded()).recipe:
        assert len(recipe) == 2
        assert all(0.4 <= part.severity <= 0.5 and part.region == "shape" for part in recipe)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(photos: Tensor, dtype: torch.dtype) -> None:
    triplet = DistortionEngine(OWN)(photos.to(dtype), generator=seeded())
    assert triplet.distorted.dtype == dtype
    assert triplet.maps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_own_operators_stand_beside_the_bank(photos: Tensor) -> None:
    engine = DistortionEngine([DIM, "gaussian_blur", BANK[1]])
    assert engine.names == ("dim", "gaussian_blur", BANK[1].name)
    assert "dim" not in DistortionEngine().names


# --- an operator of one's own -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What the example in the package's docstring defines: it is run as it stands."""
    assert distortions.__doc__ is not None
    example = distortions.__doc__.split("::\n\n", 1)[1].split("\n\n``effects``", 1)[0]
    names: dict[str, Any] = {"Distortion": Distortion, "DistortionEngine": DistortionEngine}
    exec(textwrap.dedent(example), names)
    return names


def test_own_operator_as_documented_follows_its_span(documented: dict[str, Any], photos: Tensor) -> None:
    fade = documented["FADE"]
    assert fade.levels is None
    torch.testing.assert_close(fade.parameter(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.02, 0.31, 0.6]))
    faded = distort(photos, fade, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(faded[0], 0.69 * photos[0] + 0.31)
    torch.testing.assert_close(faded[1], 0.4 * photos[1] + 0.6)
    levels = fade.with_levels(tuple(0.1 * k for k in range(11)))
    torch.testing.assert_close(distort(photos, levels, 0.25), 0.75 * photos + 0.25)
    with pytest.raises(ValueError, match="must hold 11 numbers, finite, got"):
        fade.with_levels((0.0, 0.1, 0.2))


def test_own_operator_as_documented_sets_the_targets_of_its_effects(documented: dict[str, Any], photos: Tensor) -> None:
    engine = documented["engine"]
    assert engine.names == ("fade", "gaussian_blur")
    triplet = engine.render(photos[:1], [(Component("fade", 0.8, "whole", 0),)])
    shown = {axis: triplet.maps[0, k].unique().tolist() for k, axis in enumerate(AXES) if triplet.maps[0, k].any()}
    assert shown == {"brightness": [pytest.approx(0.4)], "contrast": [pytest.approx(-0.8)]}
    drawn = {
        part.name for seed in range(4) for recipe in engine(photos, generator=seeded(seed)).recipe for part in recipe
    }
    assert drawn == {"fade", "gaussian_blur"}


def test_own_operator_as_documented_stands_in_tiers(documented: dict[str, Any], photos: Tensor) -> None:
    fade, engine = documented["FADE"], documented["engine"]
    rungs = ladder(photos, fade, [0.2, 0.9, 0.5], generator=seeded())
    assert rungs.names == (("fade",),) * 2
    assert rungs.order[0].tolist() == [[False, True, True], [False, False, False], [False, True, False]]
    torch.testing.assert_close(rungs.images[:, 1], distort(photos, fade, 0.9))
    both = dominance(photos, [fade, "gaussian_blur"], [(0.2, 0.2), (0.8, 0.2), (0.2, 0.8)], generator=seeded())
    assert both.order[0].tolist() == [[False, True, True], [False, False, False], [False, False, False]]
    for kind in ("ladder", "dominance", "inclusion"):
        tier = engine.tier(photos, 4, generator=seeded(), kinds={kind: 1.0})
        assert tier.kind == (kind,) * 2
        assert tier.order.flatten(1).any(dim=1).all()


# --- one operator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distortion", DistortionEngine().distortions, ids=lambda one: one.name)
def test_severity_zero_is_bitwise_identity(distortion: Distortion, photos: Tensor) -> None:
    assert torch.equal(distort(photos, distortion, 0.0), photos)
    mixed = distort(photos, distortion.name, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed[0], photos[0])
    assert not torch.equal(mixed[1], photos[1])


def test_distort_repeats_itself(photos: Tensor) -> None:
    assert torch.equal(distort(photos, GRAIN, 0.5), distort(photos, GRAIN, 0.5, generator=seeded(0)))
    assert not torch.equal(distort(photos, GRAIN, 0.5), distort(photos, GRAIN, 0.5, generator=seeded(1)))


def test_distort_takes_masks_and_kinds(photos: Tensor) -> None:
    mask = torch.zeros(64, 96)
    mask[:, 48:] = 0.5
    result = distort(photos, DIM, 1.0, region=mask)
    assert torch.equal(result[..., :48], photos[..., :48])
    torch.testing.assert_close(result[..., 48:], 0.75 * photos[..., 48:])
    assert torch.equal(result, distort(photos, DIM, 1.0, region=mask.expand(2, 1, -1, -1)))
    somewhere = distort(photos, DIM, 1.0, region="shape")
    assert torch.equal(somewhere, distort(photos, DIM, 1.0, region="shape"))
    assert 0 < (somewhere != photos).float().mean() < 0.6


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"distortions": ["gausian_blur"]}, ValueError, "did you mean 'gaussian_blur'"),
        ({"distortions": []}, ValueError, "at least one"),
        ({"distortions": "gaussian_blur"}, TypeError, "sequence"),
        ({"distortions": [3]}, TypeError, "name or a Distortion"),
        ({"distortions": [DIM, DIM]}, ValueError, "distinct"),
        ({"severity": (0.1, 1.2)}, ValueError, "severity"),
        ({"severity": (0.9, 0.1)}, ValueError, "severity"),
        ({"severity": 0.5}, TypeError, "severity, a range, must be numbers, got 0.5"),
        ({"severity": "01"}, TypeError, "severity, a range, must be numbers, got '01'"),
        ({"severity": {0.2, 0.9}}, TypeError, "severity, a range, must be numbers"),
        ({"severity": (0.1, 0.5, 1)}, ValueError, r"severity must be a range \(low, high\), got \(0.1, 0.5, 1\)"),
        ({"regions": "soft"}, TypeError, "regions must map whole, .* to probabilities, got 'soft'"),
        ({"components": [1, 2]}, TypeError, "components must map 1, 2, 3 to probabilities"),
        ({"regions": {"holes": 1.0}}, ValueError, "holes"),
        ({"regions": {"whole": -1.0}}, ValueError, "whole"),
        ({"components": {4: 1.0}}, ValueError, "components"),
        ({"components": {1: 0.0}}, ValueError, "components"),
        ({"odds": {"jpg": 2}}, ValueError, "operator in odds.*did you mean 'jpeg'"),
        ({"odds": {"jpeg": 0}}, ValueError, r"odds\['jpeg'\] must be a whole number in 1 .. 1000, got 0"),
        ({"odds": {"jpeg": 1.5}}, ValueError, "got 1.5"),
        ({"odds": {"jpeg": float("nan")}}, ValueError, "got nan"),
        ({"odds": {"jpeg": 1e300}}, ValueError, "got 1e"),
        ({"odds": {"jpeg": True}}, ValueError, "got True"),
        ({"odds": {"jpeg": "many"}}, ValueError, "got 'many'"),
        ({"odds": ["jpeg"]}, TypeError, "odds must map names"),
        ({"whole": ["jpg"]}, ValueError, "operator in whole.*did you mean 'jpeg'"),
        ({"whole": "jpeg"}, TypeError, "whole must be names"),
        ({"whole": None}, TypeError, "whole must be names of operators, got None"),
    ],
)
def test_engine_refuses(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DistortionEngine(**arguments)  # type: ignore[arg-type]


def test_engine_refuses_bad_calls(photos: Tensor) -> None:
    engine = DistortionEngine(OWN)
    with pytest.raises(ValueError, match="images must have 3 channels"):
        engine(photos[:, :1], generator=seeded())
    with pytest.raises(TypeError, match="images must be float"):
        engine((photos * 255).byte(), generator=seeded())
    with pytest.raises(TypeError, match="generator"):
        engine(photos, generator=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one recipe for each of 2"):
        engine.render(photos, [()])
    with pytest.raises(ValueError, match="did you mean 'grain'"):
        engine.render(photos[:1], [(Component("grains", 0.5, "whole", 0),)])
    with pytest.raises(ValueError, match="unknown region"):
        engine.render(photos[:1], [(Component("grain", 0.5, "holes", 0),)])


@pytest.mark.parametrize(
    ("severity", "region", "error"),
    [
        (1.5, None, ValueError),
        (-0.1, None, ValueError),
        (float("nan"), None, ValueError),
        (torch.tensor([0.5, 0.5, 0.5]), None, ValueError),
        (None, None, TypeError),
        (0.5, "holes", ValueError),
        (0.5, torch.ones(3, 3), ValueError),
        (0.5, torch.full((64, 96), 2.0), ValueError),
        (0.5, 7, TypeError),
    ],
)
def test_distort_refuses(photos: Tensor, severity: float, region: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"severity|region"):
        distort(photos, DIM, severity, region=region)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["block_dct", "denoised", "gaussian_blur"])
def test_distort_is_the_same_under_autocast(photos: Tensor, name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = distort(photos, name, 0.5, region="soft")
    assert torch.equal(within, distort(photos, name, 0.5, region="soft"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bound_is_approached_and_never_met(dtype: torch.dtype) -> None:
    values = torch.linspace(0, 20, 401, dtype=dtype)
    bounded = below(values, 3.0)
    assert (bounded.diff() > 0).all() and bounded.amax() < 3.0
    assert torch.equal(bounded[values <= 1.5], values[values <= 1.5])


def test_of_a_small_picture_one_pixel_at_least_is_kept(make_photos: Callable[..., Tensor]) -> None:
    tiny = make_photos(2, 16, 16)
    filled = sparse_sampling(tiny, torch.zeros(2), seeded())
    assert torch.equal(filled, filled[..., :1, :1].expand_as(filled))
    assert all((picture == one[:, :1, :1]).all(0).any() for picture, one in zip(tiny, filled, strict=True))


def test_ripples_need_an_edge_to_hover_about() -> None:
    flat = torch.rand(64, 3, 1, 1, generator=seeded()).expand(-1, -1, 32, 32)
    assert (distort(flat, "mosquito_noise", 1.0) - flat).abs().amax() < 1e-6


@pytest.mark.parametrize("name", ["zoom", "barrel", "rotation", "chromatic_aberration"])
def test_the_strongest_level_leaves_small_pictures_recognisable(make_photos: Callable[..., Tensor], name: str) -> None:
    tiny = make_photos(4, 16, 16)
    for seed in range(8):
        result = distort(tiny, name, 1.0, generator=Generator().manual_seed(seed))
        both = torch.stack([tiny.flatten(1), result.flatten(1)], dim=1)
        assert all(torch.corrcoef(pair)[0, 1] > 0.2 for pair in both)


@pytest.mark.parametrize(
    ("span", "geometric", "message"),
    [((-1.0, 1.0), True, "of one sign"), ((0.0, 1.0), True, "not 0"), ((0.0, float("inf")), False, "finite, got")],
)
def test_a_span_that_cannot_be_interpolated_is_refused(
    span: tuple[float, float], geometric: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"both ends of the span of 'mine' must be .*{message}"):
        Distortion("mine", "tone", {"blur": 1.0}, span, lambda images, p, g: images, geometric=geometric)


def test_numbers_of_numpy_in_a_record_become_plain_ones() -> None:
    span, levels = np.array([0.1, 0.6], dtype=np.float32), np.linspace(0.0, 1.0, 11)
    made = Distortion("mine", "tone", {"blur": 1.0}, span, lambda images, p, g: images, levels=levels)  # type: ignore[arg-type]
    assert json.loads(json.dumps([made.span, made.levels])) == [pytest.approx([0.1, 0.6]), levels.tolist()]
    for wrong in ("12", ("0.1", "0.5"), 0.5, {0.1, 0.5}):
        with pytest.raises(TypeError, match="span of 'mine' must be numbers, got"):
            Distortion("mine", "tone", {"blur": 1.0}, wrong, lambda images, p, g: images)  # type: ignore[arg-type]


def test_operators_that_change_the_size_are_named(photos: Tensor) -> None:
    crop = Distortion("crop", "loss", {"occlusion": 1.0}, (0.0, 1.0), lambda images, p, g: images[..., 1:])
    with pytest.raises(ValueError, match="'crop' returned shape"):
        distort(photos, crop, 0.5)


@pytest.mark.gpu
def test_engine_runs_where_the_images_are(photos: Tensor) -> None:
    images = photos.cuda()
    generator = Generator(device="cuda").manual_seed(0)
    triplet = DistortionEngine()(images, generator=generator)
    assert triplet.distorted.device == images.device and triplet.maps.device == images.device
    assert same(triplet, DistortionEngine().render(images, triplet.recipe))
    with pytest.raises(ValueError, match="device of images"):
        DistortionEngine()(images, generator=seeded())
