"""Tiers against the panel: what a contradiction is, how it is counted, the command."""

import json

import numpy as np
import pytest
import torch

from relqa_loss.cli import main
from relqa_loss.distortions.panel import PANEL
from relqa_loss.distortions.record import Distortion
from relqa_loss.distortions.tier_plans import dominance_conflict
from relqa_loss.evaluation import tier_agreement as module
from relqa_loss.evaluation.tier_agreement import EXTENTS, LADDER, check_tiers, contradictions, dominance_pairs


def _fade(images, parameter, generator):
    share = parameter.view(-1, 1, 1, 1).to(images)
    return images * (1 - share) + 0.5 * share


def _darken(images, parameter, generator):
    return images * (1 - parameter.view(-1, 1, 1, 1).to(images))


FADE = Distortion("own_fade", "tone", {"contrast": -1.0}, (0.02, 0.7), apply=_fade)
DARK = Distortion("own_dark", "tone", {"brightness": -1.0}, (0.02, 0.7), apply=_darken)
# Claims to get worse while it gets better.
WRONG = Distortion("own_wrong", "tone", {"contrast": -1.0}, (0.7, 0.02), apply=_fade, dominance=False, inclusion=False)
SHIFT = Distortion("own_shift", "geometry", {"shift_x": 1.0}, (0.5, 8.0), flow=_fade)


@pytest.fixture
def photographs():
    small = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(8))
    big = torch.nn.functional.interpolate(small, size=(128, 128), mode="bicubic", align_corners=False).clamp(0, 1)
    return dict(zip("ab", big, strict=True))


def _scores(*rows):
    return torch.tensor(rows, dtype=torch.float32)[None]


def test_a_contradiction_needs_every_member_that_sees_a_difference():
    order = torch.tensor([[[False, True], [False, False]]])
    base = [member.threshold * 4 for member in PANEL]
    worse = [value * 2 for value in base]
    assert contradictions(_scores(worse, base), order).sum() == 1
    assert contradictions(_scores(base, worse), order).sum() == 0
    # One member that sees it the claimed way is enough to break the unanimity.
    mixed = [base[0], *worse[1:]]
    claimed = [worse[0], *base[1:]]
    assert contradictions(_scores(mixed, claimed), order).sum() == 0
    # A blind member does not save the claim, and equal scores contradict nothing.
    blind = [base[0], *worse[1:]]
    assert contradictions(_scores(blind, base), order).sum() == 1
    assert contradictions(_scores(base, base), order).sum() == 0
    assert contradictions(_scores(worse, base), torch.zeros_like(order)).sum() == 0


def test_right_rules_pass_and_a_wrong_one_is_listed(photographs):
    pytest.importorskip("piq")
    report = check_tiers(photographs, distortions=(FADE, DARK, WRONG, SHIFT), workers=2)
    assert [(one["operator"], one["kind"], one["share"]) for one in report["above_limit"]] == [
        ("own_wrong", "ladder", 1.0)
    ]
    fade = report["per_operator"]["own_fade"]
    ladders, parts = len(LADDER) * (len(LADDER) - 1) // 2, len(EXTENTS) * (len(EXTENTS) - 1) // 2
    assert fade["ladder"] == {"pairs": 2 * ladders, "disagreements": 0, "share": 0.0}
    assert fade["inclusion"] == {"pairs": 2 * parts, "disagreements": 0, "share": 0.0}
    (pair,) = report["per_pair"]
    assert set(pair.split(" + ")) == {"own_fade", "own_dark"}
    assert fade["dominance"]["pairs"] == report["per_pair"][pair]["pairs"] > 0
    assert set(report["per_operator"]["own_wrong"]) == {"ladder"}
    assert report["not_asked"] == ["own_shift"]
    assert report["contradicted"] == len(report["disagreements"]) == 2 * ladders
    assert {one["photograph"] for one in report["disagreements"]} == {"a", "b"}
    assert all(one["better"] < one["worse"] for one in report["disagreements"])
    assert report == check_tiers(photographs, distortions=(FADE, DARK, WRONG, SHIFT), workers=1)


def test_pairs_are_allowed_seeded_and_reach_every_operator_that_has_a_partner():
    from relqa_loss.distortions import BANK

    usable = [one for one in BANK if one.apply is not None and one.dominance]
    pairs = dominance_pairs(usable, 0)
    assert pairs == dominance_pairs(usable, 0) != dominance_pairs(usable, 1)
    assert all(dominance_conflict(pair) is None for pair in pairs)
    met = {one.name for pair in pairs for one in pair}
    for one in usable:
        if any(dominance_conflict((one, other)) is None for other in usable if other is not one):
            assert one.name in met
    assert len(pairs) <= module.PARTNERS * len(usable)


def test_the_command_lists_and_fails_above_the_limit(tmp_path, monkeypatch, capsys):
    pytest.importorskip("piq")
    from PIL import Image

    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
    small.resize((300, 260), Image.Resampling.BICUBIC).save(tmp_path / "0.png")
    Image.new("RGB", (90, 90)).save(tmp_path / "small.png")
    bank = (FADE, WRONG)
    monkeypatch.setattr(module, "check_tiers", lambda photographs, **k: check_tiers(photographs, distortions=bank, **k))
    argv = ["benchmark", "tiers", "--data", str(tmp_path), "--workers", "1"]
    assert main([*argv, "--json", str(tmp_path / "tiers.json")]) == 1
    said = capsys.readouterr()
    assert "own_wrong (ladder, 100.0 %)" in said.out
    assert "skipped small.png: smaller than 256x256" in said.err
    assert json.loads((tmp_path / "tiers.json").read_text())["photographs"] == ["0.png"]
    bank = (FADE, DARK)
    assert main(argv) == 0
    assert "above 1 %: none" in capsys.readouterr().out
