"""The search for the steepest place, on functions whose slope is known, and on the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from relqa_loss import AXES, RelationalLoss
from relqa_loss.evaluation.gradient_bound import CHANGES, search
from relqa_loss.relation import Relation


class Known:
    """A distance of known slope in place of the loss."""

    def __init__(self, power: int) -> None:
        self.power = power

    def relate(self, a: Tensor, b: Tensor) -> Relation:
        distance = 3 * (a - b).abs().pow(self.power).mean(dim=(1, 2, 3))
        parts = distance[:, None].expand(-1, len(AXES))
        return Relation(distance, parts, distance, lambda: parts, lambda: distance)


def test_an_even_slope_is_its_own_bound() -> None:
    # The gradient is +-3 / n at each of n values, but where both pictures are clamped and so equal: 3 per unit.
    found = search(Known(1), side=16, samples=12, starts=2, steps=2)
    assert found.random == pytest.approx(3.0, rel=0.01)
    assert found.ascended == pytest.approx(3.0, rel=0.01)
    assert found.ascended_pixel == pytest.approx(3.0, rel=0.01)


def test_the_ascent_climbs_to_the_corner_of_the_range() -> None:
    # 3 (a - b)^2 is steepest at a difference of 1: 6 per unit.
    found = search(Known(2), side=16, samples=12, starts=2, steps=80, step_size=0.05)
    assert found.random < 5
    assert found.ascended == pytest.approx(6.0, rel=0.02)


def test_of_the_loss_is_finite_and_repeatable(loss_fn: RelationalLoss) -> None:
    settings = {"side": 16, "samples": 12, "starts": 2, "steps": 3}
    found = search(loss_fn, **settings)
    assert found.finite
    assert set(found.random_by_kind) == set(CHANGES)
    assert found.random == max(found.random_by_kind.values()) > 0
    assert found.ascended >= found.random * (1 - 1e-5)
    assert found.samples == 12
    assert search(loss_fn, **settings).to_dict() == found.to_dict()
    assert search(loss_fn, **settings, seed=1).random != found.random
    assert not any(parameter.requires_grad for parameter in loss_fn.parameters())


def test_slopes_that_are_not_finite_are_told(loss_fn: RelationalLoss) -> None:
    class Broken(Known):
        def relate(self, a: Tensor, b: Tensor) -> Relation:
            rel = super().relate(a, b)
            rel.distance = rel.distance * torch.inf
            return rel

    assert not search(Broken(1), side=16, samples=6, starts=1, steps=1).finite


@pytest.mark.parametrize("name", ["samples", "starts", "steps"])
def test_nothing_to_search_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="samples, starts and steps must be at least 1"):
        search(Known(1), **{name: 0})
