"""Restorers: what they are trained with, that nothing but the loss differs, and how they are judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relqa_loss import RelationalLoss
from relqa_loss.cli import main
from relqa_loss.evaluation.peer_metrics import PeerMetric
from relqa_loss.images import write_image
from relqa_loss.losses import DEFAULT_WEIGHTS
from relqa_loss.restoration.judging import compare, goal, measures, restored, sharpness
from relqa_loss.restoration.restorers import (
    BALANCE_BATCHES,
    BY_MAPS,
    L1,
    LOSSES,
    OURS,
    RIVALS,
    TASKS,
    Plan,
    Restorer,
    Trained,
    factor_of,
    terms,
    train,
)
from relqa_loss.training.data import seeded

PLAN = Plan(start_steps=3, steps=2, batch=2, crop=32)
IDENTITY: dict[str, Any] = {"digest": "some", "weights": {"scorer": "these"}, "distance": "this"}


@pytest.fixture(scope="module")
def photographs(make_photos: Callable[..., Tensor]) -> list[Tensor]:
    return [(photo * 255).round().to(torch.uint8) for photo in make_photos(3, 48, 56)]


def same(some: Trained, others: Trained) -> bool:
    pairs = zip(some.model.parameters(), others.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("task", TASKS)
def test_an_untrained_restorer_gives_back_what_it_gets(task: str) -> None:
    reference = torch.rand(2, 3, 32, 48)
    spoilt = TASKS[task].spoil(reference, seeded(1))
    made = Restorer(TASKS[task].scale)(spoilt)
    assert made.shape == reference.shape
    expected = spoilt if task != "x2" else F.interpolate(spoilt, scale_factor=2.0, mode="bicubic")
    assert torch.equal(made, expected) and not torch.equal(made, reference)


def test_every_loss_goes_on_from_one_start_on_the_same_crops(photographs: list[Tensor], tmp_path: Path) -> None:
    found, _ = terms([L1, OURS, BY_MAPS], DEFAULT_WEIGHTS, PLAN.crop)
    seen: list[str] = []
    made = train("denoise", 1, found, photographs, PLAN, tmp_path, **IDENTITY, progress=seen.append)
    assert list(made) == [L1, OURS, BY_MAPS] and len(seen) == 4
    assert made[L1].factor == 0 and made[OURS].factor > 0
    tails = [one.model.tail.weight for one in made.values()]
    assert not torch.equal(tails[0], tails[1]) and not torch.equal(tails[0], tails[2])
    # L1 under another name ends where L1 ends: nothing but the loss tells the restorers apart.
    again = train("denoise", 1, {"twin": None}, photographs, PLAN, tmp_path, **IDENTITY)
    assert all(
        torch.equal(a, b) for a, b in zip(again["twin"].model.parameters(), made[L1].model.parameters(), strict=True)
    )


def test_finished_restorers_are_kept_and_those_of_other_settings_refused(
    photographs: list[Tensor], tmp_path: Path
) -> None:
    first = train("x2", 0, {L1: None}, photographs, PLAN, tmp_path, **IDENTITY)
    seen: list[str] = []
    second = train("x2", 0, {L1: None}, photographs, PLAN, tmp_path, **IDENTITY, progress=seen.append)
    assert not seen
    assert all(
        torch.equal(a, b) for a, b in zip(first[L1].model.parameters(), second[L1].model.parameters(), strict=True)
    )
    with pytest.raises(ValueError, match="trained with other settings"):
        train("x2", 0, {L1: None}, photographs, PLAN, tmp_path, **IDENTITY | {"digest": "others"})
    # What our weights took no part in does not depend on them, and what the maps took no part in not on those.
    found, _ = terms([L1, OURS, BY_MAPS], DEFAULT_WEIGHTS, PLAN.crop)
    train("x2", 0, found, photographs, PLAN, tmp_path, **IDENTITY, progress=seen.append)
    assert [text.rpartition(" with ")[2] for text in seen] == [OURS, BY_MAPS]
    other = IDENTITY | {"weights": {"scorer": "others"}}
    train("x2", 0, {L1: None, OURS: found[OURS]}, photographs, PLAN, tmp_path, **other, progress=seen.append)
    assert len(seen) == 2
    with pytest.raises(ValueError, match=r"by-maps\S* was trained with other settings"):
        train("x2", 0, {BY_MAPS: found[BY_MAPS]}, photographs, PLAN, tmp_path, **other)
    with pytest.raises(ValueError, match="trained with other settings"):
        train("x2", 0, {OURS: found[OURS]}, photographs, PLAN, tmp_path, **IDENTITY | {"distance": "another"})
    (tmp_path / "x2-0-start.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="damaged"):
        train("x2", 0, {L1: None}, photographs, PLAN, tmp_path, **IDENTITY)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_term_weighs_the_same_whatever_its_scale(scale: float) -> None:
    some = [(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))]
    term = lambda restored, reference: scale * (restored - reference).square().mean()  # noqa: E731
    factor = factor_of(term, Restorer(1), some, 0.5)
    leaf = some[0][0].clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(factor * term(leaf, some[0][1]), leaf)
    (l1,) = torch.autograd.grad(F.l1_loss(leaf, some[0][1]), leaf)
    torch.testing.assert_close(ours.norm(), 0.5 * l1.norm())


def test_a_single_loss_may_have_a_share_of_its_own(photographs: list[Tensor], tmp_path: Path) -> None:
    found, _ = terms([L1, OURS], DEFAULT_WEIGHTS, PLAN.crop)
    plain = train("denoise", 1, found, photographs, PLAN, tmp_path / "plain", **IDENTITY)
    half = train("denoise", 1, found, photographs, PLAN, tmp_path / "half", **IDENTITY, shares={OURS: 0.5})
    assert half[OURS].factor == pytest.approx(0.5 * plain[OURS].factor, rel=1e-6)
    assert same(half[L1], plain[L1])
    with pytest.raises(ValueError, match="trained with other settings"):
        train("denoise", 1, found, photographs, PLAN, tmp_path / "half", **IDENTITY)
    with pytest.raises(ValueError, match=r"shares must name losses with a second term, one of .*, got 'L1'"):
        train("denoise", 1, found, photographs, PLAN, tmp_path / "none", **IDENTITY, shares={L1: 1.0})
    with pytest.raises(ValueError, match="share must be finite and > 0, got -1"):
        train("denoise", 1, found, photographs, PLAN, tmp_path / "none", **IDENTITY, shares={OURS: -1})
    assert not (tmp_path / "none").exists()


def test_a_steered_loss_differs_by_its_axis_weight_alone(photographs: list[Tensor], tmp_path: Path) -> None:
    steered = f"{OURS}, blur x4"
    found, _ = terms([steered, OURS], DEFAULT_WEIGHTS, PLAN.crop)
    made = train("denoise", 1, found, photographs, PLAN, tmp_path, **IDENTITY, shares={OURS: 0.5})
    assert made[steered].factor == made[OURS].factor > 0
    assert not same(made[steered], made[OURS])
    again = train("denoise", 1, found, photographs, PLAN, tmp_path, **IDENTITY, shares={OURS: 0.5})
    assert same(made[steered], again[steered])
    with pytest.raises(ValueError, match=r"losses must name 'L1 \+ RelationalLoss' beside .*blur x4.*, got \["):
        train("denoise", 1, {steered: found[steered]}, photographs, PLAN, tmp_path / "none", **IDENTITY)
    with pytest.raises(
        ValueError, match=r"shares must name losses with a second term, one of L1 [+] RelationalLoss, got"
    ):
        train("denoise", 1, found, photographs, PLAN, tmp_path / "none", **IDENTITY, shares={steered: 2.0})
    assert not (tmp_path / "none").exists()


def test_a_loss_may_also_ask_for_less_of_one_axis(photographs: list[Tensor], tmp_path: Path) -> None:
    less = f"{OURS}, less noise"
    found, _ = terms([less, OURS], DEFAULT_WEIGHTS, PLAN.crop)
    made = train("denoise", 1, found, photographs, PLAN, tmp_path, **IDENTITY)
    assert made[less].factor == made[OURS].factor > 0 and not same(made[less], made[OURS])
    assert made[less].map_factor > 0 == made[OURS].map_factor
    assert train("denoise", 1, found, photographs, PLAN, tmp_path, **IDENTITY)[less].map_factor == made[less].map_factor
    with pytest.raises(ValueError, match=r"losses must name 'L1 \+ RelationalLoss' beside .*less noise"):
        train("denoise", 1, {less: found[less]}, photographs, PLAN, tmp_path / "none", **IDENTITY)
    term = found[less]
    assert term is not None
    clean = photographs[0][None, :, :64, :64].float() / 255
    grain = 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert float(term(clean + grain, clean)) > 0.02 and float(term(clean, clean + grain)) < 1e-3


def test_a_term_without_gradient_cannot_be_balanced() -> None:
    some = [(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))]
    with pytest.raises(ValueError, match="cannot be balanced"):
        factor_of(lambda restored, reference: 0 * restored.sum(), Restorer(1), some, 1.0)


def test_all_losses_that_are_installed_have_a_gradient() -> None:
    found, missing = terms(LOSSES, DEFAULT_WEIGHTS, 176)
    assert set(found) | set(missing) == set(LOSSES)
    reference = torch.rand(1, 3, 176, 176)
    for name, term in found.items():
        if term is not None:
            leaf = (reference + 0.1 * torch.randn(reference.shape)).requires_grad_(True)
            (gradient,) = torch.autograd.grad(term(leaf, reference), leaf)
            assert bool(gradient.isfinite().all()) and bool(gradient.any()), name


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'L1'"):
        terms(["L2"], DEFAULT_WEIGHTS, 176)
    with pytest.raises(ValueError, match="crop must be even and at least 16, got 33"):
        Plan(crop=33)
    with pytest.raises(ValueError, match="share must be finite and > 0, got 0"):
        Plan(share=0)


def test_sharpness_tells_blur_from_detail(make_photos: Callable[..., Tensor]) -> None:
    reference = make_photos(1, 96, 96)
    noisy = reference + 0.02 * torch.randn(reference.shape, generator=seeded(1))
    soft = F.avg_pool2d(F.pad(reference, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert float(sharpness(soft, reference)) < 0.8 < float(sharpness(reference, reference)) == 1.0
    assert float(sharpness(noisy, reference)) > 1.0


def test_judges_see_the_better_picture(loss_fn: RelationalLoss, make_photos: Callable[..., Tensor]) -> None:
    references = list(make_photos(2, 64, 64))
    judge = PeerMetric("mse", "torch", "0", "", "", lambda a, b: (a - b).square().mean(dim=(1, 2, 3)))
    inputs = restored(Restorer(1), "denoise", references, 3)
    rows = measures(inputs, references, {"mse": judge}, loss_fn)
    assert set(rows) == {"mse", "map of blur", "map of noise", "sharpness", "grain"}
    perfect = measures([one[None] for one in references], references, {"mse": judge}, loss_fn)
    assert perfect["mse"] == [0.0, 0.0] == perfect["map of noise"]
    assert min(rows["map of noise"]) > 0
    figures = compare({OURS: [perfect], L1: [rows, rows]}, ["mse"])
    assert figures["against"][L1]["mse"]["verdict"] == "better"
    assert goal(figures, ["mse"]) == {"better_or_tie": {L1: 1}, "psnr_lost_db": None, "reached": None}
    turned = compare({OURS: [rows], L1: [perfect]}, ["mse"])
    assert turned["against"][L1]["mse"]["verdict"] == "worse" and goal(turned, ["mse"])["better_or_tie"] == {L1: 0}


def test_lost_psnr_alone_misses_the_goal() -> None:
    rows = {"psnr": [-30.0, -31.0, -32.0], "flip": [0.1, 0.2, 0.3]}
    worse = {"psnr": [value + 0.3 for value in rows["psnr"]], "flip": [0.0, 0.1, 0.2]}
    rivals = {name: [rows] for name in RIVALS}
    judges = ["psnr", "flip", "flip"]
    lost = goal(compare({OURS: [worse], **rivals}, judges), judges)
    assert lost["psnr_lost_db"] == pytest.approx(0.3) and lost["reached"] is False
    assert set(lost["better_or_tie"].values()) == {2}
    assert goal(compare({OURS: [rows], **rivals}, judges), judges)["reached"] is True
    assert goal(compare({OURS: [rows], L1: [rows]}, judges), judges)["reached"] is None


def test_one_photograph_gives_no_verdict() -> None:
    figures = compare({OURS: [{"psnr": [-30.0]}], L1: [{"psnr": [-20.0]}]}, ["psnr"])
    assert figures["against"][L1]["psnr"] == {"difference": -10.0, "low": None, "high": None, "verdict": "unknown"}


def test_a_judge_without_a_value_gives_no_verdict() -> None:
    theirs, ours = {"flip": [0.5, 0.6, 0.7]}, {"flip": [0.1, float("nan"), 0.2]}
    figures = compare({OURS: [ours], L1: [theirs]}, ["flip"])
    assert figures["against"][L1]["flip"]["verdict"] == "unknown"
    assert goal(figures, ["flip"])["better_or_tie"] == {L1: 0}


def test_a_restorer_that_diverged_is_not_kept(photographs: list[Tensor], tmp_path: Path) -> None:
    calls = 0

    def sound_at_first(restored: Tensor, reference: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (restored - reference).square().mean() * (1.0 if calls <= BALANCE_BATCHES else float("nan"))

    with pytest.raises(ValueError, match="no longer finite after 2 steps"):
        train("denoise", 1, {"L1 + bad": sound_at_first}, photographs, PLAN, tmp_path, **IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["denoise-1-start.pt"]


def test_a_loss_that_is_left_out_needs_no_share(
    capsys: pytest.CaptureFixture[str],
    make_photos: Callable[..., Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "stlpips_pytorch", None)
    for index, photo in enumerate(make_photos(2, 48, 56)):
        write_image(tmp_path / "photos" / f"{index}.png", photo)
    name = "L1 + ST-LPIPS"
    arguments = [
        "--data", tmp_path / "photos", "--test", tmp_path / "photos", "--out", tmp_path / "runs", "--tasks", "denoise",
        "--losses", f"{L1};{name}", "--seeds", 0, "--start-steps", 1, "--steps", 1, "--judges", "psnr",
        "--crop", 32, "--batch", 1, "--test-crop", 32, "--share", f"1;{name}=2",
    ]  # fmt: skip
    assert main(["benchmark", "restoration", *map(str, arguments)]) == 0
    assert f"{name} left out" in capsys.readouterr().err


def test_photographs_that_are_too_small_to_judge_on_are_named(
    capsys: pytest.CaptureFixture[str], make_photos: Callable[..., Tensor], tmp_path: Path
) -> None:
    for index, photo in enumerate(make_photos(2, 48, 56)):
        write_image(tmp_path / "photos" / f"{index}.png", photo)
    write_image(tmp_path / "photos" / "small.png", torch.rand(3, 40, 24))
    arguments = [
        "--data", tmp_path / "photos", "--test", tmp_path / "photos", "--out", tmp_path / "runs", "--tasks", "denoise",
        "--losses", L1, "--seeds", 0, "--start-steps", 1, "--steps", 1, "--judges", "psnr", "--crop", 32,
        "--batch", 1, "--json", tmp_path / "out.json", "--test-crop",
    ]  # fmt: skip
    assert main(["benchmark", "restoration", *map(str, arguments), "32"]) == 0
    assert "skipped small.png: smaller than 32x32 pixels: 40x24" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["photographs"] == 2
    assert main(["benchmark", "restoration", *map(str, arguments), "50"]) == 1
    assert "can be used; first reason: smaller than 50x50 pixels: 48x56" in capsys.readouterr().err


def test_command_prints_tables_and_a_figure(
    capsys: pytest.CaptureFixture[str], make_photos: Callable[..., Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    for index, photo in enumerate(make_photos(2, 48, 56)):
        write_image(tmp_path / "photos" / f"{index}.png", photo)
    options: dict[str, Any] = {
        "--data": tmp_path / "photos", "--test": tmp_path / "photos", "--out": tmp_path / "runs",
        "--tasks": "denoise,x2", "--losses": f"{L1};{OURS}", "--seeds": 0, "--start-steps": 2, "--steps": 1,
        "--judges": "psnr", "--crop": 32, "--batch": 1, "--test-crop": 32, "--json": tmp_path / "out.json",
        "--figure": tmp_path / "crops", "--share": f"0.7; {OURS}=0.2",
    }  # fmt: skip
    arguments = [str(part) for option in options.items() for part in option]
    assert main(["benchmark", "restoration", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "beside each other loss" in printed and "x2: means" in printed
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["tasks"]) == {"denoise", "x2"} and report["weights_sha256"]
    assert report["plan"]["share"] == 0.7 and report["shares"] == {OURS: 0.2}
    assert (tmp_path / "crops.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("1;L1 + MS-SSIM=much", "must be a number or LOSS=NUMBER, several by ;, got 'L1 + MS-SSIM=much'"),
        ("1;2", "must give each loss one number, got '1;2'"),
        ("=2", "must give each loss one number, got '=2'"),
    ],
)
def test_a_share_that_is_none_is_one_clear_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, share: str, message: str
) -> None:
    folders = ["--data", "photos", "--test", "photos", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(["benchmark", "restoration", *folders, "--share", share])
    assert f"argument --share: {message}" in capsys.readouterr().err
