"""The engine-based figures, on comparers whose answers are known: one that knows the truth, one blind, one reversed."""

import json

import pytest
import torch

from relqa_loss.distortions.record import Distortion
from relqa_loss.distortions.visibility import visibility
from relqa_loss.evaluation.engine_rows import Row, has_sign, strongest_axes, summary
from relqa_loss.evaluation.engine_scores import evaluate
from relqa_loss.relation import AXES, Relation


def _column(parameter):
    return parameter.view(-1, 1, 1, 1)


def _brighten(images, parameter, generator):
    return images + _column(parameter)


def _bluer(images, parameter, generator):
    return images + _column(parameter) * torch.tensor([-0.5, -0.5, 1.0]).view(1, 3, 1, 1)


def _grain(images, parameter, generator):
    draw = torch.randn(images[:, :1].shape, generator=generator)
    # Clipped draws stay inside [0, 1], so that the difference is the grain itself.
    return images + _column(parameter) * draw.clamp(-2, 2)


def _speckle(images, parameter, generator):
    draw = torch.randn(images[:, :1].shape, generator=generator).clamp(-2, 2)
    return images + _column(parameter) * draw * torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)


def _nothing(images, parameter, generator):
    return images.clone()


BRIGHTEN = Distortion("up", "tone", {"brightness": 1.0}, (0.0, 0.2), apply=_brighten, inclusion=False)
DARKEN = Distortion("down", "tone", {"brightness": -1.0}, (0.0, -0.2), apply=_brighten, inclusion=False)
BLUER = Distortion("bluer", "tone", {"tint_blue": 1.0}, (0.0, 0.2), apply=_bluer, inclusion=False)
GRAIN = Distortion("grain", "sensor", {"noise": 1.0}, (0.0, 0.1), apply=_grain)
SPECKLE = Distortion("speckle", "sensor", {"chroma_noise": 1.0}, (0.0, 0.1), apply=_speckle)
IDLE = Distortion("idle", "optics", {"blur": 1.0}, (0.0, 1.0), apply=_nothing)
BANK = (BRIGHTEN, DARKEN, BLUER, GRAIN, SPECKLE)


def _local(plane):
    return torch.nn.functional.avg_pool2d(plane, 9, stride=1, padding=4, count_include_pad=False)


class Truth:
    """Reads the operators above off flat grey pictures: their local mean and spread, by channel."""

    def __init__(self, sign=1.0):
        self.sign = sign

    @staticmethod
    def _spread(plane):
        return (_local(plane.square()) - _local(plane).square()).clamp(min=0)

    def _maps(self, a, b):
        maps = torch.zeros(a.shape[0], len(AXES), *a.shape[2:])
        red, green, blue = (a - b).split(1, dim=1)
        maps[:, AXES.index("brightness")] = _local((red + green + blue) / 3)[:, 0]
        maps[:, AXES.index("tint_blue")] = _local(blue - (red + green) / 2)[:, 0]
        for axis, of in (
            ("noise", lambda x: x[:, :2].mean(1, keepdim=True)),
            ("chroma_noise", lambda x: x[:, :1] - x[:, 1:2]),
        ):
            maps[:, AXES.index(axis)] = 10 * (self._spread(of(a)).sqrt() - self._spread(of(b)).sqrt())[:, 0]
        return self.sign * maps

    def relate(self, a, b, ref=None):
        assert not torch.is_grad_enabled()
        distance = self.sign * (a - b).square().mean(dim=(1, 2, 3))
        rough = [self._spread(x).mean(dim=(1, 2, 3)) for x in (a, b)]
        parts = torch.zeros(a.shape[0], len(AXES))
        return Relation(distance, parts, distance, lambda: self._maps(a, b), lambda: self.sign * (rough[1] - rough[0]))


class Blind:
    """Says the same of every pair."""

    def relate(self, a, b, ref=None):
        zeros = torch.zeros(a.shape[0])
        maps = torch.zeros(a.shape[0], len(AXES), *a.shape[2:])
        return Relation(zeros, zeros[:, None].expand(-1, len(AXES)), zeros, lambda: maps, lambda: zeros)


class Chance:
    """Answers at random."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(9)

    def relate(self, a, b, ref=None):
        count = a.shape[0]
        maps = torch.randn(count, len(AXES), *a.shape[2:], generator=self.generator)
        maps = maps + torch.randn(count, len(AXES), 1, 1, generator=self.generator)
        distance, score = torch.randn(2, count, generator=self.generator)
        return Relation(distance, torch.zeros(count, len(AXES)), distance, lambda: maps, lambda: score)


PHOTOGRAPHS = [torch.full((3, 80, 96), level) for level in (0.4, 0.45, 0.5)]


@pytest.fixture(scope="module")
def truth():
    return evaluate(Truth(), PHOTOGRAPHS, distortions=BANK, crop=64)


def test_who_knows_the_truth_is_right(truth):
    assert truth["axis_accuracy"] == 1.0
    assert truth["sign_accuracy"] == {"tone": 1.0, "shift": None, "all": 1.0}
    assert truth["localisation_auc"] > 0.97
    assert truth["severity_spearman"]["mean"] > 0.97
    assert truth["severity_spearman"]["min"] > 0.97
    assert truth["leakage"] < 0.1
    assert truth["scene_spearman"]["median"] > 0.97
    assert truth["transitivity"]["all"] == truth["transitivity"]["mixed"] == 1.0
    # Pictures of two operators, which this reader of flat grey was not made for.
    assert truth["two_operator_top3"] > 0.8
    for figure in ("ladder", "ladder_neighbour", "dominance", "inclusion", "unanchored"):
        assert truth[f"{figure}_accuracy"] == 1.0, figure


def test_the_result_is_json_and_says_how_it_was_taken(truth):
    assert json.loads(json.dumps(truth, allow_nan=False)) == truth
    assert list(truth["per_operator"]) == [d.name for d in BANK]
    assert truth["per_operator"]["grain"]["pairs"] == 12
    assert (truth["seed"], truth["photographs"], truth["crop"]) == (0, 3, 64)


def test_the_lowest_axis_is_reported_beside_the_mean(truth):
    axes = [truth["severity_spearman"][axis] for axis in AXES if truth["severity_spearman"][axis] is not None]
    assert len(axes) == 4
    assert truth["severity_spearman"]["min"] == min(axes)


def test_severity_is_what_was_laid_down_and_the_nominal_one_stands_beside_it():
    noise = AXES.index("noise")
    row = Row(
        severity=[0.3, 0.5, 0.7, 0.9], laid_down={noise: [0.1, 0.5, 0.2, 0.9]}, strength={noise: [0.2, 0.6, 0.3, 0.8]}
    )
    result = summary([GRAIN], {"grain": row})
    assert result["severity_spearman"]["noise"] == 1.0
    assert result["nominal_severity_spearman"]["noise"] == pytest.approx(0.8)
    assert result["nominal_severity_of_own_maps"]["noise"] == pytest.approx(0.8)
    assert result["per_operator"]["grain"]["severity_spearman"] == 1.0


def test_the_severity_of_an_axis_is_that_of_its_own_map():
    both = Distortion("both", "sensor", {"noise": 1.0, "chroma_noise": 1.0}, (0.0, 0.1), apply=_grain)
    result = evaluate(Truth(), PHOTOGRAPHS, distortions=[both], crop=64)
    # `Truth` sees no colour in this grain: a map that rises with severity may not speak for one that does not.
    assert result["severity_spearman"]["noise"] > 0.9
    assert result["severity_spearman"]["chroma_noise"] == result["severity_spearman"]["min"] == 0.0
    assert result["per_operator"]["both"]["severity_spearman"] > 0.9


def test_figures_of_weights_say_which_and_how_large(loss_fn):
    result = evaluate(loss_fn, [torch.rand(3, 48, 48)], distortions=["darken"], crop=None)
    assert result["weights_sha256"] == loss_fn.info()["files"]
    assert result["distance_sha256"] == loss_fn.info()["distance"]
    assert result["trained_without"] == loss_fn.info()["provenance"]["recipe"]["data"].get("held_out", [])
    assert result["parameters"] == sum(parameter.numel() for parameter in loss_fn.parameters())
    assert 4 * result["parameters"] <= result["weight_bytes"] < 8e6


def test_tone_has_no_order_without_reference_nor_inclusion(truth):
    assert truth["per_operator"]["up"]["unanchored_accuracy"] is None
    assert truth["per_operator"]["up"]["inclusion_accuracy"] is None
    assert truth["per_operator"]["grain"]["unanchored_accuracy"] == 1.0


def test_who_turns_everything_round_is_wrong():
    reversed_ = evaluate(Truth(sign=-1.0), PHOTOGRAPHS[:1], distortions=BANK, crop=48)
    assert reversed_["sign_accuracy"]["all"] == 0.0
    for figure in ("ladder", "dominance", "inclusion", "unanchored"):
        assert reversed_[f"{figure}_accuracy"] == 0.0, figure


def test_who_sees_nothing_gets_nothing():
    blind = evaluate(Blind(), PHOTOGRAPHS[:1], distortions=BANK, crop=48)
    assert blind["localisation_auc"] == 0.5
    assert blind["severity_spearman"]["mean"] == blind["severity_spearman"]["min"] == 0.0
    assert blind["leakage"] is None
    assert blind["sign_accuracy"]["all"] == 0.0
    assert blind["axis_accuracy"] == 0.0
    for figure in ("ladder", "dominance", "inclusion", "unanchored"):
        assert blind[f"{figure}_accuracy"] == 0.0, figure


def test_maps_of_zeros_do_not_name_the_first_axis():
    first = Distortion("soft", "optics", {AXES[0]: 1.0}, (0.0, 0.1), apply=_grain)
    result = evaluate(Blind(), PHOTOGRAPHS[:1], distortions=[first], crop=48)
    assert result["per_operator"]["soft"]["pairs"] == 4
    assert result["axis_accuracy"] == 0.0


def test_guessing_gets_chance():
    guess = evaluate(Chance(), PHOTOGRAPHS * 4, distortions=BANK, crop=48, photographs_per_operator=12)
    assert guess["axis_accuracy"] < 0.2
    assert guess["localisation_auc"] == pytest.approx(0.5, abs=0.05)
    assert abs(guess["severity_spearman"]["mean"]) < 0.3
    assert guess["leakage"] == pytest.approx(1.0, abs=0.3)
    for figure in ("ladder", "ladder_neighbour", "dominance", "inclusion", "unanchored"):
        assert guess[f"{figure}_accuracy"] == pytest.approx(0.5, abs=0.15), figure
    assert guess["sign_accuracy"]["all"] == pytest.approx(0.5, abs=0.15)


def test_pairs_without_a_visible_pixel_are_left_out():
    result = evaluate(Truth(), PHOTOGRAPHS, distortions=(IDLE, GRAIN), crop=48)
    row = result["per_operator"]["idle"]
    assert (row["pairs"], row["left_out"]) == (0, 12)
    assert row["axis_accuracy"] is None
    assert row["ladder_accuracy"] is None
    # Operators that were never asked do not count.
    assert result["axis_accuracy"] == 1.0


def test_operators_weigh_equally():
    result = evaluate(Truth(), PHOTOGRAPHS, distortions=(BRIGHTEN, GRAIN), crop=48)
    rows = result["per_operator"].values()
    assert result["leakage"] == pytest.approx(sum(row["leakage"] for row in rows) / 2)


def test_same_seed_same_figures_other_seed_others():
    first, again, other = (evaluate(Truth(), PHOTOGRAPHS, distortions=(SPECKLE,), crop=48, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first["localisation_auc"] != other["localisation_auc"]


def test_photographs_are_dealt_round_robin():
    seen = []

    class Witness(Truth):
        def relate(self, a, b, ref=None):
            seen.append(round(float(b[0].mean()), 3))
            return super().relate(a, b, ref)

    # Four operators, one photograph each: every photograph is used.
    evaluate(Witness(), PHOTOGRAPHS, distortions=BANK[:3], crop=48, photographs_per_operator=1)
    assert {0.4, 0.45, 0.5} <= set(seen)


def test_whole_photographs_of_unequal_size():
    photographs = [torch.full((3, 48, 56), 0.5), torch.full((3, 56, 48), 0.45)]
    result = evaluate(Truth(), photographs, distortions=(BRIGHTEN, GRAIN), crop=None)
    assert result["axis_accuracy"] == 1.0
    assert result["per_operator"]["grain"]["pairs"] == 8


def test_the_real_bank_can_be_asked_by_name():
    result = evaluate(Blind(), [torch.rand(3, 64, 64)], distortions=["gaussian_blur", "shift_left"], crop=None)
    assert result["per_operator"]["shift_left"]["axes"] == {"shift_x": -1.0}
    assert result["per_operator"]["shift_left"]["pairs"] > 0


def _still(images, parameter, generator):
    return torch.zeros_like(images[:, :2])


def test_what_has_a_sign_and_an_order():
    both = {"shift_x": 1.0, "shift_y": 1.0}
    warp = Distortion("warp", "geometry", both, (0.0, 1.0), flow=_still, one_direction=False)
    copied = Distortion("copied", "loss", {"occlusion": 1.0}, (0.0, 1.0), apply=_nothing, trace=False)
    assert [has_sign(d) for d in (BRIGHTEN, warp, copied)] == [True, False, False]
    assert [d.told_apart_alone for d in (BRIGHTEN, warp, copied, GRAIN)] == [False, False, False, True]
    assert strongest_axes(warp) == (AXES.index("shift_x"), AXES.index("shift_y"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photographs": []}, "photographs must hold at least one"),
        ({"photographs": [torch.rand(1, 3, 64, 64)]}, r"photographs\[0\] must have shape"),
        ({"severities": (0.5, 0.3)}, "severities must rise"),
        ({"severities": (0.0, 0.3)}, "severities must rise"),
        ({"photographs_per_operator": 0}, "at least 1"),
        ({"distortions": ["gausian_blur"]}, "did you mean 'gaussian_blur'"),
    ],
)
def test_bad_input_is_one_clear_error(changes, message):
    arguments = {"photographs": PHOTOGRAPHS, "distortions": BANK, **changes}
    with pytest.raises(ValueError, match=message):
        evaluate(Blind(), **arguments)


def test_grain_is_visible_from_the_severities_used():
    picture = torch.full((1, 3, 64, 64), 0.5)
    grainy = _grain(picture, torch.tensor([0.03]), torch.Generator().manual_seed(0))
    assert visibility(picture, grainy).max() > 0.5
