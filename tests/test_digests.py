"""What tells weights apart, and what tells distances apart."""

from __future__ import annotations

import copy

import pytest
import torch

from relqa_loss import DistortionPredictor, RelationalLoss, RelationalScorer
from relqa_loss.digests import distance_digest, tensors_digest

MAPS_ALONE = ("decoder", "competition", "hint")
JUDGEMENT_ALONE = ("judges", "judge_gates", "judge_mix", "map_judge")


@pytest.fixture(scope="module")
def networks() -> tuple[DistortionPredictor, RelationalScorer]:
    torch.manual_seed(0)
    return DistortionPredictor(), RelationalScorer()


def test_every_tensor_counts_for_its_module_and_the_distance_has_those_it_depends_on(networks) -> None:
    a, b = torch.rand(2, 1, 3, 32, 48)

    def distance(predictor: DistortionPredictor, scorer: RelationalScorer) -> torch.Tensor:
        return scorer(predictor.relate(a, b, predictor.encode(a), predictor.encode(b)), a, b)

    before = distance(*networks)
    for which, alone in enumerate((MAPS_ALONE, JUDGEMENT_ALONE)):
        for name, _ in networks[which].named_parameters():
            changed = list(copy.deepcopy(networks))
            with torch.no_grad():
                changed[which].get_parameter(name).mul_(1.5).add_(0.1)
            assert tensors_digest(changed[which]) != tensors_digest(networks[which])
            same = distance_digest(*changed) == distance_digest(*networks)
            assert same is name.startswith(tuple(f"{part}." for part in alone)), name
            if same:
                assert torch.equal(distance(*changed), before), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_loss_tells_the_distance_of_its_weights_whatever_it_is_cast_to(dtype: torch.dtype) -> None:
    loss = RelationalLoss()
    told = loss.info()["distance"]
    assert told == distance_digest(loss.predictor, loss.scorer)
    assert copy.deepcopy(loss.to(dtype)).info()["distance"] == told


def test_axis_weights_are_part_of_the_distance() -> None:
    plain, same = RelationalLoss(), RelationalLoss(axis_weights={"blur": 1.0})
    steered = [RelationalLoss(axis_weights={"blur": factor}) for factor in (2.0, 3.0)]
    told = [loss.info()["distance"] for loss in (plain, same, *steered)]
    assert told[0] == told[1]
    assert len(set(told)) == 3


def test_constants_of_the_distance_are_no_tensors_and_count(networks) -> None:
    predictor, scorer = networks
    other = RelationalScorer(masking_contrast=0.2)
    other.load_state_dict(scorer.state_dict())
    assert distance_digest(predictor, other) != distance_digest(predictor, scorer)
    wider = DistortionPredictor(map_width=8)
    wider.load_state_dict({**wider.state_dict(), **_not_of_maps(predictor)})
    assert distance_digest(wider, scorer) == distance_digest(predictor, scorer)


def _not_of_maps(predictor: DistortionPredictor) -> dict[str, torch.Tensor]:
    return {name: one for name, one in predictor.state_dict().items() if not name.startswith(MAPS_ALONE)}
