import argparse
import json
import sys
from types import ModuleType

import pytest
import torch

from relqa_loss.cli.throughput import add_throughput
from relqa_loss.distortions import by_name
from relqa_loss.evaluation import peers, throughput
from relqa_loss.evaluation.throughput import draw_crops, measure_throughput
from relqa_loss.images import write_image

pytest.importorskip("PIL")

FEW = ("luma_noise", "jpeg", "darken", "gaussian_blur")


@pytest.fixture
def photos_list(make_photos):
    return [*make_photos(1, 48, 64), *make_photos(1, 80, 40, seed=1)]


@pytest.fixture
def no_peers(monkeypatch):
    """None of the other packages is installed."""
    for name in (*peers._BUILDERS, "kornia.augmentation", "torchvision.transforms.v2"):
        monkeypatch.setitem(sys.modules, name, None)


def measured(photographs, **settings):
    defaults = {"size": 32, "seconds": 0.01, "repeats": 1, "workers": 0}
    return measure_throughput(photographs, distortions=[by_name(name) for name in FEW], **(defaults | settings))


def test_crops_are_seeded_and_take_turns(photos_list):
    crops = draw_crops(photos_list, 5, 32, seed=3)
    assert crops.shape == (5, 3, 32, 32) and torch.equal(crops, draw_crops(photos_list, 5, 32, seed=3))
    assert not torch.equal(crops, draw_crops(photos_list, 5, 32, seed=4))
    # Only the second photograph is 40 wide and 80 high: of its size there is one.
    assert draw_crops(photos_list, 2, 40).shape == (2, 3, 40, 40)
    with pytest.raises(ValueError, match="size must not exceed the photographs, got 50 for 2"):
        draw_crops(photos_list, 2, 50)


def test_every_operator_is_compared_with_the_round_trip(photos_list, no_peers):
    report = measured(photos_list)
    assert [one["name"] for one in report["operators"]] == list(FEW) and report["jpeg_ms"] > 0
    for one in report["operators"]:
        assert one["ms"] > 0 and one["ratio"] == pytest.approx(one["ms"] / report["jpeg_ms"])
        assert one["codec"] == by_name(one["name"]).codec and one["family"] == by_name(one["name"]).family
    assert set(report["engine"]) == {"triplets", "triplets_without_codecs", "tiers_of_5"}
    assert all(rate > 0 for rate in report["engine"].values())
    assert report["setup"]["threads"] == torch.get_num_threads() and report["setup"]["size"] == 32
    json.dumps(report, allow_nan=False)


def test_photographs_that_are_too_small_are_not_counted(photos_list, no_peers):
    report = measured([*photos_list, torch.rand(3, 24, 64)], workers=1, peers=False)
    assert report["setup"]["photographs"] == 2


def test_the_clock_counts_images(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(ticks)))
    calls = []
    # Each call takes one tick: three calls of 8 images in 3 seconds, after one that warms up.
    rate = throughput._rate(lambda: calls.append(1), 8, torch.device("cpu"), 3.0)
    assert rate == 8.0 and len(calls) == 4


def test_the_loader_delivers(photos_list, no_peers):
    report = measured(photos_list, workers=1, peers=False)
    assert report["engine"]["triplets_loader"] > 0 and report["peers"] == []


def test_what_is_not_installed_is_named(photos_list, no_peers):
    report = measured(photos_list)
    assert report["peers_missing"] == dict.fromkeys(peers._BUILDERS, "not installed")
    assert [one["name"] for one in report["peers"]] == ["relqa_loss, pictures alone", "relqa_loss, engine"]
    for one in report["peers"]:
        assert set(one["ms"]) == set(peers.COMMON) and set(one["facts"]) == set(peers.FACTS)
        rate = len(one["ms"]) * 1e3 / sum(one["ms"].values())
        assert one["images_a_second"] == pytest.approx(rate) and one["failed"] == {}


def test_a_package_that_does_not_import_is_told_from_one_that_is_absent(photos_list, no_peers, monkeypatch):
    def broken(crops, threads):
        raise ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")

    monkeypatch.setitem(peers._BUILDERS, "imagecorruptions", broken)
    _, missing = peers.load_peers(draw_crops(photos_list, 2, 32), 1)
    assert missing["imagecorruptions"] == "does not import: No module named 'pkg_resources'"
    assert missing["kornia"] == "not installed"


def test_a_distortion_that_fails_is_left_out_with_its_reason(no_peers):
    calls = []

    def failing():
        raise TypeError("unexpected keyword argument 'multichannel'\nmore")

    tasks = {name: (lambda name=name: calls.append(name)) for name in peers.COMMON[1:]} | {peers.COMMON[0]: failing}
    package = peers.Peer("other", "1.0", 6, "corruptions", {}, tasks)
    (row,) = throughput._time_peers([package], 4, torch.device("cpu"), repeats=2)
    assert row["failed"] == {peers.COMMON[0]: "unexpected keyword argument 'multichannel'"}
    assert set(row["ms"]) == set(peers.COMMON[1:]) and calls.count("JPEG") == 3


@pytest.mark.parametrize("name", list(peers._BUILDERS))
def test_installed_packages_do_what_is_claimed(name, make_photos):
    pytest.importorskip(name)
    crops = make_photos(2, 64, 64)
    package = peers._BUILDERS[name](crops, 1)
    assert set(package.tasks) == set(peers.COMMON) and set(package.facts) == set(peers.FACTS)
    assert package.operators > 10 and package.version


@pytest.mark.parametrize("name", ["kornia", "torchvision"])
def test_packages_that_take_tensors_distort_about_as_much_as_ours(name, make_photos):
    pytest.importorskip(name)
    crops = make_photos(2, 64, 64)
    theirs, ours = peers._BUILDERS[name](crops, 1), peers._relqa(crops)
    for task in peers.COMMON:
        errors = []
        for package in (theirs, ours):
            result = package.tasks[task]()
            pictures = result.float() / 255 if result.dtype == torch.uint8 else result
            assert pictures.shape == crops.shape
            errors.append(float((pictures - crops).square().mean().sqrt()))
        assert 0.2 < errors[0] / errors[1] < 5, task


def test_public_classes_are_counted():
    module = ModuleType("made_up")

    class Root:
        pass

    module.Root, module.One, module.RootBase2D = Root, type("One", (Root,), {}), type("RootBase2D", (Root,), {})
    module._hidden, module.number = type("Hidden", (Root,), {}), 3
    assert peers._classes(module, Root) == 1


@pytest.mark.parametrize("settings", [{"repeats": 0}, {"seconds": 0.0}, {"workers": -1}, {"seconds": float("nan")}])
def test_impossible_settings_are_errors(photos_list, settings):
    with pytest.raises(ValueError, match="repeats must be at least 1, seconds above 0 and workers at least 0"):
        measured(photos_list, **settings)


def test_the_command_prints_and_writes_the_figures(capsys, tmp_path, monkeypatch, no_peers):
    monkeypatch.setattr(throughput, "BANK", tuple(by_name(name) for name in FEW))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    parser = argparse.ArgumentParser()
    add_throughput(parser.add_subparsers())
    target = tmp_path / "t.json"
    arguments = ["--size", "32", "--seconds", "0.01", "--repeats", "1", "--workers", "0", "--json", str(target)]
    args = parser.parse_args(["throughput", *arguments])
    assert args.run(args) == 0
    out, err = capsys.readouterr()
    report = json.loads(target.read_text())
    assert all(name in out for name in FEW) and "left out: kornia, not installed" in out
    assert f"{report['jpeg_ms']:.2f} ms an image" in out and f"{report['engine']['triplets']:9.1f}" in out
    assert report["setup"]["photographs"] == 3 and "operators" in err


def test_the_command_names_photographs_that_are_too_small(capsys, tmp_path, monkeypatch, photos_list):
    monkeypatch.setattr(throughput, "BANK", tuple(by_name(name) for name in FEW))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    for name, image in zip(("b", "c"), photos_list, strict=True):
        write_image(tmp_path / f"{name}.png", image)
    write_image(tmp_path / "a.png", torch.rand(3, 24, 64))
    parser = argparse.ArgumentParser()
    add_throughput(parser.add_subparsers())
    target = tmp_path / "t.json"
    arguments = ["--size", "32", "--seconds", "0.01", "--repeats", "1", "--workers", "0", "--no-peers"]
    files = ["--data", str(tmp_path), "--limit", "1", "--json", str(target)]
    args = parser.parse_args(["throughput", *arguments, *files])
    assert args.run(args) == 0
    assert "skipped a.png: smaller than 32x32 pixels: 24x64" in capsys.readouterr().err
    assert json.loads(target.read_text())["setup"]["photographs"] == 1


@pytest.mark.gpu
def test_on_an_accelerator_codecs_stand_apart(photos_list, monkeypatch, no_peers):
    monkeypatch.setitem(throughput.BATCH, "cuda", 8)
    monkeypatch.setitem(throughput.ENGINE_BATCH, "cuda", 16)
    report = measured(photos_list, device="cuda")
    assert {"triplets", "triplets_without_codecs"} <= set(report["engine"]) and len(report["operators"]) == len(FEW)
