"""Figures on other pictures than single operators on single photographs, by comparers whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import pytest
import torch
from torch import Generator, Tensor

from relqa_loss.distortions.record import Distortion
from relqa_loss.evaluation import panel_figures
from relqa_loss.evaluation.engine_rows import Row
from relqa_loss.evaluation.order_figures import count_mixed, count_triples
from relqa_loss.evaluation.pair_figures import LEADS, measure_pairs, plan_pairs, told_apart
from relqa_loss.evaluation.panel_figures import PICTURES, panel_agreement
from relqa_loss.evaluation.scene_figures import measure_scenes
from relqa_loss.evaluation.shift_figures import measure_shift
from relqa_loss.evaluation.statistics import spearman
from relqa_loss.images import MissingExtra
from relqa_loss.relation import AXES, Relation


def _column(parameter: Tensor) -> Tensor:
    return parameter.view(-1, 1, 1, 1)


def _brighten(images: Tensor, parameter: Tensor, generator: Generator) -> Tensor:
    return images + _column(parameter)


def _grain(images: Tensor, parameter: Tensor, generator: Generator) -> Tensor:
    draw = torch.randn(images[:, :1].shape, generator=generator).clamp(-2, 2)
    return images + _column(parameter) * draw


def _nothing(images: Tensor, parameter: Tensor, generator: Generator) -> Tensor:
    return images.clone()


def _rightwards(images: Tensor, parameter: Tensor, generator: Generator) -> Tensor:
    flow = torch.zeros_like(images[:, :2])
    flow[:, 0] = parameter.view(-1, 1, 1)
    return flow


BRIGHTEN = Distortion("up", "tone", {"brightness": 1.0}, (0.0, 0.2), apply=_brighten)
GRAIN = Distortion("grain", "sensor", {"noise": 1.0}, (0.0, 0.1), apply=_grain)
SPECKS = Distortion("specks", "sensor", {"impulse": 1.0}, (0.0, 0.1), apply=_grain)
IDLE = Distortion("idle", "optics", {"blur": 1.0}, (0.0, 1.0), apply=_nothing)
RIGHT = Distortion("right", "geometry", {"shift_x": 1.0}, (0.0, 8.0), flow=_rightwards)
PICTURES_OF_GREY = [torch.full((1, 3, 64, 64), level) for level in (0.4, 0.45, 0.5, 0.55)]


class Says:
    """Maps of constants, whatever it is shown; distance and score by the functions it is given."""

    def __init__(
        self,
        maps: Mapping[str, float] | None = None,
        distance: Callable[[Tensor, Tensor], Tensor] | None = None,
        score: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.maps, self.distance, self.score = maps or {}, distance, score

    def relate(self, a: Tensor, b: Tensor, ref: Tensor | None = None) -> Relation:
        b = b.expand_as(a)
        zeros = torch.zeros(a.shape[0])
        values = torch.tensor([self.maps.get(axis, 0.0) for axis in AXES])
        maps = values.view(1, -1, 1, 1).expand(a.shape[0], -1, *a.shape[2:])
        distance = zeros if self.distance is None else self.distance(a, b)
        score = self.score
        return Relation(
            distance,
            torch.zeros(a.shape[0], len(AXES)),
            zeros,
            lambda: maps,
            lambda: zeros if score is None else score(a, b),
        )


def difference(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean(dim=(1, 2, 3))


def rows_of(*bank: Distortion) -> dict[str, Row]:
    return {one.name: Row() for one in bank}


def pairs_share(answer: Mapping[str, float]) -> float | None:
    rows = rows_of(BRIGHTEN, GRAIN)
    measure_pairs(Says(answer), (BRIGHTEN, GRAIN), PICTURES_OF_GREY, 0, rows)
    assert rows["up"].top_three.asked == rows["grain"].top_three.asked == 1
    return rows["up"].top_three.share()


def test_two_operators_are_found_where_both_are_among_the_strongest_three() -> None:
    assert pairs_share({"brightness": 3, "noise": -1, "blur": 2}) == 1.0
    assert pairs_share({"brightness": 4, "noise": 1, "blur": 2, "ringing": -3}) == 0.0


def test_maps_of_zeros_find_no_operator() -> None:
    assert pairs_share({}) == 0.0


def test_a_pair_of_which_one_is_not_to_be_seen_does_not_count() -> None:
    rows = rows_of(BRIGHTEN, IDLE)
    measure_pairs(Says({"brightness": 1, "blur": 1}), (BRIGHTEN, IDLE), PICTURES_OF_GREY, 0, rows)
    assert rows["up"].top_three.asked == rows["idle"].top_three.asked == 0


def test_partners_are_several_and_none_undoes_the_first() -> None:
    blur = Distortion("soft", "optics", {"blur": 1.0}, (0.0, 1.0), apply=_nothing)
    sharp = Distortion("sharp", "processing", {"blur": -1.0}, (0.0, 1.0), apply=_nothing)
    recipes = plan_pairs(blur, (blur, sharp, BRIGHTEN, GRAIN, SPECKS, RIGHT), 3)
    partners = [{component.name for component in recipe} - {"soft"} for recipe in recipes]
    assert len(recipes) == LEADS == len(set(map(frozenset, partners)))
    assert all("sharp" not in one for one in partners)


def test_one_axis_does_not_answer_for_two_operators() -> None:
    strip = Distortion("strip", "sensor", {"noise": 1.0, "banding": 0.5}, (0.0, 1.0), apply=_grain)
    assert not told_apart(AXES, GRAIN, GRAIN)
    assert told_apart({"noise", "banding"}, GRAIN, strip)
    assert not told_apart({"noise"}, GRAIN, strip)
    assert all(len({one.name for one in recipe} - {"grain"}) == 1 for recipe in plan_pairs(GRAIN, (GRAIN, strip), 0))
    twin = Distortion("twin", "sensor", {"noise": 1.0}, (0.0, 1.0), apply=_grain)
    assert plan_pairs(GRAIN, (GRAIN, twin), 0) == []


def test_an_operator_without_trace_takes_no_part_in_pairs() -> None:
    copied = Distortion("copied", "loss", {"occlusion": 1.0}, (0.0, 0.2), apply=_grain, trace=False)
    rows = rows_of(BRIGHTEN, copied)
    measure_pairs(Says({"brightness": 1}), (BRIGHTEN, copied), PICTURES_OF_GREY, 0, rows)
    assert rows["up"].top_three.asked == 0


@pytest.mark.parametrize(("says", "error"), [(0.5, 0.0), (0.0, 2.0), (-0.5, 4.0)])
def test_the_end_point_error_is_in_pixels(says: float, error: float) -> None:
    row = Row()
    # Severity 0.25 of 8 px is 2 px, half a unit of the map.
    measure_shift(Says({"shift_x": says}), RIGHT, torch.rand(2, 3, 64, 64), (0.25,), 5, row)
    assert row.shift_errors == pytest.approx([error, error], abs=1e-4)


def test_pixels_displaced_beyond_reach_give_no_end_point_error() -> None:
    row = Row()
    measure_shift(Says(), RIGHT, torch.rand(1, 3, 64, 64), (0.5, 0.9), 5, row)
    assert row.shift_errors == pytest.approx([4.0], abs=1e-4)


def triples(scores: Mapping[tuple[int, int], float]) -> tuple[int, int]:
    count = count_triples(
        {pair: torch.tensor([value]) for pair, value in scores.items()}, dict.fromkeys(scores, torch.tensor([True]))
    )
    return count.right, count.asked


def test_a_circle_of_scores_is_a_cycle_and_an_order_is_none() -> None:
    assert triples({(0, 1): 1.0, (1, 2): 1.0, (0, 2): 1.0}) == (1, 1)
    assert triples({(0, 1): 1.0, (1, 2): 1.0, (0, 2): -1.0}) == (0, 1)
    assert triples({(0, 1): -1.0, (1, 2): -1.0, (0, 2): 1.0}) == (0, 1)


def test_two_wins_and_a_draw_break_the_order_and_draws_alone_are_not_asked() -> None:
    assert triples({(0, 1): 1.0, (1, 2): 1.0, (0, 2): 0.0}) == (0, 1)
    assert triples({(0, 1): 0.0, (1, 2): 0.0, (0, 2): 0.0}) == (0, 0)


def test_a_triple_with_pictures_that_may_not_be_compared_is_left_out() -> None:
    scores = dict.fromkeys(combinations(range(3), 2), torch.tensor([1.0, 1.0]))
    usable = dict.fromkeys(scores, torch.tensor([True, True])) | {(0, 2): torch.tensor([True, False])}
    assert count_triples(scores, usable).asked == 1


def test_mixes_of_operators_run_in_no_circle_where_the_score_is_an_order() -> None:
    def by_spread(a: Tensor, b: Tensor) -> Tensor:
        return b.var(dim=(1, 2, 3)) - a.var(dim=(1, 2, 3))

    def by_chance(a: Tensor, b: Tensor) -> Tensor:
        return torch.randn(a.shape[0])

    ordered = count_mixed(Says(score=by_spread), (GRAIN, SPECKS), PICTURES_OF_GREY, 1)
    guessed = count_mixed(Says(score=by_chance), (GRAIN, SPECKS), PICTURES_OF_GREY, 1)
    assert ordered.right == ordered.asked > 400
    assert 0.6 < guessed.right / guessed.asked < 0.9


def test_mixes_need_two_operators_that_can_be_told_apart_alone() -> None:
    assert count_mixed(Says(), (BRIGHTEN, GRAIN), PICTURES_OF_GREY, 1).asked == 0


def test_scenes_are_pooled_over_photographs_and_all_severities() -> None:
    def with_scene(a: Tensor, b: Tensor) -> Tensor:
        return difference(a, b) + 10 * b.mean(dim=(1, 2, 3))

    good, bad = rows_of(BRIGHTEN), rows_of(BRIGHTEN)
    measure_scenes(Says(distance=difference), (BRIGHTEN,), PICTURES_OF_GREY, 0, good)
    measure_scenes(Says(distance=with_scene), (BRIGHTEN,), PICTURES_OF_GREY, 0, bad)
    assert len(good["up"].scene_severity) == 5 * len(PICTURES_OF_GREY)
    assert sorted(set(good["up"].scene_severity)) == [k / 10 for k in range(1, 11)]
    assert spearman(good["up"].scene_severity, good["up"].scene_distance) > 0.99
    # Right within each photograph, wrong across them.
    assert spearman(bad["up"].scene_severity, bad["up"].scene_distance) < 0.5


def test_the_panel_agrees_with_a_distance_like_its_own_and_not_with_its_opposite() -> None:
    pytest.importorskip("piq")
    photographs = [torch.rand(3, 256, 256).mul(0.2).add(level) for level in (0.3, 0.5)]
    like = panel_agreement(Says(distance=difference), (GRAIN, SPECKS), photographs, 0)
    opposite = panel_agreement(Says(distance=lambda a, b: -difference(a, b)), (GRAIN, SPECKS), photographs, 0)
    whole, free = like["panel_agreement"], like["panel_agreement_without_opinion_constants"]
    assert whole["pictures"] == 2 * PICTURES
    assert whole["value"] > 0.7 and whole["low"] <= whole["value"] <= whole["high"]
    assert free["members"] == ["ssim", "colour_difference", "colour_difference_peak"]
    assert free["lead"]["value"] == pytest.approx(whole["value"] - free["value"])
    assert opposite["panel_agreement"]["value"] == pytest.approx(-whole["value"])


def test_without_piq_or_large_photographs_there_is_no_panel_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"panel_agreement": None, "panel_agreement_without_opinion_constants": None}
    assert panel_agreement(Says(), (BRIGHTEN,), [torch.rand(3, 200, 300)], 0) == nothing
    assert panel_agreement(Says(), (RIGHT,), [torch.rand(3, 256, 256)], 0) == nothing

    def missing(*_: object) -> Tensor:
        raise MissingExtra("piq", "benchmark")

    monkeypatch.setattr(panel_figures, "panel_scores", missing)
    assert panel_agreement(Says(), (BRIGHTEN,), [torch.rand(3, 256, 256)], 0) == nothing
