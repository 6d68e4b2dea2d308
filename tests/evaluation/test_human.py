"""The benchmark on miniature datasets with metrics whose figures are known beforehand."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from relqa_loss.cli import human as command
from relqa_loss.evaluation.distance_cache import DistanceCache
from relqa_loss.evaluation.human import (
    OURS,
    evaluate_bapps,
    evaluate_rated,
    sample,
    sample_bapps,
    verdict,
)
from relqa_loss.evaluation.human_bapps import CHOICE_SUBSETS, SAME_SUBSETS, load_bapps
from relqa_loss.evaluation.human_data import RatedDataset, load_rated
from relqa_loss.evaluation.human_distances import Comparison, Judge, measure
from relqa_loss.evaluation.mos_mapping import MOSMapping


def tree(root: Path, *, scenes: int = 6) -> Path:
    """KADID-10k in small: noise and brightness at five levels, scores that fall with the level."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["dist_img,ref_img,dmos,var"]
    for scene in range(1, scenes + 1):
        pristine = rng.uniform(60, 180, (24, 32, 3))
        write(root / "images" / f"I{scene:02d}.png", pristine)
        for level in range(1, 6):
            damage = {11: rng.normal(0, 5 * level, pristine.shape), 16: np.full(pristine.shape, 6.0 * level)}
            for kind, change in damage.items():
                name = f"I{scene:02d}_{kind}_{level:02d}.png"
                write(root / "images" / name, pristine + change)
                lines.append(f"{name},I{scene:02d}.png,{5 - 0.7 * level + rng.normal(0, 0.15):.3f},0.3")
    (root / "dmos.csv").write_text("\n".join(lines) + "\n")
    return root


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(path)


def bapps_tree(root: Path, count: int = 6) -> Path:
    """Patches at 256 px whose first copy is the nearer one; people say so in the cnn subset and deny it elsewhere."""
    rng = np.random.default_rng(1)
    for subset in CHOICE_SUBSETS:
        folder = root / "2afc" / "val" / subset
        (folder / "judge").mkdir(parents=True)
        for k in range(count):
            pristine = np.repeat(np.repeat(rng.uniform(60, 180, (64, 64, 3)), 4, axis=0), 4, axis=1)
            for name, shift in (("ref", 0), ("p0", 5), ("p1", 30)):
                write(folder / name / f"{k:06d}.png", pristine + shift)
            np.save(folder / "judge" / f"{k:06d}.npy", np.array([0.25 if subset == "cnn" else 0.75]))
    for subset in SAME_SUBSETS:
        folder = root / "jnd" / "val" / subset
        (folder / "same").mkdir(parents=True)
        for k in range(count):
            write(folder / "p0" / f"{k:06d}.png", np.full((256, 256, 3), 100.0))
            write(folder / "p1" / f"{k:06d}.png", np.full((256, 256, 3), 101.0 + k))
            np.save(folder / "same" / f"{k:06d}.npy", np.array([1.0 if k < count // 2 else 0.0]))
    return root


@pytest.fixture
def dataset(tmp_path) -> RatedDataset:
    return load_rated("kadid10k", tree(tmp_path / "kadid"))


def l1(distorted: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return (distorted - reference).abs().mean(dim=(1, 2, 3))


def backwards(distorted: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return -l1(distorted, reference)


def noise(distorted: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return distorted[:, 0, 3, 4] * 1000 % 1


def judge(name: str, distance, **settings) -> Judge:
    return Judge(name, "1", "", "none", distance, **settings)


def test_known_metrics_get_their_figures(dataset):
    judges = [judge(OURS, l1), judge("twin", l1), judge("backwards", backwards), judge("noise", noise)]
    report, distances = evaluate_rated(dataset, judges, resamples=60)
    figures = {one["name"]: one for one in report["metrics"]}
    assert list(figures) == [OURS, "twin", "backwards", "noise"] and report["failed"] == {}
    assert report["setup"]["pairs"] == 60 and report["setup"]["scenes"] == 6
    for statistic in ("spearman", "kendall", "pearson"):
        ours = figures[OURS][statistic]
        assert 0.75 < ours["low"] <= ours["value"] <= ours["high"] <= 1
        assert figures["backwards"][statistic]["value"] == pytest.approx(-ours["value"], abs=2e-3)
        assert abs(figures["noise"][statistic]["value"]) < 0.5
        against = report["against"]
        assert against["twin"][statistic]["verdict"] == "tie" and against["twin"][statistic]["high"] == 0
        assert against["noise"][statistic]["verdict"] == "better"
        assert against["backwards"][statistic]["low"] > 1
    assert figures[OURS]["kendall"]["value"] < figures[OURS]["spearman"]["value"]
    rows = figures[OURS]["distortions"]
    assert {name: row["pairs"] for name, row in rows.items()} == {"white noise": 30, "brighten": 30}
    assert rows["brighten"]["spearman"]["value"] > 0.9 and rows["brighten"]["spearman"]["low"] > 0.85
    assert distances[OURS].shape == (60,)
    json.dumps(report, allow_nan=False)


def test_a_worse_metric_of_ours_is_called_worse(dataset):
    report, _ = evaluate_rated(dataset, [judge("peer", l1), judge(OURS, noise)], resamples=40)
    assert report["against"]["peer"]["spearman"]["verdict"] == "worse"


def test_seeds_decide_the_intervals(dataset):
    def low(seed):
        report, _ = evaluate_rated(dataset, [judge(OURS, l1)], resamples=30, seed=seed)
        return report["metrics"][0]["spearman"]["low"]

    assert low(1) == low(1) != low(2)


def test_figures_that_cannot_be_had_are_none(dataset):
    report, _ = evaluate_rated(dataset, [judge(OURS, l1), judge("constant", lambda d, r: torch.ones(1))], resamples=20)
    constant = report["metrics"][1]
    assert constant["spearman"] == {"value": None, "low": None, "high": None}
    assert "distances are all 1" in constant["mapping"]["reason"]
    assert report["against"]["constant"]["pearson"]["verdict"] == "unknown"
    json.dumps(report, allow_nan=False)


def test_verdicts():
    assert verdict({"value": 0.1, "low": 0.01, "high": 0.2}) == "better"
    assert verdict({"value": 0.1, "low": -0.01, "high": 0.2}) == "tie"
    assert verdict({"value": -0.1, "low": -0.2, "high": -0.01}) == "worse"
    assert verdict({"value": None, "low": None, "high": None}) == "unknown"


def test_a_metric_that_fails_is_named_and_left_out(dataset):
    def fragile(distorted, reference):
        raise AssertionError("too small for me")

    def infinite(distorted, reference):
        return l1(distorted, reference) / 0

    judges = [judge(OURS, l1), judge("fragile", fragile), judge("infinite", infinite)]
    report, distances = evaluate_rated(dataset, judges, resamples=5)
    assert list(distances) == [OURS] == [one["name"] for one in report["metrics"]]
    assert report["failed"] == {
        "fragile": "images/I01_11_01.png: too small for me",
        "infinite": "images/I01_11_01.png: infinite gave inf",
    }
    with pytest.raises(ValueError, match=r"images/I01_11_01.png: RelationalLoss gave inf"):
        evaluate_rated(dataset, [judge(OURS, infinite, required=True)], resamples=5)


class Counted:
    """L1 that counts its calls and stops the run at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at = 0, stop_at

    def __call__(self, distorted, reference):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return l1(distorted, reference)


def test_a_stopped_run_goes_on_where_it_stopped(dataset, tmp_path):
    cache = tmp_path / "deep" / "distances.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate_rated(dataset, [judge(OURS, Counted(stop_at=24))], cache=cache, resamples=5)
    assert len(cache.read_text().splitlines()) == 23
    # As if the machine had gone down in the middle of a line.
    with cache.open("a") as file:
        file.write('{"metric": "Relat')
    rest = Counted()
    resumed, _ = evaluate_rated(dataset, [judge(OURS, rest)], cache=cache, resamples=5)
    assert rest.calls == 60 - 23
    again = Counted()
    whole, _ = evaluate_rated(dataset, [judge(OURS, l1)], resamples=5)
    repeated, _ = evaluate_rated(dataset, [judge(OURS, again)], cache=cache, resamples=5)
    assert again.calls == 0 and resumed == repeated == whole


def test_another_version_or_file_is_measured_anew(dataset, tmp_path):
    cache = tmp_path / "distances.jsonl"
    evaluate_rated(dataset, [judge(OURS, l1)], cache=cache, resamples=5)
    newer = Counted()
    evaluate_rated(dataset, [Judge(OURS, "2", "", "none", newer)], cache=cache, resamples=5)
    assert newer.calls == 60
    picture = dataset.pairs[7].distorted
    write(picture, np.full((24, 32, 3), 9.0))
    changed = Counted()
    evaluate_rated(dataset, [judge(OURS, changed)], cache=cache, resamples=5)
    assert changed.calls == 1


def test_a_file_that_is_no_cache_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    for content, message in (("one\ntwo\n", "line 1 is not a cached distance"), ("thesis", "not a file of cached")):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            DistanceCache(path)
        assert path.read_text() == content


def test_progress_tells_the_time_left(dataset, monkeypatch):
    monkeypatch.setattr("relqa_loss.evaluation.human_distances.REPORT_EVERY", 0.0)
    lines: list[str] = []
    comparisons = [Comparison(pair.distorted, pair.reference) for pair in dataset.pairs[:4]]
    measure(comparisons, [judge("l1", l1)], root=dataset.root, cache=DistanceCache(), progress=lines.append)
    assert len(lines) == 4
    assert lines[0].startswith("1 of 4 pairs, 0.") and lines[0].endswith(" left")
    assert lines[3].startswith("4 of 4 pairs") and "left" not in lines[3]


def test_images_are_read_only_if_needed(dataset, tmp_path):
    cache = DistanceCache()
    comparisons = [Comparison(dataset.pairs[0].distorted, dataset.pairs[0].reference)]
    first, _ = measure(comparisons, [judge("l1", l1)], root=dataset.root, cache=cache)
    state = comparisons[0].distorted.stat()
    comparisons[0].distorted.write_bytes(b"x" * state.st_size)
    os.utime(comparisons[0].distorted, ns=(state.st_atime_ns, state.st_mtime_ns))
    again, _ = measure(comparisons, [judge("l1", l1)], root=dataset.root, cache=cache)
    assert again["l1"] == first["l1"]


def test_two_sizes_end_the_run(dataset):
    write(dataset.pairs[3].distorted, np.zeros((20, 32, 3)))
    with pytest.raises(ValueError, match=r"I01_16_02.png is 32x20 pixels, its reference .*I01.png 32x24"):
        evaluate_rated(dataset, [judge(OURS, l1)], resamples=5)


def test_a_sample_is_drawn_once_and_keeps_its_order(dataset):
    some = sample(dataset, 20, seed=3)
    assert some.pairs == sample(dataset, 20, seed=3).pairs != sample(dataset, 20, seed=4).pairs
    places = [dataset.pairs.index(pair) for pair in some.pairs]
    assert places == sorted(places) and len(set(places)) == 20 and len({pair.level for pair in some.pairs}) > 2
    assert sample(dataset, 500) == sample(dataset, None) == dataset
    with pytest.raises(ValueError, match="limit must be at least 1"):
        sample(dataset, 0)


def test_bapps_by_hand(tmp_path):
    dataset = load_bapps(bapps_tree(tmp_path))
    judges = [judge(OURS, l1), judge("backwards", backwards)]
    report = evaluate_bapps(dataset, judges, resamples=30)
    ours, other = report["metrics"]
    subsets = ours["choices"]["subsets"]
    assert {name: row["value"] for name, row in subsets.items()} == {
        name: 0.75 if name == "cnn" else 0.25 for name in CHOICE_SUBSETS
    }
    assert ours["choices"]["mean"]["value"] == pytest.approx((0.75 + 5 * 0.25) / 6)
    assert other["choices"]["mean"]["value"] == pytest.approx((0.25 + 5 * 0.75) / 6)
    assert report["viewer"]["mean"]["value"] == pytest.approx(0.75**2 + 0.25**2)
    assert ours["detections"]["mean"]["value"] == 1.0
    assert other["detections"]["mean"]["value"] == pytest.approx(0.5)
    assert report["against"]["backwards"]["choices"]["verdict"] == "worse"
    assert report["against"]["backwards"]["detections"]["verdict"] == "better"
    json.dumps(report, allow_nan=False)


def test_bapps_patches_are_compared_at_64_pixels(tmp_path):
    dataset = sample_bapps(load_bapps(bapps_tree(tmp_path)), 2)
    assert len(dataset.choices) == 12 and len(dataset.detections) == 4
    sides = set()

    def spy(distorted, reference):
        sides.add(tuple(distorted.shape[2:]))
        return l1(distorted, reference)

    evaluate_bapps(dataset, [judge(OURS, spy)], resamples=2)
    assert sides == {(64, 64)}
    evaluate_bapps(dataset, [judge(OURS, spy)], resamples=2, side=None)
    assert sides == {(64, 64), (256, 256)}


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_human(parser.add_subparsers())
    args = parser.parse_args(["human", *map(str, words)])
    return args.run(args)


def test_the_command_prints_writes_and_maps(tmp_path, capsys):
    root = tree(tmp_path / "kadid", scenes=3)
    out, cache, mapping = tmp_path / "out.json", tmp_path / "cache.jsonl", tmp_path / "mapping.json"
    common = ["--dataset", "kadid10k", "--root", root, "--metrics", "none", "--cache", cache, "--resamples", 20]
    assert run(*common, "--json", out, "--save-mapping", mapping, "--limit", 24) == 0
    printed = capsys.readouterr().out
    assert "KADID-10k: 24 of 30 pairs of 3 scenes, opinion score, 1 to 5, higher is better" in printed
    assert "Spearman by distortion" in printed and "brighten" in printed and OURS in printed
    report = json.loads(out.read_text())
    assert [one["name"] for one in report["metrics"]] == [OURS]
    assert report["metrics"][0]["trained_on"] == "" and report["metrics"][0]["spearman"]["value"] > 0.5
    kept = MOSMapping.load(mapping, distance_sha256=report["weights"]["distance"])
    assert kept.dataset == "KADID-10k" and kept.direction == -1 and kept.pairs == 24
    assert len(cache.read_text().splitlines()) == 24
    assert run(*common) == 0
    assert len(cache.read_text().splitlines()) == 30


def test_figures_are_written_even_if_no_mapping_can_be_fitted(tmp_path):
    root, out, mapping = tree(tmp_path / "kadid", scenes=1), tmp_path / "out.json", tmp_path / "mapping.json"
    words = ["--dataset", "kadid10k", "--root", root, "--metrics", "none", "--resamples", 2, "--limit", 5]
    with pytest.raises(ValueError, match="at least 6 values, got 5"):
        run(*words, "--json", out, "--save-mapping", mapping)
    assert "at least 6" in json.loads(out.read_text())["metrics"][0]["mapping"]["reason"]
    assert not mapping.exists()


def test_the_command_on_bapps(tmp_path, capsys):
    root = bapps_tree(tmp_path / "dataset", count=2)
    assert run("--dataset", "bapps", "--root", root, "--metrics", "none", "--resamples", 5) == 0
    printed = capsys.readouterr().out
    assert "12 triplets and 4 pairs at 64 px" in printed
    assert "2AFC score" in printed and "(one viewer)" in printed and "JND average precision" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "bapps", "--save-mapping", "m.json"], "no opinion scores"),
        (["--dataset", "tid2013", "--resamples", 0], "resamples must be at least 1"),
        (["--dataset", "tid2013"], "no label file mos_with_names.txt"),
    ],
)
def test_the_command_refuses(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        run(*words, "--root", tmp_path)


def test_the_commands_datasets_are_the_loaders():
    from relqa_loss.evaluation.human_data import LOADERS

    assert command.DATASETS == (*LOADERS, "bapps")
