"""The table of targets: every target is a figure that the evaluation takes; no verdict is kinder than the number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from relqa_loss.evaluation.engine_scores import evaluate
from relqa_loss.evaluation.targets import RECOVERY_TARGETS, TARGETS, Figure, verdicts
from relqa_loss.relation import AXES, Relation


class Blind:
    """Says the same of every pair."""

    def relate(self, a: Tensor, b: Tensor, ref: Tensor | None = None) -> Relation:
        zeros = torch.zeros(a.shape[0])
        maps = torch.zeros(a.shape[0], len(AXES), *a.shape[2:])
        return Relation(zeros, zeros[:, None].expand(-1, len(AXES)), zeros, lambda: maps, lambda: zeros)


def filled(values: dict[str, float]) -> dict[str, Any]:
    """An evaluation that holds each target's figure: its goal, or the value given by title."""
    evaluation: dict[str, Any] = {}
    for target in TARGETS:
        *path, last = target.figure.path
        place = evaluation
        for key in path:
            place = place.setdefault(key, {})
        place[last] = values.get(target.figure.title, target.goal)
    return evaluation


def test_every_target_is_a_figure_that_the_evaluation_takes() -> None:
    evaluation = evaluate(Blind(), [torch.rand(3, 48, 48)], distortions=["darken", "shift_left"], crop=None)
    for target in TARGETS:
        found: Any = evaluation
        for key in target.figure.path:
            assert key in found, target.figure.title
            found = found[key]


def test_a_figure_that_meets_its_goal_has_reached_it() -> None:
    assert {one.verdict for one in verdicts(filled({}))} == {"reached"}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.figure.path[0])
def test_a_figure_just_beyond_its_goal_is_short(target: Any) -> None:
    worse = target.goal + (1e-6 if target.lower_is_better else -1e-6)
    found = {one.target.figure.title: one.verdict for one in verdicts(filled({target.figure.title: worse}))}
    assert found.pop(target.figure.title) == "short"
    assert set(found.values()) == {"reached"}


def test_a_mean_that_is_the_goal_but_for_rounding_has_reached_it() -> None:
    target = next(one for one in TARGETS if one.goal == 0.9 and not one.lower_is_better)
    below = math.nextafter(0.9, 0)
    assert below < 0.9 and target.verdict(below) == "reached" and target.verdict(0.9 - 1e-6) == "short"


def test_what_was_not_measured_is_neither_reached_nor_short() -> None:
    table = verdicts({"sign_accuracy": {"tone": None}, "transitivity": None})
    assert {one.verdict for one in table} == {"not asked"}
    assert all(one.cells()[2:] == ("not asked", "") for one in table)


def test_cells_are_in_the_units_of_their_figures() -> None:
    cells = {one.cells()[0]: one.cells()[1:] for one in verdicts(filled({"Axis accuracy": 0.5}))}
    assert cells["Axis accuracy"] == (">= 92.0 %", "50.0 %", "short")
    assert cells["Leakage (lower is better)"] == ("<= 0.150", "0.150", "reached")
    assert cells["Shift end-point error (lower is better)"] == ("<= 0.50 px", "0.50 px", "reached")


def test_targets_of_a_recovery_are_in_decibels() -> None:
    first, *others = verdicts({"psnr": {"noise, sigma 0.1": {"RelationalLoss": 39.94}}}, RECOVERY_TARGETS)
    assert first.cells() == ("PSNR from noise, sigma 0.1", ">= 40.0 dB", "39.9 dB", "short")
    assert len(others) == 5 and {one.verdict for one in others} == {"not asked"}


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100.0 %"),
        (0.99999, "99.99 %"),
        (0.99957, "99.96 %"),
        (0.9994, "99.9 %"),
        (0.706, "70.6 %"),
        (0.0, "0.0 %"),
    ],
)
def test_a_share_is_called_whole_only_where_it_is(share: float, text: str) -> None:
    assert Figure("a share", ("share",)).text(share) == text
