"""Losses on orders: what is right costs less, what is unknown costs nothing, what is contested counts little."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from relqa_loss.training.ranking import RANKING_LOSSES, contrastive_loss, log_levels, pairwise_loss, votes_loss

ORDER = torch.ones(3, 3).triu(1).bool().unsqueeze(0)  # image 0 is the best


@pytest.mark.parametrize("name", list(RANKING_LOSSES))
def test_right_order_costs_less_than_a_wrong_one(name: str) -> None:
    loss_of = RANKING_LOSSES[name]
    right, accuracy = loss_of(torch.tensor([[0.1, 0.5, 0.9]]), ORDER, 0.1)
    wrong, inaccuracy = loss_of(torch.tensor([[0.9, 0.5, 0.1]]), ORDER, 0.1)
    tied, _ = loss_of(torch.zeros(1, 3), ORDER, 0.1)
    assert right < tied < wrong
    assert (accuracy, inaccuracy) == (1, 0)


@pytest.mark.parametrize("name", list(RANKING_LOSSES))
def test_pairs_of_unknown_order_cost_nothing(name: str) -> None:
    loss_of = RANKING_LOSSES[name]
    order = torch.zeros(1, 3, 3, dtype=torch.bool)
    order[0, 0, 1] = True
    first, _ = loss_of(torch.tensor([[0.1, 0.5, 0.0]]), order, 0.1)
    second, _ = loss_of(torch.tensor([[0.1, 0.5, 9.0]]), order, 0.1)
    assert torch.equal(first, second)
    assert loss_of(torch.rand(1, 3), torch.zeros_like(order), 0.1)[0] == 0


def test_ties_cost_the_logarithm_of_the_number_of_candidates() -> None:
    torch.testing.assert_close(pairwise_loss(torch.zeros(1, 3), ORDER, 0.1)[0], torch.tensor(math.log(2)))
    # Image 0 among three, image 1 among two, image 2 against nobody.
    expected = (math.log(3) + math.log(2)) / 2
    torch.testing.assert_close(contrastive_loss(torch.zeros(1, 3), ORDER, 0.1)[0], torch.tensor(expected))


def test_contrast_with_the_hardest_worse_picture_dominates() -> None:
    distances = torch.tensor([[0.5, 0.4, 3.0]], requires_grad=True)
    contrastive_loss(distances, ORDER, 0.1)[0].backward()
    assert distances.grad is not None
    assert distances.grad[0, 1].abs() > 100 * distances.grad[0, 2].abs()


def test_levels_are_octaves_above_the_threshold() -> None:
    levels = log_levels(torch.tensor([[0.1, 8.0], [0.5, 2.0]]), torch.tensor([0.25, 2.0]))
    torch.testing.assert_close(levels, torch.tensor([[0.0, 2.0], [1.0, 0.0]]))


def votes(distances: list[float], levels: list[list[float]], families: list[str]) -> tuple[Tensor, Tensor]:
    return votes_loss(torch.tensor(distances), torch.tensor(levels), families)


def test_distances_that_follow_a_panel_of_one_mind_cost_less_and_agree() -> None:
    levels = [[0.0, 0.0], [1.0, 2.0], [3.0, 3.0]]
    right, agreement = votes([0.0, 1.0, 2.0], levels, ["x", "y"])
    wrong, none = votes([2.0, 1.0, 0.0], levels, ["x", "y"])
    assert right < wrong
    assert (agreement, none) == (1, 0)


def test_where_the_panel_contradicts_itself_nothing_is_learned() -> None:
    contested = [[0.0, 3.0], [3.0, 0.0]]
    assert votes([0.0, 1.0], contested, ["x", "y"])[0] == 0
    # In one family the two share a vote; with a third of its own, that one decides.
    decided = [[0.0, 3.0, 0.0], [3.0, 0.0, 3.0]]
    assert votes([0.0, 1.0], decided, ["x", "x", "y"])[1] == 1


def test_pictures_that_the_panel_cannot_follow_count_nothing() -> None:
    levels = [[0.0], [2.0], [math.nan]]
    first, _ = votes([0.0, 1.0, 5.0], levels, ["x"])
    second, _ = votes([0.0, 1.0, -5.0], levels, ["x"])
    assert first.isfinite()
    assert torch.equal(first, second)


def test_without_a_panel_there_is_nothing_to_follow() -> None:
    assert votes_loss(torch.rand(3), torch.zeros(3, 0), []) == (0, 0)
