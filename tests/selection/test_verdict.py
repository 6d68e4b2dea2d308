"""Reasons that are named only where they hold over images, and rankings that admit ties."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relqa_loss import CheckpointSelector, RelationalLoss
from relqa_loss.relation import AXES
from relqa_loss.selection import ImageScores, compare, rank
from relqa_loss.words import AXIS_WORDS, change_in_words

COUNT = 10


def scores(
    distances: Tensor, parts: dict[str, Tensor | float] | None = None, tilts: dict[str, Tensor | float] | None = None
) -> ImageScores:
    def columns(given: dict[str, Tensor | float] | None) -> Tensor:
        found = torch.zeros(len(distances), len(AXES), dtype=torch.float64)
        for axis, values in (given or {}).items():
            found[:, AXES.index(axis)] = torch.as_tensor(values, dtype=torch.float64)
        return found

    keys = tuple(f"{k:03d}" for k in range(len(distances)))
    return ImageScores(keys, keys, distances.double(), columns(parts), columns(tilts))


def spread(seed: int, count: int = COUNT) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_reasons_tell_gains_from_losses() -> None:
    old = scores(torch.ones(COUNT), {"blur": 0.5, "ringing": 0.1}, {"blur": 0.4, "ringing": 0.1})
    new = scores(
        torch.ones(COUNT) - 0.2,
        {"blur": 0.2 + 0.1 * spread(1), "ringing": 0.2 + 0.05 * spread(2)},
        {"blur": 0.1 + 0.1 * spread(3), "ringing": 0.2 + 0.05 * spread(4)},
    )
    verdict = compare(new, old, tag="new", against="old")
    assert verdict.decision == "better" and verdict.why() == "sharper, but more ringing"
    assert [reason.axis for reason in verdict.reasons] == ["blur", "ringing"]
    assert verdict.reasons[0].change < 0 < verdict.reasons[1].change and verdict.reasons[0].turn < 0
    assert compare(old, new, tag="old", against="new").why() == "less ringing, but blurrier"
    assert verdict.why(1) == "sharper"


def test_an_axis_that_changes_both_ways_is_no_reason() -> None:
    sign = torch.tensor([1.0, -1.0]).repeat(COUNT // 2)
    old = scores(torch.ones(COUNT), {"blur": 1.0, "noise": 1.0})
    new = scores(torch.ones(COUNT), {"blur": 1 + 0.3 * sign - 0.1, "noise": 0.9 + 0.01 * spread(1)}, {"noise": -0.1})
    assert [reason.axis for reason in compare(new, old, tag="new", against="old").reasons] == ["noise"]


def test_a_change_that_is_sure_but_tiny_is_no_reason() -> None:
    old = scores(torch.ones(COUNT), {"blur": 1.0, "noise": 1.0})
    new = scores(torch.ones(COUNT), {"blur": 0.5, "noise": 0.999})
    assert [reason.axis for reason in compare(new, old, tag="new", against="old").reasons] == ["blur"]


def test_chance_alone_rarely_gives_a_reason() -> None:
    named = 0
    for seed in range(60):
        old, new = (
            scores(torch.ones(COUNT), {axis: spread(1000 * (seed + 1) + 40 * half + k) for k, axis in enumerate(AXES)})
            for half in range(2)
        )
        named += bool(compare(new, old, tag="new", against="old", resamples=1).reasons)
    assert named <= 7, "17 axes at 0.95 each would name one in 35 of 60"


def test_words_say_what_does_not_go_without_saying() -> None:
    assert change_in_words("blur", -0.1, -0.2) == "sharper"
    assert change_in_words("blur", 0.1, -0.2) == "sharper, farther from the originals"
    assert change_in_words("brightness", -0.1, 0.2) == "brighter, nearer to the originals"
    assert change_in_words("shift_x", 0.1, 0.0) == "shift x farther from the originals"
    assert {change_in_words(axis, 0.1, 0.1) for axis in ("noise", "ringing")} == {
        AXIS_WORDS["noise"][0],
        AXIS_WORDS["ringing"][0],
    }
    with pytest.raises(ValueError, match="did you mean 'blur'"):
        change_in_words("blurr", 0.1, 0.1)


def test_the_real_loss_names_what_was_done(loss_fn: RelationalLoss, make_photos: Callable[..., Tensor]) -> None:
    photos = make_photos(8, 64, 64)
    soft = F.avg_pool2d(F.pad(photos, (2, 2, 2, 2), mode="replicate"), 5, 1)
    grain = 0.05 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(2))
    selector = CheckpointSelector(photos, loss_fn, level=0.9)
    selector.update(soft, "soft")
    reasons = {reason.axis: reason for reason in selector.update(photos + grain, "grainy").reasons}
    assert reasons["blur"].change < 0 and reasons["blur"].words == "sharper"
    assert reasons["noise"].change > 0 and reasons["noise"].words == "grainier"


def test_a_ranking_admits_what_it_cannot_tell() -> None:
    base = 1 + spread(1)
    ranking = rank(
        {
            "poor": scores(base + 1),
            "good": scores(base + 0.01 * (spread(2) - 0.5)),
            "twin": scores(base + 0.01 * (spread(3) - 0.5)),
            "poor twin": scores(base + 1 + 0.01 * (spread(4) - 0.5)),
        }
    )
    assert set(ranking.best) == {"good", "twin"} and len(ranking.groups) == 2
    assert {frozenset(group) for group in ranking.groups} == {
        frozenset({"good", "twin"}),
        frozenset({"poor", "poor twin"}),
    }
    assert {(place.best, place.worst) for place in ranking.places[:2]} == {(1, 2)}
    assert {(place.best, place.worst) for place in ranking.places[2:]} == {(3, 4)}
    assert len(ranking.verdicts) == 6 and set(ranking.against(ranking.places[0].tag)) == {
        place.tag for place in ranking.places[1:]
    }


def test_groups_overlap_where_neighbours_cannot_be_told_apart_but_the_ends_can() -> None:
    sign = torch.tensor([1.0, -1.0]).repeat(COUNT // 2)
    steps = {"a": 0.0, "b": 0.02, "c": 0.04}
    noise = {"a": 0.0, "b": 0.06, "c": 0.0}
    ranking = rank({tag: scores(1 + steps[tag] + noise[tag] * sign) for tag in steps})
    assert ranking.groups == (("a", "b"), ("b", "c")) and ranking.best == ("a", "b")
    assert [(place.best, place.worst) for place in ranking.places] == [(1, 2), (1, 3), (2, 3)]


def test_one_checkpoint_ranks_first_and_none_is_an_error() -> None:
    assert rank({"only": scores(torch.ones(3))}).best == ("only",)
    with pytest.raises(ValueError, match="at least one checkpoint"):
        rank({})
    with pytest.raises(ValueError, match="at least one image, got none for 'empty'"):
        rank({"empty": scores(torch.ones(0))})
    with pytest.raises(ValueError, match="same images"):
        rank({"a": scores(torch.ones(3)), "b": scores(torch.ones(4))})


def test_many_equal_checkpoints_are_seldom_told_apart() -> None:
    wrong = 0
    for seed in range(20):
        wrong += (
            len(rank({str(k): scores(spread(100 * seed + k, 20)) for k in range(6)}, level=0.9, resamples=99).groups)
            > 1
        )
    assert wrong <= 5, "15 pairs at 0.9 each would be wrong in 16 of 20"


def test_twenty_checkpoints_can_still_be_told_apart() -> None:
    ranking = rank({str(k): scores(1 + k + 0.1 * spread(k, 20)) for k in range(20)}, resamples=99)
    assert len(ranking.groups) == 20 and ranking.best == ("0",)
