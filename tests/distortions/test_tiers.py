from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Generator, Tensor

from relqa_loss.distortions import (
    BANK,
    Component,
    Distortion,
    DistortionEngine,
    Tier,
    across_kinds,
    by_name,
    consensus,
    dominance,
    inclusion,
    ladder,
)
from relqa_loss.distortions.panel import MIN_PANEL_SIDE, panel_scores
from relqa_loss.distortions.tier_plans import KINDS, acts_after, dominance_conflict


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def named(*names: str) -> list[Distortion]:
    return [by_name(name) for name in names]


def assert_strict_partial_order(tier: Tier) -> None:
    order = tier.order
    assert order.dtype == torch.bool
    assert not order.diagonal(dim1=1, dim2=2).any()
    assert not (order & order.transpose(1, 2)).any()
    implied = (order.float() @ order.float()) > 0
    equal = (tier.images[:, :, None] == tier.images[:, None]).flatten(3).all(dim=3)
    assert (order | equal)[implied].all()
    assert not (order & equal).any()


def energy(tier: Tier) -> Tensor:
    return (tier.images - tier.reference[:, None]).abs().flatten(2).sum(dim=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_a_strict_partial_order(kind: str, make_photos: Callable[..., Tensor]) -> None:
    side = MIN_PANEL_SIDE if kind == "consensus" else 48
    images = make_photos(8, side, side)
    tier = DistortionEngine().tier(images, size=4, generator=seeded(3), kinds={kind: 1.0})
    assert tier.images.shape == (8, 4, 3, side, side)
    assert tier.order.shape == (8, 4, 4)
    assert tier.severity.shape == (8, 4)
    assert tier.kind == (kind,) * 8
    assert len(tier.recipes) == len(tier.names) == 8 and all(len(recipes) == 4 for recipes in tier.recipes)
    assert_strict_partial_order(tier)
    if kind not in ("kinds", "consensus"):
        assert tier.order.flatten(1).any(dim=1).all()


def test_default_mixes_the_three_true_kinds(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(24, 32, 32)
    tier = DistortionEngine(["gaussian_blur", "luma_noise", "saturate", "tint_blue"]).tier(images, generator=seeded(1))
    assert set(tier.kind) == {"ladder", "dominance", "inclusion"}
    assert_strict_partial_order(tier)


def test_same_seed_same_bytes(photos: Tensor) -> None:
    engine = DistortionEngine()
    first, second, other = (engine.tier(photos, 3, generator=seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first.images, second.images) and torch.equal(first.order, second.order)
    assert first.recipes == second.recipes
    assert first.recipes != other.recipes


def test_pictures_of_a_tier_come_from_their_recipes(make_photos: Callable[..., Tensor]) -> None:
    engine = DistortionEngine()
    photos = make_photos(2, MIN_PANEL_SIDE, MIN_PANEL_SIDE)
    for kind in KINDS:
        tier = engine.tier(photos, 3, generator=seeded(2), kinds={kind: 1.0})
        for i, j in product(range(2), range(3)):
            alone = engine.render(photos[i : i + 1], [tier.recipes[i][j]])
            assert torch.equal(alone.distorted[0], tier.images[i, j])


def test_ladder_has_one_draw_and_rising_steps(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(6, 32, 32)
    tier = DistortionEngine(["luma_noise"]).tier(images, 6, generator=seeded(4), kinds={"ladder": 1.0})
    assert ((tier.severity[:, 1:] - tier.severity[:, :-1]) > 0.1 - 1e-6).all()
    assert tier.severity.min() >= 0.1 - 1e-6 and tier.severity.max() <= 1
    for recipes in tier.recipes:
        assert len({(part.seed, part.region, part.name) for (part,) in recipes}) == 1
    above = torch.ones(6, 6, dtype=torch.bool).triu(1)
    assert (tier.order == above).all()
    assert (energy(tier).diff(dim=1) > 0).all()


def test_full_ladder_fits() -> None:
    tier = DistortionEngine(["darken"]).tier(
        torch.rand(2, 3, 16, 16, generator=seeded()), 10, generator=seeded(), kinds={"ladder": 1.0}
    )
    assert (tier.severity.diff(dim=1) > 0.1 - 1e-6).all() and tier.severity.max() <= 1


def test_ladder_of_a_named_operator(photos: Tensor) -> None:
    tier = ladder(photos, "gaussian_blur", [0.8, 0.2, 0.5], region="soft", generator=seeded())
    torch.testing.assert_close(tier.severity, torch.tensor([[0.8, 0.2, 0.5]] * 2))
    assert tier.order[0].tolist() == [[False] * 3, [True, False, True], [True, False, False]]
    assert tier.names == (("gaussian_blur",),) * 2


def test_bitwise_equal_pictures_are_not_ordered(photos: Tensor) -> None:
    steps = Distortion(
        "steps", "tone", {"brightness": 1.0}, (0.0, 1.0), lambda x, p, g: x * 0.9 + 0.05 * (p > 0.5).view(-1, 1, 1, 1)
    )
    tier = ladder(photos, steps, [0.1, 0.3, 0.6, 0.9], generator=seeded())
    assert torch.equal(tier.images[:, 0], tier.images[:, 1])
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert tier.order[0].int().tolist() == expected


def test_an_operator_that_comes_back_is_not_ordered_at_all(photos: Tensor) -> None:
    there_and_back = Distortion(
        "swing", "tone", {"brightness": 1.0}, (0.0, 1.0), lambda x, p, g: x * (0.5 + (p - 0.5).abs()).view(-1, 1, 1, 1)
    )
    tier = ladder(photos, there_and_back, [0.25, 0.5, 0.75], generator=seeded())
    assert torch.equal(tier.images[:, 0], tier.images[:, 2])
    assert not tier.order.any()


def test_dominance_orders_by_every_component(photos: Tensor) -> None:
    strengths = [(0.2, 0.2), (0.5, 0.2), (0.2, 0.6), (0.5, 0.6), (0.0, 0.9)]
    tier = dominance(photos, ["gaussian_blur", "tint_blue"], strengths, generator=seeded())
    for i, j in product(range(5), range(5)):
        better = all(a <= b for a, b in zip(strengths[i], strengths[j], strict=True)) and strengths[i] != strengths[j]
        assert tier.order[0, i, j].item() == better
    assert tier.severity[0].tolist() == pytest.approx([0.2, 0.5, 0.6, 0.6, 0.9])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["brighten", "darken"], "opposite signs"),
        (["gaussian_blur", "oversharpen"], "opposite signs"),
        (["luma_noise", "gaussian_blur"], "noise"),
        (["median_smear", "impulse_noise"], "noise"),
        (["jpeg", "tint_red"], "not made for dominance"),
    ],
)
def test_dominance_refuses_what_has_no_certain_order(photos: Tensor, names: Sequence[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dominance(photos, names, [(0.1, 0.2), (0.3, 0.4)], generator=seeded())


def test_random_dominance_keeps_its_rules(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(40, 16, 16)
    # The plans matter here: operators that cost nothing take the place of the real ones.
    bank = [replace(one, apply=lambda x, p, g: x * 0.99, flow=None, codec=None) for one in BANK]
    tier = DistortionEngine(bank).tier(images, 5, generator=seeded(9), kinds={"dominance": 1.0})
    for recipes in tier.recipes:
        parts = named(*(part.name for part in recipes[0]))
        assert len(parts) in (2, 3) and dominance_conflict(parts) is None
        assert len({tuple((part.name, part.seed, part.region) for part in recipe) for recipe in recipes}) == 1
        assert [acts_after(part) for part in parts] == sorted(acts_after(part) for part in parts)
        vectors = [tuple(part.severity for part in recipe) for recipe in recipes]
        assert len(set(vectors)) == 5 and all(any(vector) for vector in vectors)
        for one, other in product(vectors, vectors):
            assert all(a == b or abs(a - b) > 0.1 - 1e-9 for a, b in zip(one, other, strict=True))


def test_inclusion_is_nested(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(3, 48, 48)
    tier = DistortionEngine(["luma_noise"]).tier(images, 5, generator=seeded(2), kinds={"inclusion": 1.0})
    assert (tier.order == torch.ones(5, 5, dtype=torch.bool).triu(1)).all()
    damage = (tier.images - tier.reference[:, None]).abs()
    assert (damage.diff(dim=1) > -1e-6).all()
    assert (energy(tier).diff(dim=1) > 0).all()
    assert (tier.severity == tier.severity[:, :1]).all()


def test_inclusion_by_name(photos: Tensor) -> None:
    tier = inclusion(photos, "gaussian_blur", 0.7, [0.2, 0.8], generator=seeded())
    changed = (tier.images != tier.reference[:, None]).any(dim=2)
    assert (changed[:, 0] <= changed[:, 1]).all()
    assert tier.order[0].tolist() == [[False, True], [False, False]]
    for name in ("brighten", "shift_left", "missing_blocks"):
        with pytest.raises(ValueError, match="inclusion"):
            inclusion(photos, name, 0.7, [0.2, 0.8], generator=seeded())


def test_across_kinds_is_ordered_from_a_clear_difference_only(photos: Tensor) -> None:
    tier = across_kinds(photos, ["gaussian_blur", "luma_noise", "pixelate"], [0.2, 0.4, 0.5], generator=seeded())
    assert tier.order[0].int().tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert tier.names[0] == ("gaussian_blur", "luma_noise", "pixelate")


def test_consensus_orders_what_the_whole_panel_orders(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(2, MIN_PANEL_SIDE, MIN_PANEL_SIDE)
    recipes = [
        (Component("gaussian_blur", 0.9, "whole", 0),),
        (Component("gaussian_blur", 0.2, "whole", 0),),
        (Component("luma_noise", 1.0, "whole", 0), Component("gaussian_blur", 0.9, "whole", 0)),
        (),
    ]
    tier = consensus(images, recipes, ["gaussian_blur", "luma_noise"])
    assert torch.equal(tier.images[:, 3], images) and tier.severity[0].tolist() == pytest.approx([0.9, 0.2, 1.0, 0.0])
    assert tier.kind == ("consensus",) * 2
    assert_strict_partial_order(tier)
    assert tier.order[:, 1, 0].all() and tier.order[:, 1, 2].all()
    scores = torch.stack([panel_scores(picture, images) for picture in tier.images.unbind(1)], dim=1)
    # A member abstains within a level of its scale, so a better picture may be worse by a hair in one of them.
    agreed = (scores[:, :, None] <= 1.2 * scores[:, None]).all(dim=-1)
    assert agreed[tier.order].all()


def test_consensus_of_the_engine_orders_much(make_photos: Callable[..., Tensor]) -> None:
    images = make_photos(4, MIN_PANEL_SIDE, MIN_PANEL_SIDE)
    tier = DistortionEngine(["gaussian_blur", "luma_noise", "pixelate"]).tier(
        images, 5, generator=seeded(1), kinds={"consensus": 1.0}
    )
    assert tier.order.float().mean() > 0.15  # 0.4 if every pair were ordered


def test_tier_refuses(photos: Tensor) -> None:
    engine = DistortionEngine(["shift_left"])
    for size in (1, 11):
        with pytest.raises(ValueError, match="size"):
            engine.tier(photos, size, generator=seeded())
    for kind in ("dominance", "inclusion", "kinds"):
        with pytest.raises(ValueError, match=kind):
            engine.tier(photos, 3, generator=seeded(), kinds={kind: 1.0})
    with pytest.raises(ValueError, match="pyramid"):
        engine.tier(photos, 3, generator=seeded(), kinds={"pyramid": 1.0})
    assert set(engine.tier(photos, 3, generator=seeded()).kind) == {"ladder"}
    with pytest.raises(ValueError, match="severities"):
        ladder(photos, "gaussian_blur", [0.1, 1.1], generator=seeded())
    with pytest.raises(ValueError, match="at least one"):
        ladder(photos, "gaussian_blur", [], generator=seeded())
    with pytest.raises(ValueError, match="one entry for each"):
        dominance(photos, ["gaussian_blur", "tint_blue"], [(0.1,)], generator=seeded())
