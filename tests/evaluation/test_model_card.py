"""The model card: its numbers are the measured ones, and the shipped card is what the generator writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from relqa_loss.distortions.panel import PANEL
from relqa_loss.evaluation.model_card import model_card, sources_of
from relqa_loss.relation import AXES

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


def result(name: str) -> dict[str, Any] | None:
    """A further result that the shipped card is written from, where there is one."""
    path = ROOT / "benchmarks" / "results" / name
    return dict(json.loads(path.read_text())) if path.is_file() else None


def test_the_shipped_card_is_what_the_generator_writes(provenance: dict[str, Any], evaluation: dict[str, Any]) -> None:
    assert (WEIGHTS / "README.md").read_text() == model_card(
        "relqa-v1",
        provenance,
        evaluation,
        SOURCES,
        held_out=result("held-out.json"),
        no_opinion=result("no-opinion.json"),
        jury=result("jury.json"),
        figure=(WEIGHTS / "failures.webp").is_file(),
    )


def test_the_shipped_weights_carry_the_licences_of_their_photographs(provenance: dict[str, Any]) -> None:
    assert [tuple(pair) for pair in provenance["sources"]] == list(SOURCES)


def test_the_figures_were_taken_of_the_shipped_weights(evaluation: dict[str, Any]) -> None:
    assert evaluation["weights_sha256"] == json.loads((WEIGHTS / "config.json").read_text())["files"]


def test_a_changed_figure_changes_the_card(provenance: dict[str, Any], evaluation: dict[str, Any]) -> None:
    other = copy.deepcopy(evaluation)
    other["axis_accuracy"], other["leakage"], other["unanchored_accuracy"] = 0.1234, 0.4321, None
    card = model_card("mine", provenance, other)
    assert "| Axis accuracy | 12.3 % | >= 92.0 % | short |" in card
    assert "| Leakage (lower is better) | 0.432 | <= 0.150 | short |" in card
    assert "| Unanchored accuracy | not asked | >= 93.0 % |  |" in card


def test_the_card_shows_what_a_panel_without_opinion_constants_teaches(
    provenance: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    other = evaluation | {"unanchored_accuracy": 0.4321, "axis_accuracy": 0.1}
    other["panel_agreement"] = {**evaluation["panel_agreement"], "value": 0.5, "low": 0.4, "high": 0.6}
    card = model_card("mine", provenance, evaluation, no_opinion=other)
    section = card.partition("## Without constants")[2].partition("\n## ")[0]
    assert "| Unanchored accuracy | >= 93.0 % | 98.2 % | reached | 43.2 % | short |" in section
    assert "| Agreement with the panel | | 0.973 [0.964, 0.979] | | 0.500 [0.400, 0.600] | |" in section
    assert "`ssim`, `colour_difference`" in section and "`mdsi`" not in section
    assert "Axis accuracy" not in section  # the scorer has no part in it
    assert "## Without constants" not in model_card("mine", provenance, evaluation)
    unasked = other | {"panel_agreement_without_opinion_constants": None}
    with pytest.raises(ValueError, match="no_opinion must hold panel_agreement_without_opinion_constants"):
        model_card("mine", provenance, evaluation, no_opinion=unasked)


def test_a_figure_that_reaches_its_target_is_not_called_short(
    provenance: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    evaluation |= {"two_operator_top3": 0.9, "transitivity": {"all": 0.98, "one_operator": 1.0, "mixed": 0.97}}
    card = model_card("mine", provenance, evaluation)
    assert "| Two operators, both among the top three axes | 90.0 % | >= 85.0 % | reached |" in card
    assert "| Transitivity without reference | 98.0 % | >= 99.0 % | short |" in card
    assert "| Transitivity, mixes of operators | 97.0 % |" in card


def test_nominal_severity_stands_beside_what_the_engines_own_maps_reach(
    provenance: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    evaluation["nominal_severity_spearman"] = dict.fromkeys(AXES, 0.95) | {"shift_x": 0.58, "blur": 0.931}
    evaluation["nominal_severity_of_own_maps"] = dict.fromkeys(AXES, 0.98) | {"shift_x": 0.603}
    wanted = "do not follow it either: `shift_x` 0.580 (0.603). The lowest of the other axes is 0.931."
    assert wanted in model_card("mine", provenance, evaluation)
    evaluation["nominal_severity_of_own_maps"]["shift_x"] = 0.98
    assert "do not follow it" not in model_card("mine", provenance, evaluation)


def test_every_axis_has_its_severity_in_the_card(provenance: dict[str, Any], evaluation: dict[str, Any]) -> None:
    evaluation["severity_spearman"] = dict.fromkeys(AXES, 0.95) | {"mean": 0.9, "min": 0.625, "banding": 0.625}
    card = model_card("mine", provenance, evaluation)
    assert card.count("` 0.950") == len(AXES) - 1
    assert "`banding` 0.62" in card
    assert "poor measure of how strong a distortion is (Spearman below 0.9): `banding`." in card


def test_the_card_lists_what_the_weights_cannot_see(provenance: dict[str, Any], evaluation: dict[str, Any]) -> None:
    for entry in evaluation["per_operator"].values():
        entry |= {"axis_accuracy": 0.9, "localisation_auc": 0.95, "scene_spearman": 0.9}
    evaluation["per_operator"]["jpeg"] |= {"axis_accuracy": 0.4, "scene_spearman": 0.3}
    evaluation["per_operator"]["hue"] |= {"localisation_auc": 0.6}
    evaluation["without_sign"] = ["barrel"]
    section = model_card("mine", provenance, evaluation).partition("## What they cannot see")[2].partition("##")[0]
    assert "Named wrong more often than right: `jpeg`." in section
    assert "Poorly placed (ROC-AUC below 0.9): `hue`." in section
    assert "Spearman with severity below 0.8): `jpeg`." in section
    assert "No direction can be told of: `barrel`." in section


@pytest.mark.parametrize(("own", "who"), [(True, "These weights were"), (False, "Other weights, for this test only,")])
def test_held_out_operators_are_named_and_said_whose_they_are(
    provenance: dict[str, Any], evaluation: dict[str, Any], own: bool, who: str
) -> None:
    report = {
        "per_operator": {
            "jpeg": {"ladder_accuracy": 0.95, "axis_accuracy": 0.25},
            "hue": {"ladder_accuracy": 1.0, "axis_accuracy": 0.75},
            "darken": {"ladder_accuracy": 0.0, "axis_accuracy": 0.0},
        },
        "trained_without": ["hue", "jpeg"],
        "weights_sha256": evaluation["weights_sha256"] if own else {"predictor.safetensors": "0"},
    }
    card = model_card("mine", provenance, evaluation, held_out=report)
    assert who in card and "without 2 operators (`jpeg`, `hue`)" in card
    assert "| Ladder accuracy | 97.5 % | >= 96.0 % | reached |\n| Axis accuracy | 50.0 % | >= 80.0 % | short |" in card


def test_operators_that_were_trained_on_are_not_passed_off_as_held_out(
    provenance: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    assert "did not see" not in model_card("mine", provenance, evaluation)
    with pytest.raises(ValueError, match="trained without"):
        model_card("mine", provenance, evaluation, held_out=evaluation)


def test_weights_that_held_operators_out_say_so_from_their_own_figures(
    provenance: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    evaluation["trained_without"] = ["jpeg"]
    card = model_card("mine", provenance, evaluation)
    assert "These weights were trained without 1 operator (`jpeg`)" in card


def test_agreement_is_stated_as_reported(provenance: dict[str, Any], evaluation: dict[str, Any]) -> None:
    evaluation["panel_agreement"] = {"value": 0.951, "low": 0.94, "high": 0.96, "members": ["gmsd"], "pictures": 480}
    free = {"value": 0.9, "low": 0.88, "high": 0.92, "members": ["ssim"], "pictures": 480}
    evaluation["panel_agreement_without_opinion_constants"] = free
    ours = {"value": 0.812, "low": 0.79, "high": 0.83, "verdict": "tie"}
    others = {
        "panel": ours | {"value": 0.8, "verdict": "worse"},
        "cvvdp": ours,
        "ssim": ours | {"verdict": "better"},
        "panel/ssim": ours | {"value": 0.811},
        "ms_ssim": ours | {"value": 0.809},
    }
    jury = {
        "jury": ["cvvdp"],
        "spearman": {"pooled": {"jury": {"RelationalLoss": ours, **others}}},
        "setup": {"photographs": ["a", "b"], "pictures": 30},
    }
    human = {
        "setup": {"title": "TID2013", "pairs": 3000},
        "metrics": [{"name": "PSNR"}, {"name": "RelationalLoss", "spearman": ours | {"value": 0.7}}],
    }
    card = model_card("mine", provenance, evaluation, jury=jury, human=[human])
    assert "(`gmsd`): 0.951 [0.940, 0.960] over 480 pictures" in card
    assert "(`ssim`): 0.900 [0.880, 0.920]" in card
    assert "(`cvvdp`), not people, that took no part in training: 0.812 [0.790, 0.830]; the panel itself 0.800" in card
    wanted = (
        "agrees more than ssim; as well as ssim (at the panel's scale) 0.811, ms_ssim 0.809; less than the whole panel "
    )
    assert f"{wanted}of closed-form metrics that training leans on 0.800." in card
    assert "people on TID2013 (3000 pairs): 0.700 [0.790, 0.830]" in card


def test_constants_that_owe_to_opinion_scores_are_named_by_member(provenance: dict[str, Any]) -> None:
    provenance["panel"] = [member.name for member in PANEL] + ["later"]
    card = model_card("mine", provenance, None)
    for member in PANEL:
        assert f"  - `{member.name}`: {member.opinion_constants or 'none'}\n" in card
    assert "  - `later`: unknown to this version\n" in card


def test_the_figure_is_referred_to_only_where_there_is_one(
    provenance: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    assert "](failures.webp)" in model_card("mine", provenance, evaluation, figure=True)
    assert "failures.webp" not in model_card("mine", provenance, evaluation)


def test_the_sources_of_a_card_can_be_read_back(provenance: dict[str, Any], evaluation: dict[str, Any]) -> None:
    assert tuple(sources_of(model_card("mine", provenance, evaluation, SOURCES))) == SOURCES
    assert sources_of(model_card("mine", provenance, evaluation)) == []


def test_the_runs_that_led_to_the_predictor_are_named(provenance: dict[str, Any]) -> None:
    runs = [
        {"unrecorded": True},
        {"steps": 3600, "seconds": 1200},
        {"recipe": "tiny", "seed": 3, "trained": "decoder", "steps": 50, "seconds": 60},
    ]
    row = (
        "| Predictor started from | runs that were not recorded, then 3,600 steps (no recipe recorded, 20 min), "
        "then 50 steps of the decoder (`tiny`, seed 3, 1 min) |"
    )
    assert row in model_card("mine", provenance | {"earlier_runs": runs}, None)
    assert "Predictor started from" not in model_card("mine", provenance | {"earlier_runs": []}, None)


def test_the_runs_that_led_to_the_scorer_are_named(provenance: dict[str, Any]) -> None:
    recipe = provenance["recipe"]
    last = recipe | {"scorer": recipe["scorer"] | {"steps": 30, "trained": "judgement"}}
    runs = [{"recipe": "tiny", "seed": 3, "trained": "all", "steps": 640, "seconds": 1200}]
    card = model_card("mine", provenance | {"recipe": last, "earlier_scorer_runs": runs}, None)
    assert "; scorer, 30 steps of the judgement |" in card
    assert "| Scorer started from | 640 steps (`tiny`, seed 3, 20 min) |" in card


def test_a_last_run_of_the_decoder_alone_is_not_passed_off_as_a_whole_one(provenance: dict[str, Any]) -> None:
    recipe = provenance["recipe"]
    stage = recipe["predictor"] | {"steps": 1500, "trained": "decoder"}
    card = model_card("mine", provenance | {"recipe": recipe | {"predictor": stage}}, None)
    assert "| Last runs | predictor, 1,500 steps of the decoder; scorer, " in card


def test_figures_of_none_of_the_held_out_operators_make_no_section(
    provenance: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    card = model_card("mine", provenance, evaluation | {"trained_without": ["an operator that was not measured"]})
    assert "did not see" not in card


def test_without_figures_sources_or_notes_the_card_claims_none(provenance: dict[str, Any]) -> None:
    provenance.pop("notes", None)
    card = model_card("mine", provenance, None)
    assert "None have been taken" in card
    assert 'RelationalLoss("path/to/this/folder")' in card and "license" not in card
    assert "license: apache-2.0\n" in model_card("relqa-v1", provenance, None)
    for absent in ("licences", "recipe alone", "accuracy |", "Agreement", "cannot see", "did not see"):
        assert absent not in card
