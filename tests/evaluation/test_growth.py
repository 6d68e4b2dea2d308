"""Growth of time and memory over sizes, and its figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from relqa_loss import RelationalLoss
from relqa_loss.evaluation import growth
from relqa_loss.evaluation.growth import GrowthReport, doublings, exponent, measure_growth
from relqa_loss.evaluation.memory import MIB

LossMaker = Callable[..., RelationalLoss]


def small(loss_fn: RelationalLoss, **settings: Any) -> GrowthReport:
    return measure_growth(
        loss_fn, **({"largest_side": 128, "largest_batch": 3, "batch_side": 16, "repeats": 1} | settings)
    )


def test_the_exponent_is_the_slope_of_the_fitted_line() -> None:
    sizes = [1, 2, 4, 16]
    assert exponent(sizes, [3 * x**1.5 for x in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [7.0] * 4) == pytest.approx(0)
    # Least squares: one outlier in the middle of evenly spaced points tilts nothing.
    assert exponent([1, 2, 4], [1, 20, 4]) == pytest.approx(1)


def test_sizes_double_up_to_the_limit() -> None:
    assert doublings(64, 4096) == [64, 128, 256, 512, 1024, 2048, 4096]
    assert doublings(64, 255) == [64, 128]
    assert doublings(1, 64) == [1, 2, 4, 8, 16, 32, 64]


def test_memory_is_in_proportion_to_pixels(loss_fn: RelationalLoss) -> None:
    report = small(loss_fn)
    assert [(one.batch, one.side, one.pixels) for one in report.side.points] == [(1, 64, 4096), (1, 128, 16384)]
    assert [(one.batch, one.side, one.pixels) for one in report.batch.points] == [(1, 16, 256), (2, 16, 512)]
    assert all(one.ms >= one.best_ms > 0 for one in (*report.side.points, *report.batch.points))
    assert report.side.memory_exponent == pytest.approx(1, abs=0.1)
    first, last = report.side.points
    assert report.side.time_exponent == pytest.approx(exponent([4096, 16384], [first.ms, last.ms]))
    assert report.side.left_out == report.batch.left_out == ()
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["side"]["points"][0]["side"] == 64


def test_what_does_not_fit_is_left_out_and_named(loss_fn: RelationalLoss, monkeypatch: pytest.MonkeyPatch) -> None:
    def point(_: RelationalLoss, batch: int, side: int, *rest: object) -> growth.GrowthPoint:
        pixels = batch * side * side
        return growth.GrowthPoint(batch, side, pixels, 1.0, 1.0, pixels / MIB)

    monkeypatch.setattr(growth, "_point", point)
    monkeypatch.setattr(growth, "free_memory", lambda device: 2 * 256 * 256)
    report = small(loss_fn, largest_side=1024)
    assert [one.side for one in report.side.points] == [64, 128, 256]
    assert [reason.partition(":")[0] for reason in report.side.left_out] == ["1x3x512x512", "1x3x1024x1024"]
    monkeypatch.setattr(growth, "free_memory", lambda device: 0)
    with pytest.raises(
        ValueError, match="growth needs two sizes, got one that fits into memory; 1x3x128x128: asks for"
    ):
        small(loss_fn)
    monkeypatch.setattr(growth, "free_memory", lambda device: None)
    assert len(small(loss_fn, largest_side=1024).side.points) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"largest_side": 127}, "largest_side must be at least 128 pixels for two sizes, got 127"),
        ({"largest_batch": 1}, "largest_batch must be at least 2 for two sizes, got 1"),
        ({"batch_side": 15}, "batch_side must be at least 16 pixels, got 15"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
    ],
)
def test_wrong_settings_are_one_clear_error(loss_fn: RelationalLoss, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(loss_fn, **settings)


def test_the_figure_shows_both_costs_of_both_series(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from relqa_loss.figures_growth import growth_figure

    def series(pixels: list[int], time: float, memory: float) -> dict[str, Any]:
        points = [{"pixels": n, "ms": 2.0 * n**time, "peak_mib": 0.5 * n**memory} for n in pixels]
        return {"points": points, "time_exponent": time, "memory_exponent": memory}

    report = {"side": series([64, 256, 1024], 0.75, 1.0), "batch": series([32, 64], 0.5, 0.875)}
    figure = growth_figure(report, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text(encoding="utf-8")
    for axes, cost, exponents in zip(
        figure.axes, ("ms", "peak_mib"), (("0.75", "0.50"), ("1.00", "0.88")), strict=True
    ):
        assert axes.get_xscale() == axes.get_yscale() == "log"
        side, batch, proportional = axes.lines
        assert list(side.get_ydata()) == [one[cost] for one in report["side"]["points"]]
        assert list(batch.get_xdata()) == [32, 64]
        low, high = proportional.get_ydata()
        assert high / low == pytest.approx(16)
        assert high == report["side"]["points"][-1][cost]
        for line, value in zip((side, batch), exponents, strict=True):
            assert line.get_label().endswith(f"exponent {value}")


@pytest.mark.gpu
def test_on_cuda_growth_is_measured(make_loss: LossMaker) -> None:
    report = small(make_loss().cuda(), device="cuda")
    assert report.setup["device"] == torch.cuda.get_device_name()
    assert report.side.memory_exponent == pytest.approx(1, abs=0.3)
