from __future__ import annotations

import pytest
import torch
from torch import Tensor

from relqa_loss.relation import AXES, SHIFT_AXES, TONE_AXES, Relation, axis_index


class Counter:
    """A function that remembers how often it was called."""

    def __init__(self, result: Tensor) -> None:
        self.result = result
        self.calls = 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.result


@pytest.fixture
def maps() -> Counter:
    return Counter(torch.arange(2.0 * len(AXES) * 4 * 5).view(2, len(AXES), 4, 5))


@pytest.fixture
def score() -> Counter:
    return Counter(torch.tensor([1.0, -1.0]))


@pytest.fixture
def relation(maps: Counter, score: Counter) -> Relation:
    parts = torch.zeros(2, len(AXES))
    parts[0, axis_index("blur")] = 0.5
    parts[1, axis_index("shift_y")] = 0.1
    floor = torch.tensor([0.1, 0.2])
    return Relation(parts.sum(dim=1) + floor, parts, floor, maps, score)


def test_axes_are_the_seventeen_of_the_contract() -> None:
    assert len(AXES) == len(set(AXES)) == 17
    assert set(TONE_AXES) | set(SHIFT_AXES) <= set(AXES)


def test_maps_and_score_are_computed_when_asked_for_and_only_once(
    relation: Relation, maps: Counter, score: Counter
) -> None:
    assert relation.distance.shape == (2,)
    assert (maps.calls, score.calls) == (0, 0)
    assert relation.maps is relation.maps
    assert relation.score is relation.score
    assert (maps.calls, score.calls) == (1, 1)


def test_an_axis_by_name_is_its_channel(relation: Relation) -> None:
    for index, name in enumerate(AXES):
        assert axis_index(name) == index
        assert torch.equal(relation[name], relation.maps[:, index])


def test_dominant_names_the_strongest_map_whatever_it_costs_and_none_for_equal_images(relation: Relation) -> None:
    signed = torch.zeros(3, len(AXES), 4, 5)
    signed[0, axis_index("noise")] = -0.2
    signed[0, axis_index("blur"), :2] = 0.3
    signed[1, axis_index("shift_x")] = 0.1
    parts = torch.zeros(3, len(AXES))
    parts[1, axis_index("shift_y")] = 1.0
    of_three = Relation(parts.sum(dim=1), parts, torch.zeros(3), Counter(signed), Counter(torch.zeros(3)))
    assert of_three.dominant() == ["noise", "shift_x", None]
    torch.testing.assert_close(of_three.strength()[0, axis_index("noise")], torch.tensor(0.2))
    assert not of_three.strength().requires_grad


def test_unknown_axis_offers_the_nearest(relation: Relation) -> None:
    with pytest.raises(ValueError, match=r"unknown axis 'blurr'; did you mean 'blur'\?"):
        relation["blurr"]


def test_repr_is_one_line_without_values(relation: Relation) -> None:
    assert repr(relation) == "Relation(2 pairs on cpu)"
