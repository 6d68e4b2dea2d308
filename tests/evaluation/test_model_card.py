"""The model card: its numbers are the measured ones, and the shipped card is what the generator writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from relqa_loss.evaluation.model_card import model_card

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights" / "relqa-v1"
SOURCES = (
    ("CID22 reference photographs", "CC BY-SA 4.0"),
    ("CLIC 2025", "Unsplash Licence"),
    ("gb82, gb82-screen", "public domain"),
    ("Lomiri wallpapers", "CC BY, CC BY-SA or CC0"),
)


@pytest.fixture
def provenance() -> dict[str, Any]:
    return dict(json.loads((WEIGHTS / "config.json").read_text())["provenance"])


@pytest.fixture
def evaluation() -> dict[str, Any]:
    return dict(json.loads((ROOT / "benchmarks" / "results" / "engine.json").read_text()))


def test_the_shipped_card_is_what_the_generator_writes(provenance: dict[str, Any], evaluation: dict[str, Any]) -> None:
    assert (WEIGHTS / "README.md").read_text() == model_card("relqa-v1", provenance, evaluation, SOURCES)


def test_the_figures_were_taken_of_the_shipped_weights(evaluation: dict[str, Any]) -> None:
    assert evaluation["weights_sha256"] == json.loads((WEIGHTS / "config.json").read_text())["files"]


def test_a_changed_figure_changes_the_card(provenance: dict[str, Any], evaluation: dict[str, Any]) -> None:
    other = copy.deepcopy(evaluation)
    other["axis_accuracy"], other["leakage"], other["unanchored_accuracy"] = 0.1234, 0.4321, None
    card = model_card("mine", provenance, other)
    assert "| Axis accuracy | 12.3 % |" in card
    assert "| Leakage (lower is better) | 0.432 |" in card
    assert "| Unanchored accuracy | not asked |" in card


def test_without_figures_sources_or_notes_the_card_claims_none(provenance: dict[str, Any]) -> None:
    provenance.pop("notes", None)
    card = model_card("mine", provenance, None)
    assert "None have been taken" in card
    assert 'RelationalLoss("mine")' in card
    for absent in ("licences", "recipe alone", "accuracy |"):
        assert absent not in card
