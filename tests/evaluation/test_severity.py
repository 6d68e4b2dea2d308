"""Calibrated severity on unseen photographs: what counts as monotone, the spread, the reports, the command."""

import json

import numpy as np
import pytest
import torch

from relqa_loss.cli import main
from relqa_loss.distortions.calibration import CalibrationSettings, calibrate
from relqa_loss.distortions.record import KNOTS, Distortion
from relqa_loss.evaluation import severity as module
from relqa_loss.evaluation.severity import apply_at, check_severity_steps, listed, spread

pytest.importorskip("piq")


def _noise(images, parameter, generator):
    from relqa_loss.distortions.filters import column, normal

    return (images + column(parameter, images) * normal(tuple(images.shape), images, generator)).clamp(0, 1)


def _fade(images, parameter, generator):
    share = parameter.view(-1, 1, 1, 1).to(images)
    return images * (1 - share) + 0.5 * share


def _shift(images, parameter, generator):
    return torch.zeros(images.shape[0], 2, *images.shape[2:])


NOISE = Distortion("own_noise", "sensor", {"noise": 1.0}, (0.002, 0.3), apply=_noise, batched=True)
FADE = Distortion("own_fade", "tone", {"contrast": -1.0}, (0.02, 0.7), apply=_fade)
SHIFT = Distortion("own_shift", "geometry", {"shift_x": 1.0}, (0.5, 8.0), flow=_shift)
# Rises, stands still for two steps and falls back.
WAVE = FADE.with_levels((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.6, 0.1, 0.7))


@pytest.fixture
def photographs():
    generator = torch.Generator().manual_seed(8)
    small = torch.rand(3, 3, 20, 20, generator=generator)
    big = torch.nn.functional.interpolate(small, size=(128, 128), mode="bicubic", align_corners=False).clamp(0, 1)
    return dict(zip("abc", big, strict=True))


def test_rising_operators_are_monotone_and_a_fall_is_named(photographs):
    report = check_severity_steps(photographs, distortions=(NOISE, WAVE, SHIFT), table={}, workers=1)
    assert report["steps"] == 2 * (KNOTS - 1) * 3
    assert report["per_operator"]["own_noise"]["share"] == 1
    wave = report["per_operator"]["own_fade"]
    assert wave["bitwise_equal"] == 2 * 3
    assert wave["monotone"] == (KNOTS - 1) * 3 - 3
    assert report["monotone"] == report["steps"] - 3
    assert {(e["operator"], e["photograph"], e["from"], e["to"]) for e in report["exceptions"]} == {
        ("own_fade", name, 0.8, 0.9) for name in "abc"
    }
    assert all(e["fall"] > module.EPSILON for e in report["exceptions"])
    assert report["left_out"]["displacements"] == ["own_shift"]
    assert "own_shift" not in report["per_operator"]
    json.dumps(report, allow_nan=False)


def test_the_same_whatever_the_workers_and_whichever_other_photographs(photographs):
    one = check_severity_steps(photographs, distortions=(NOISE, FADE), table={}, workers=1)
    two = check_severity_steps(photographs, distortions=(NOISE, FADE), table={}, workers=2)
    assert one == two
    crops = torch.stack(list(photographs.values()))
    assert torch.equal(apply_at(NOISE, crops, 0.5, [5, 6, 7])[1:2], apply_at(NOISE, crops[1:2], 0.5, [6]))
    assert torch.equal(apply_at(NOISE, crops, 0.0, [5, 6, 7]), crops)


def test_operators_listed_by_the_calibration_stay_out_of_the_spread(photographs):
    table = {"short_of_target": {"own_fade": 0.4}, "above_foot": {}}
    report = check_severity_steps(photographs, distortions=(NOISE, FADE), table=table, workers=1)
    assert report["left_out"]["short_of_target"] == ["own_fade"]
    assert report["spread"]["operators"] == 1
    assert report["spread"]["after"]["mean_sd"] == 0
    assert report["spread_of_all"]["operators"] == 2
    assert report["spread_of_all"]["after"]["mean_sd"] > 0
    assert listed({}, (NOISE, SHIFT))["displacements"] == ["own_shift"]


def test_spread_is_that_between_operators():
    result = spread({"a": [0.0] + [0.2] * 10, "b": [0.0] + [0.6] * 10})
    assert result["sd"] == [0.0] + [0.2] * 10
    assert result["range_10_90"][1] == pytest.approx(0.32)
    assert result["mean_sd"] == pytest.approx(0.2)
    assert spread({}) == {}


def test_nothing_to_measure_is_one_clear_error(photographs):
    with pytest.raises(ValueError, match="photographs must hold at least one"):
        check_severity_steps({}, distortions=(NOISE,))
    with pytest.raises(ValueError, match="at least one pixel operator"):
        check_severity_steps(photographs, distortions=(SHIFT,))
    with pytest.raises(ValueError, match="displaces content"):
        apply_at(SHIFT, torch.rand(1, 3, 128, 128), 0.5, [0])


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(3)
    for index in range(2):
        small = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
        small.resize((300, 260), Image.Resampling.BICUBIC).save(tmp_path / f"{index}.png")
    return tmp_path


def test_the_command_measures_writes_and_fails_below_the_goal(folder, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    bank = (NOISE, FADE)
    monkeypatch.setattr(
        module,
        "check_severity_steps",
        lambda crops, **rest: check_severity_steps(crops, distortions=bank, **rest),
    )
    argv = ["benchmark", "severity", "--data", str(folder), "--limit", "1", "--workers", "1"]
    out = folder / "report"
    assert main([*argv, "--json", str(folder / "figures.json"), "--report", str(out)]) == 0
    assert "100.00 % of 20 steps" in capsys.readouterr().out
    assert json.loads((folder / "figures.json").read_text())["photographs"] == ["0.png"]
    assert "| own_noise |" in (out / "severity-report.md").read_text()
    assert (out / "severity-curves.png").stat().st_size > 10_000
    bank = (NOISE, WAVE)
    assert main(argv) == 1
    assert "0.8  0.9" in capsys.readouterr().out


def test_the_calibration_has_a_report(folder, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from relqa_loss.evaluation.severity_report import write_calibration_report

    settings = CalibrationSettings(photographs=2, crop=128, positions=5)
    table = calibrate(folder, distortions=(NOISE, FADE, SHIFT), settings=settings)
    written = write_calibration_report(table, tmp_path / "report", (NOISE, FADE, SHIFT))
    assert [path.name for path in written] == ["severity-report.md", "severity-curves.png"]
    text = written[0].read_text()
    assert "`own_shift`" in text
    assert "| severity | sd before | sd after |" in text

    def full_disk(figure, target, **options):
        raise OSError("disk full")

    # Text and curves are of one calibration, whatever happens.
    monkeypatch.setattr(Figure, "savefig", full_disk)
    other = table | {"provenance": table["provenance"] | {"panel": ["another"]}}
    with pytest.raises(OSError, match="disk full"):
        write_calibration_report(other, tmp_path / "report", (NOISE, FADE, SHIFT))
    assert written[0].read_text() == text


def test_missing_matplotlib_is_told_before_the_work(folder, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["benchmark", "severity", "--data", str(folder), "--report", str(folder / "r")]) != 0
    assert "relqa_loss[figures]" in capsys.readouterr().err


def test_missing_piq_is_one_line_that_names_the_extra(folder, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "piq", None)
    for kind in ("severity", "tiers"):
        assert main(["benchmark", kind, "--data", str(folder)]) != 0
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert "relqa_loss[benchmark]" in lines[0]
