from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relqa_loss.evaluation import peer_metrics
from relqa_loss.evaluation.peer_metrics import METRIC_NAMES, PeerMetric, load_metrics

PIQ = ("psnr", "ssim", "ms_ssim", "fsim", "vsi", "gmsd", "mdsi", "haarpsi", "vif")
OTHERS = ("st_lpips", "cvvdp", "ssimulacra2", "flip")
SIDE = 256


@pytest.fixture(scope="module")
def photo(make_photos: Callable[..., Tensor]) -> Tensor:
    return (make_photos(1, SIDE, SIDE, seed=3) * 255).round() / 255


def metric(name: str) -> PeerMetric:
    found, missing = load_metrics([name])
    if name not in found:
        assert name not in PIQ, missing
        pytest.skip(f"{name}: {missing[name]}")
    return found[name]


def blurred(image: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(F.pad(image, [size // 2] * 4, mode="replicate"), size, stride=1)


def test_the_names_are_those_that_the_issue_lists() -> None:
    assert METRIC_NAMES == (*PIQ, *OTHERS)


def test_all_of_piq_is_there() -> None:
    found, missing = load_metrics(PIQ)
    assert tuple(found) == PIQ and not missing
    assert {one.package for one in found.values()} == {"piq"}


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_more_damage_is_worse_and_none_is_least(name: str, photo: Tensor) -> None:
    one = metric(name)
    pictures = torch.cat((photo, blurred(photo, 3), blurred(photo, 9)))
    values = one(pictures, photo.expand_as(pictures))
    assert values.shape == (3,) and values.dtype == torch.float32 and torch.isfinite(values).all()
    assert values[0] < values[1] < values[2]
    if name not in ("psnr", "mdsi"):
        assert values[0].abs() < 1e-3


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_batch_mates_do_not_matter(name: str, photo: Tensor) -> None:
    one = metric(name)
    pictures = torch.cat((blurred(photo, 5), (photo + 0.1).clamp(0, 1)))
    together = one(pictures, photo.expand_as(pictures))
    alone = torch.cat([one(picture[None], photo) for picture in pictures])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_no_gradients_and_any_float_dtype(name: str, photo: Tensor) -> None:
    one = metric(name)
    wanted = one(blurred(photo, 3), photo)
    asked = blurred(photo, 3).double().requires_grad_()
    values = one(asked, photo.double())
    assert not values.requires_grad
    torch.testing.assert_close(values, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_it_says_what_it_is(name: str) -> None:
    one = metric(name)
    assert one.name == name and one.version[0].isdigit() and one.protocol
    assert bool(one.trained_on) == (name not in ("psnr", "ssim", "flip"))


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_the_smallest_side_is_true(name: str, photo: Tensor) -> None:
    one = metric(name)
    part = photo[:, :, : one.min_side, : one.min_side]
    assert torch.isfinite(one(blurred(part, 3), part)).all()
    if one.min_side > 16:
        part = part[..., 1:]
        with pytest.raises(ValueError, match=rf"at least {one.min_side}x{one.min_side} pixels for {name}"):
            one(part, part)


@pytest.mark.parametrize("name", OTHERS)
def test_loading_and_measuring_are_silent(
    name: str, photo: Tensor, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    before = list(sys.path)
    one = metric(name)
    one(blurred(photo, 3), photo)
    assert sys.path == before
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_fresh_process_opens_no_socket_says_nothing_and_loads_on_demand() -> None:
    code = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("a socket was opened")
socket.socket.__init__ = refuse
socket.getaddrinfo = refuse
import torch
import relqa_loss.evaluation.peer_metrics as peers
early = {"piq", "stlpips_pytorch", "pycvvdp", "ssimulacra2", "flip_evaluator"} & set(sys.modules)
assert not early, early
found, _ = peers.load_metrics()
picture = torch.rand(1, 3, 256, 256)
for one in found.values():
    one(picture.flip(3), picture)
print(*found)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(peer_metrics.__file__).parents[2],
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (names,) = done.stdout.splitlines()
    assert names.split()[: len(PIQ)] == list(PIQ)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    found, missing = load_metrics(["psnr", "flip"])
    assert list(found) == ["psnr"]
    assert list(missing) == ["flip"] and missing["flip"].endswith("pip install flip-evaluator")


def test_a_package_whose_own_needs_are_missing_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pycvvdp.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.delitem(sys.modules, "pycvvdp", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    _, missing = load_metrics(["cvvdp"])
    assert "a_package_that_nobody_has" in missing["cvvdp"] and "does not import" in missing["cvvdp"]


def test_other_errors_of_a_package_are_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pycvvdp.py").write_text("raise RuntimeError('broken inside')\n")
    monkeypatch.delitem(sys.modules, "pycvvdp", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="broken inside"):
        load_metrics(["cvvdp"])


def test_an_unknown_name_gets_its_nearest_match() -> None:
    with pytest.raises(ValueError, match="unknown metric 'ms_sim'; did you mean 'ms_ssim'"):
        load_metrics(["ms_sim"])


def test_shapes_must_agree(photo: Tensor) -> None:
    with pytest.raises(ValueError, match="distorted and reference must have one shape"):
        metric("psnr")(photo, photo[..., 1:])


def test_a_metric_that_returns_another_shape_is_an_error(photo: Tensor) -> None:
    odd = PeerMetric("odd", "nobody", "1", "", "none", lambda a, b: (a - b).mean((2, 3)))
    with pytest.raises(ValueError, match="odd must give 1 values, got shape"):
        odd(photo, photo)


def test_psnr_and_ssim_are_what_their_formulas_say(photo: Tensor) -> None:
    worse = (photo + 0.05).clamp(0, 1)
    error = (worse - photo).square().mean()
    torch.testing.assert_close(
        metric("psnr")(worse, photo), (10 * torch.log10(error + 1e-8)).reshape(1), rtol=1e-4, atol=0
    )
    assert 0 < metric("ssim")(worse, photo) < 1


def test_st_lpips_holds_the_whole_network() -> None:
    metric("st_lpips")
    package = sys.modules["stlpips_pytorch.stlpips"]
    network = package.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    weights = Path(str(package.__file__)).parent / "weights/vST0.0/alex_shift_tolerant.pth"
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    # "lins" are the same tensors as "lin0" to "lin4" under a second name.
    needed = {key for key in network.state_dict() if not key.startswith("lins.")}
    assert needed <= set(stored)
    for key in needed:
        torch.testing.assert_close(network.state_dict()[key], stored[key], rtol=0, atol=0)
