import json

import pytest
import torch

from relqa_loss.evaluation.line import POINTS, TOLERANCE, distances_along, line_study, relative_falls
from relqa_loss.relation import AXES, Relation

OPERATORS = ["darken", "gaussian_blur"]


class Formula:
    """A distance that is a function of the mean square error."""

    def __init__(self, function):
        self.function = function

    def relate(self, a, b, ref=None):
        distance = self.function((a - b).square().mean(dim=(1, 2, 3)))
        zeros = torch.zeros(a.shape[0], len(AXES))
        return Relation(distance, zeros, distance, lambda: zeros, lambda: zeros)


def test_the_line_has_both_ends_and_equal_steps(make_pair):
    distorted, reference = make_pair()
    distances = distances_along(Formula(torch.sqrt), reference, distorted)
    whole = (distorted - reference).square().mean(dim=(1, 2, 3)).sqrt()
    assert distances.shape == (2, POINTS) and distances[:, 0].tolist() == [0, 0]
    torch.testing.assert_close(distances, whole[:, None] * torch.arange(POINTS) / (POINTS - 1))


def test_the_shipped_loss_is_taken_with_the_same_values(loss_fn, make_pair):
    distorted, reference = make_pair()
    with torch.no_grad():
        distances = distances_along(loss_fn, reference, distorted)
        assert torch.equal(distances[:, -1], loss_fn.relate(distorted, reference).distance)


def test_falls_are_relative_to_the_larger_and_rises_are_none():
    falls = relative_falls(torch.tensor([[0.0, 4.0, 3.0, 3.0, 6.0], [0.0, 0.0, 0.0, 1.0, 0.0]]))
    torch.testing.assert_close(falls, torch.tensor([[0.0, 0.25, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))


def test_who_rises_has_no_fall(make_photos):
    study = line_study(Formula(torch.sqrt), list(make_photos(2, 64, 64)), distortions=OPERATORS, crop=48)
    assert json.loads(json.dumps(study, allow_nan=False)) == study
    assert (study["share"], study["pairs"], study["left_out"], study["worst"]) == (1.0, 16, 0, None)
    assert [(name, row["pairs"]) for name, row in study["per_operator"].items()] == [(name, 8) for name in OPERATORS]
    assert (study["points"], study["crop"], study["photographs"], study["seed"]) == (17, 48, 2, 0)


def test_who_turns_back_half_way_falls_everywhere_and_the_worst_is_named(make_photos):
    top = 1e-3
    valley = Formula(lambda error: torch.where(error < top, error, top * top / error.clamp_min(top)))
    photographs = list(make_photos(2, 64, 64))
    study = line_study(valley, photographs, distortions=OPERATORS, severities=(0.9,), crop=None)
    darken = study["per_operator"]["darken"]
    assert darken["share"] == 0.0 and study["share"] < 1
    worst = study["worst"]
    assert worst["severity"] == 0.9 and worst["fall"] == max(
        row["worst"]["fall"] for row in study["per_operator"].values() if row["worst"]
    )
    assert study["per_operator"][worst["operator"]]["worst"]["fall"] == worst["fall"]
    # Just behind the top the steps are the steepest: (k / (k + 1)) ** 2 remains of the step at t = k / 16.
    place = round(worst["from_t"] * 16)
    assert worst["fall"] == pytest.approx(1 - (place / (place + 1)) ** 2, rel=1e-3)


@pytest.mark.parametrize("fall, share", [(0.1 * TOLERANCE, 1.0), (10 * TOLERANCE, 0.0)])
def test_rounding_is_forgiven_and_more_is_not(make_photos, fall, share):
    counter = iter(range(10_000))
    wave = Formula(lambda error: torch.ones_like(error, dtype=torch.float64) - fall * (next(counter) % 2))
    study = line_study(wave, list(make_photos(1, 32, 32)), distortions=["darken"], crop=None)
    assert study["share"] == share and study["worst"]["fall"] == pytest.approx(fall, rel=1e-6)


def test_what_is_not_a_number_does_not_rise(make_photos):
    study = line_study(Formula(lambda error: error / 0), list(make_photos(1, 32, 32)), distortions=["darken"])
    assert study["share"] == 0.0 and study["worst"]["fall"] == 1.0


def test_pairs_without_a_visible_pixel_are_left_out():
    study = line_study(Formula(torch.sqrt), [torch.zeros(3, 32, 32)], distortions=["darken"])
    assert (study["share"], study["pairs"], study["left_out"]) == (None, 0, 4)


def test_bad_input_is_named(make_photos):
    with pytest.raises(ValueError, match="photographs must hold at least one image"):
        line_study(Formula(torch.sqrt), [])
    with pytest.raises(ValueError, match="severities must rise"):
        line_study(Formula(torch.sqrt), list(make_photos(1, 32, 32)), severities=(0.5, 0.5))
