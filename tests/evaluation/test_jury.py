from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from relqa_loss import RelationalLoss
from relqa_loss.cli.jury import add_jury
from relqa_loss.distortions import BANK
from relqa_loss.distortions.panel import PANEL
from relqa_loss.evaluation import jury_statistics, peer_metrics
from relqa_loss.evaluation.jury import Cache, hold_jury, plan_pictures
from relqa_loss.evaluation.jury_figures import JURORS, OBSERVERS, jury_figures
from relqa_loss.evaluation.jury_statistics import Cases, bootstrap_counts
from relqa_loss.evaluation.peer_metrics import PeerMetric, load_metrics
from relqa_loss.images import MissingExtra, write_image

SIDE = 144
PICTURES = 10


def absolute(distorted: Tensor, reference: Tensor) -> Tensor:
    return (distorted - reference).abs().mean((1, 2, 3))


def squared(distorted: Tensor, reference: Tensor) -> Tensor:
    return (distorted - reference).square().mean((1, 2, 3))


def backwards(distorted: Tensor, reference: Tensor) -> Tensor:
    return -absolute(distorted, reference)


def fake(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> PeerMetric:
    return PeerMetric(name, "nobody", "1.0", "nothing", "made for a test", function)


@pytest.fixture(scope="module")
def photographs(make_photos: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {f"{k}.png": image for k, image in enumerate(make_photos(3, SIDE, SIDE, seed=8))}


@pytest.fixture
def metrics() -> dict[str, PeerMetric]:
    functions = {"st_lpips": absolute, "cvvdp": squared, "good": absolute, "bad": backwards}
    return {name: fake(name, function) for name, function in functions.items()}


def some_cases(photographs: int = 4, each: int = 9) -> Cases:
    names = np.array((["blur", "noise", ""] * photographs * each)[: photographs * each])
    return Cases(np.repeat(np.arange(photographs), each), names)


def some_scores(cases: Cases, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    truth = random.normal(size=len(cases.photograph))
    # Rounded, so that there are ties.
    return {
        name: np.round(truth + noise * random.normal(size=truth.size), 1)
        for name, noise in {"RelationalLoss": 0.5, "panel/a": 0.8, "st_lpips": 0.3, "cvvdp": 0.3, "flip": 1.0}.items()
    }


def repeated(values: Any, counts: Any, cases: Cases) -> Any:
    return np.repeat(values, counts[cases.photograph].astype(int))


def test_no_panel_member_and_nothing_of_ours_sits_on_the_jury() -> None:
    found, _ = load_metrics(["psnr", "ssim", "ms_ssim", "fsim", "vsi", "gmsd", "mdsi", "haarpsi", "vif"])
    assert set(JURORS).isdisjoint({member.name for member in PANEL} | set(found))
    assert set(JURORS) | set(OBSERVERS) <= set(peer_metrics.METRIC_NAMES)


def test_a_plan_is_seeded_and_a_longer_one_begins_with_the_shorter() -> None:
    plan = plan_pictures(1, 4, 20, seed=5)
    assert plan == plan_pictures(1, 4, 40, seed=5)[:20]
    assert plan != plan_pictures(1, 4, 20, seed=6) and plan != plan_pictures(2, 4, 20, seed=5)


def test_a_plan_has_every_kind() -> None:
    plan = plan_pictures(0, 2, 50, seed=0)
    assert Counter(one.kind for one in plan) == {"alone": 30, "composition": 10, "region": 10}
    for one in plan:
        whole = all(component.region == "whole" for component in one.recipe)
        assert whole == (one.kind != "region")
        assert (len(one.recipe) > 1) == (one.kind == "composition")
        assert one.operator == (one.recipe[0].name if one.kind == "alone" else "")
        assert all(0.1 <= component.severity <= 1 for component in one.recipe)


def test_operators_and_severities_are_spread_evenly() -> None:
    plans = [plan_pictures(k, 12, 100, seed=0) for k in range(12)]
    alone = [one.recipe[0] for plan in plans for one in plan if one.kind == "alone"]
    counts = Counter(one.name for one in alone)
    assert set(counts) == {one.name for one in BANK if one.apply is not None}
    assert max(counts.values()) - min(counts.values()) <= 2
    for name in counts:
        severities = sorted(one.severity for one in alone if one.name == name)
        assert max(np.diff([0.1, *severities, 1.0])) < 0.35, name


def test_ranks_with_weights_are_those_of_repeated_values() -> None:
    cases = some_cases()
    counts = bootstrap_counts(4, 5, seed=1)
    values = some_scores(cases)["cvvdp"]
    weights = counts[:, cases.photograph]
    ranked = jury_statistics.weighted_ranks(values, weights)
    for row, count in zip(ranked, counts, strict=True):
        np.testing.assert_allclose(repeated(row, count, cases), stats.rankdata(repeated(values, count, cases)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(jury_statistics.pooled_spearman, stats.spearmanr), (lambda *a: jury_statistics.kendall(*a)[0], stats.kendalltau)],
    ids=["spearman", "kendall"],
)
def test_pooled_figures_are_those_of_scipy_in_every_draw(ours: Any, theirs: Any) -> None:
    cases = some_cases()
    scores = some_scores(cases)
    counts = bootstrap_counts(4, 6, seed=2)
    drawn = ours(scores, [("RelationalLoss", "cvvdp")], cases, counts)["RelationalLoss", "cvvdp"]
    expected = [
        theirs(*(repeated(scores[name], count, cases) for name in ("RelationalLoss", "cvvdp"))).statistic
        for count in counts
    ]
    np.testing.assert_allclose(drawn, expected)


def test_figures_within_photographs_are_means_over_them() -> None:
    cases = some_cases()
    scores = some_scores(cases)
    counts = bootstrap_counts(4, 3, seed=0)
    pair = ("RelationalLoss", "st_lpips")
    rho = [stats.spearmanr(*(scores[n][cases.photograph == k] for n in pair)).statistic for k in range(4)]
    tau = [stats.kendalltau(*(scores[n][cases.photograph == k] for n in pair)).statistic for k in range(4)]
    spearman = jury_statistics.within_spearman(scores, [pair], cases, counts)[pair]
    kendall = jury_statistics.kendall(scores, [pair], cases, counts)[1][pair]
    for row, count in enumerate(counts):
        assert spearman[row] == pytest.approx(np.average(rho, weights=count))
        assert kendall[row] == pytest.approx(np.average(tau, weights=count))


def test_figures_of_operators_look_at_one_operator_at_a_time() -> None:
    cases = some_cases()
    scores = some_scores(cases)
    pair = ("RelationalLoss", "cvvdp")
    drawn = jury_statistics.operator_spearman(scores, [pair], cases, bootstrap_counts(4, 2, seed=0))[pair]
    each = [stats.spearmanr(*(scores[n][cases.operator == o] for n in pair)).statistic for o in ("blur", "noise")]
    assert drawn[0] == pytest.approx(np.median(each))


def test_pair_accuracy_counts_pairs_of_different_operators_on_which_all_jurors_agree() -> None:
    cases = some_cases(photographs=3, each=6)
    scores = some_scores(cases)
    counts = bootstrap_counts(3, 4, seed=3)
    jurors = [scores["st_lpips"], scores["cvvdp"]]
    unanimous = jury_statistics.unanimity(jurors, cases)
    within, between = jury_statistics.pair_accuracy(scores, ["RelationalLoss"], unanimous.verdict, cases, counts)
    for row, count in enumerate(counts):
        right, total = [0.0, 0.0], [0.0, 0.0]
        for i in range(18):
            for j in range(i):
                votes = {float(np.sign(juror[i] - juror[j])) for juror in jurors}
                names = {str(cases.operator[i]), str(cases.operator[j])}
                if len(names) < 2 or "" in names or len(votes) > 1 or votes == {0.0}:
                    continue
                p, q = cases.photograph[i], cases.photograph[j]
                weight = count[p] * count[q] if p != q else count[p]
                place = int(p != q)
                own = float(np.sign(scores["RelationalLoss"][i] - scores["RelationalLoss"][j]))
                total[place] += weight
                right[place] += weight * (1.0 if own in votes else 0.5 if own == 0 else 0.0)
                if row == 0:
                    assert unanimous.verdict[i, j] == votes.pop()
        if row == 0:
            assert total == [float(n) for n in unanimous.decided]
        for place, drawn in enumerate((within, between)):
            if total[place]:
                assert drawn["RelationalLoss"][row] == pytest.approx(right[place] / total[place])
            else:
                assert np.isnan(drawn["RelationalLoss"][row])


def test_verdicts_follow_the_interval_of_the_paired_difference() -> None:
    random = np.random.default_rng(0)
    ours = 0.9 + 0.01 * random.normal(size=200)
    assert jury_statistics.entry(ours - 0.05, ours)["verdict"] == "better"
    assert jury_statistics.entry(ours + 0.05, ours)["verdict"] == "worse"
    tie = jury_statistics.entry(ours + 0.01 * random.normal(size=200), ours)
    assert tie["verdict"] == "tie" and tie["lead"]["low"] < 0 < tie["lead"]["high"]
    assert jury_statistics.entry(np.full(200, np.nan), ours)["verdict"] == "unknown"


def test_a_juror_is_compared_with_the_others_not_with_itself() -> None:
    cases = some_cases()
    scores = some_scores(cases)
    table = jury_figures(scores, cases, draws=20)["spearman"]["pooled"]
    assert set(table) == {"jury", "st_lpips", "cvvdp", "flip"}
    assert "cvvdp" not in table["cvvdp"] and "flip" not in table["flip"]
    expected = stats.spearmanr(scores["cvvdp"], scores["st_lpips"]).statistic
    assert table["jury"]["cvvdp"]["value"] == pytest.approx(expected)
    # Our lead over a juror is taken against the same target.
    ours = stats.spearmanr(scores["RelationalLoss"], scores["st_lpips"]).statistic
    assert table["jury"]["cvvdp"]["lead"]["value"] == pytest.approx(ours - expected)


def test_the_report_orders_good_and_bad_candidates(
    loss_fn: RelationalLoss, photographs: dict[str, Tensor], metrics: dict[str, PeerMetric]
) -> None:
    said: list[str] = []
    report = hold_jury(loss_fn, photographs, metrics, pictures=PICTURES, workers=1, progress=said.append)
    assert report["jury"] == ["st_lpips", "cvvdp"]
    pooled = report["spearman"]["pooled"]
    assert pooled["st_lpips"]["good"]["value"] == pytest.approx(1)
    assert pooled["st_lpips"]["bad"]["value"] == pytest.approx(-1)
    assert pooled["jury"]["bad"]["verdict"] == "better"
    assert 0 < pooled["jury"]["RelationalLoss"]["value"] < 1
    assert pooled["jury"]["RelationalLoss"]["lead"]["value"] == 0
    members = {f"panel/{member.name}" for member in PANEL}
    assert {"RelationalLoss", "panel", "good", "bad", "st_lpips", "cvvdp"} | members == set(pooled["jury"])
    kinds = report["kinds"]["within"]
    assert 0 < kinds["unanimous"] <= kinds["pairs"]
    assert kinds["candidates"]["good"]["value"] == 1 and kinds["candidates"]["bad"]["value"] == 0
    assert report["setup"]["pictures"] == 3 * PICTURES
    assert "not with people" in report["what"]
    assert any("10 pictures of each" in line for line in said)
    json.dumps(report)


def test_our_column_is_the_distance_of_the_loss(
    loss_fn: RelationalLoss, photographs: dict[str, Tensor], metrics: dict[str, PeerMetric]
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def distance(distorted: Tensor, reference: Tensor) -> Tensor:
        seen.append((distorted, reference))
        return loss_fn.relate(distorted, reference).distance.detach()

    report = hold_jury(loss_fn, photographs, metrics | {"twin": fake("twin", distance)}, pictures=PICTURES, workers=1)
    table = report["spearman"]["pooled"]["jury"]
    assert table["twin"] == table["RelationalLoss"]
    for pair in seen:
        for image in pair:
            torch.testing.assert_close(image * 255, (image * 255).round(), rtol=0, atol=1e-4)


def test_a_stopped_run_goes_on_from_its_cache(
    loss_fn: RelationalLoss, photographs: dict[str, Tensor], metrics: dict[str, PeerMetric], tmp_path: Path
) -> None:
    wanted = hold_jury(loss_fn, photographs, metrics, pictures=PICTURES, workers=1)
    calls = 0

    def counted(distorted: Tensor, reference: Tensor) -> Tensor:
        nonlocal calls
        calls += len(distorted)
        if calls > 12 and stop:
            raise KeyboardInterrupt
        return squared(distorted, reference)

    chosen = metrics | {"cvvdp": fake("cvvdp", counted)}
    cache = tmp_path / "deep" / "cache.jsonl"
    stop = True
    with pytest.raises(KeyboardInterrupt):
        hold_jury(loss_fn, photographs, chosen, pictures=PICTURES, workers=1, cache=cache)
    # A kill in the middle of a line.
    text = cache.read_text(encoding="utf-8")
    cache.write_text(text + '{"metric": "cvvdp 1.0: ma', encoding="utf-8")
    stop, calls = False, 0
    resumed = hold_jury(loss_fn, photographs, chosen, pictures=PICTURES, workers=1, cache=cache)
    assert 0 < calls < 3 * PICTURES
    again = calls
    hold_jury(loss_fn, photographs, chosen, pictures=PICTURES, workers=1, cache=cache)
    assert calls == again
    for key in ("spearman", "kendall", "kinds", "operators", "jurors"):
        assert resumed[key] == wanted[key]


def test_a_cache_does_not_mix_versions_of_a_metric(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache.jsonl")
    cache.put("cvvdp 1.0: x", {"a": 1.5})
    read = Cache(tmp_path / "cache.jsonl")
    assert read.get("cvvdp 1.0: x", ["a", "b"]) == [1.5, None]
    assert read.get("cvvdp 1.1: x", ["a"]) == [None]


def test_the_number_of_pictures_follows_from_the_time_and_is_kept(
    loss_fn: RelationalLoss, photographs: dict[str, Tensor], metrics: dict[str, PeerMetric], tmp_path: Path
) -> None:
    cache = tmp_path / "cache.jsonl"
    first = hold_jury(loss_fn, photographs, metrics, minutes=0.001, workers=1, cache=cache)["setup"]
    assert first["pictures_of_each"] == 15 and "s a picture" in first["number_of_pictures"]
    again = hold_jury(loss_fn, photographs, metrics, minutes=0.001, workers=1, cache=cache)["setup"]
    assert again["pictures_of_each"] == 15 and again["number_of_pictures"] == "as in the run that goes on"


def test_results_do_not_depend_on_the_number_of_threads(
    loss_fn: RelationalLoss, photographs: dict[str, Tensor], metrics: dict[str, PeerMetric]
) -> None:
    one, two = (hold_jury(loss_fn, photographs, metrics, pictures=5, workers=n)["spearman"] for n in (1, 2))
    assert one == two


def test_a_jury_has_at_least_two_members(
    loss_fn: RelationalLoss, photographs: dict[str, Tensor], metrics: dict[str, PeerMetric]
) -> None:
    with pytest.raises(MissingExtra, match=r"two jurors of st_lpips, cvvdp, ssimulacra2: .*relqa_loss\[jury\]"):
        hold_jury(loss_fn, photographs, {"cvvdp": metrics["cvvdp"]}, pictures=5)


def test_wrong_input_is_named(
    loss_fn: RelationalLoss, photographs: dict[str, Tensor], metrics: dict[str, PeerMetric]
) -> None:
    with pytest.raises(ValueError, match="photographs must be at least 128x128 pixels for panel, got 100x144"):
        hold_jury(loss_fn, {name: image[:, :100] for name, image in photographs.items()}, metrics, pictures=5)
    with pytest.raises(ValueError, match="at least two pictures for intervals, got 1"):
        hold_jury(loss_fn, {"0.png": photographs["0.png"]}, metrics, pictures=5)
    with pytest.raises(ValueError, match="pictures must be at least 5 or None, got 4"):
        hold_jury(loss_fn, photographs, metrics, pictures=4)
    with pytest.raises(ValueError, match="minutes must be above 0, got 0"):
        hold_jury(loss_fn, photographs, metrics, minutes=0)


def run_command(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_jury(parser.add_subparsers())
    args = parser.parse_args(["jury", *argv])
    code: int = args.run(args)
    return code


def test_the_command_prints_tables_and_writes_json(
    photographs: dict[str, Tensor],
    metrics: dict[str, PeerMetric],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[list[str]] = []

    def load(names: list[str]) -> tuple[dict[str, PeerMetric], dict[str, str]]:
        asked.append(names)
        return metrics, {"flip": "not installed: pip install x"}

    monkeypatch.setattr(peer_metrics, "load_metrics", load)
    for name, image in photographs.items():
        write_image(tmp_path / "photos" / name, image)
    write_image(tmp_path / "photos" / "small.png", photographs["0.png"][:, :64])
    out = tmp_path / "jury.json"
    data = str(tmp_path / "photos")
    options = ["--crop", "140", "--pictures", "5", "--workers", "1", "--json", str(out), "--metrics", "cvvdp, flip,"]
    assert run_command("--data", data, *options) == 0 and asked == [["cvvdp", "flip"]]
    printed = capsys.readouterr()
    assert "human-calibrated metrics, not with people: st_lpips, cvvdp" in printed.out
    assert "relation between kinds" in printed.out and "RelationalLoss" in printed.out
    assert "left out: flip, not installed" in printed.err and "small.png: smaller than 140x140" in printed.err
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["setup"]["size"] == [140, 140] and report["missing"] == {"flip": "not installed: pip install x"}
    assert (tmp_path / "jury.json.cache.jsonl").exists()


def test_the_real_jury_holds(loss_fn: RelationalLoss, make_photos: Callable[..., Tensor]) -> None:
    found, missing = load_metrics([*JURORS, *OBSERVERS])
    if missing:
        pytest.skip("; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    images = {str(k): image for k, image in enumerate(make_photos(2, 228, 228, seed=1))}
    report = hold_jury(loss_fn, images, found, pictures=5, workers=1)
    assert report["jury"] == list(JURORS) and report["observers"] == list(OBSERVERS)
    assert all(one["role"] in ("juror", "observer") for one in report["metrics"].values())
    assert report["spearman"]["pooled"]["jury"]["panel"]["value"] > 0
