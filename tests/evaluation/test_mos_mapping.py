"""The five-parameter logistic, and the mapping that is kept in a file."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
import torch

from relqa_loss.evaluation.logistic import direction, fit_logistic, fit_monotone, logistic, refit, slope
from relqa_loss.evaluation.mos_mapping import MOSMapping
from relqa_loss.images import MissingExtra

TRUE = (-4.0, 1.7, 2.1, -0.1, 5.0)
DIGEST = "ab" * 32


def noisy(count: int = 400, noise: float = 0.25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.gamma(2, 1, count)
    return x, logistic(x, TRUE) + rng.normal(0, noise, count)


def fitted(**settings) -> MOSMapping:
    x, y = noisy()
    return MOSMapping.fit(x, y, dataset="made up", scale="1 to 9", distance_sha256=DIGEST, **settings)


def test_the_curve_is_the_published_formula():
    x = np.linspace(-3, 6, 31)
    b1, b2, b3, b4, b5 = TRUE
    assert logistic(x, TRUE) == pytest.approx(b1 * (0.5 - 1 / (1 + np.exp(b2 * (x - b3)))) + b4 * x + b5)
    step = 1e-6
    numeric = (logistic(x + step, TRUE) - logistic(x - step, TRUE)) / (2 * step)
    assert slope(x, TRUE) == pytest.approx(numeric, abs=1e-6)


def test_the_fit_finds_the_curve_without_noise():
    x, _ = noisy()
    y = logistic(x, TRUE)
    fit = fit_logistic(x, y)
    assert fit.pearson == pytest.approx(1, abs=1e-9) and fit.rmse < 1e-4
    assert (fit.monotone, fit.direction, fit.linear_term) == (True, -1, True)


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_no_worse_than_scipys_from_the_truth(seed):
    optimize = pytest.importorskip("scipy.optimize")
    x, y = noisy(noise=0.6, seed=seed)
    found = optimize.curve_fit(lambda at, *p: logistic(at, p), x, y, p0=TRUE, maxfev=20_000)[0]
    assert fit_logistic(x, y).rmse <= np.sqrt(np.mean((logistic(x, found) - y) ** 2)) * (1 + 1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1e-4, 0.0), (1.0, 1e3), (1e4, -7.0)])
def test_the_fit_does_not_depend_on_units(scale, shift):
    x, y = noisy()
    plain, other = fit_logistic(x, y), fit_logistic(scale * x + shift, 10 * y - 3)
    assert other.pearson == pytest.approx(plain.pearson, abs=1e-6)
    assert other.rmse == pytest.approx(10 * plain.rmse, rel=1e-4)


def test_a_curve_that_turns_is_seen_and_avoided():
    x = np.linspace(0, 4, 200)
    y = np.where(x < 1, x, 2 - x)
    assert not fit_logistic(x, y).monotone
    fit = fit_monotone(x, y)
    assert fit.monotone and not fit.linear_term and fit.parameters[3] == 0 and fit.direction == -1


def test_direction_looks_at_the_centre_too():
    # Rises at both ends, falls in the middle.
    turning = (-2.0, 4.0, 0.0, 1.0, 0.0)
    assert direction(turning, -4, 4) == 0
    assert direction(turning, 2, 4) == 1
    assert direction((-1.0, 2.0, 0.0, 0.0, 0.0), -50, 50) == -1
    assert direction((0.0, 2.0, 0.0, 0.0, 1.0), -1, 1) == 0


def test_a_refit_equals_a_fit():
    x, y = noisy()
    start = fit_logistic(x, y)
    draw = np.random.default_rng(3).integers(0, x.size, x.size)
    assert refit(x[draw], y[draw], start) == pytest.approx(fit_logistic(x[draw], y[draw]).pearson, abs=1e-5)
    assert np.isnan(refit(np.ones(9), y[:9], start))
    assert np.isnan(refit(x[:5], y[:5], start))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (range(5), range(5), "at least 6"),
        (range(8), range(9), "as many values"),
        ([1.0] * 8, range(8), "distances are all 1"),
        (range(8), [2.0] * 8, "scores are all 2"),
        ([np.nan, *range(7)], range(8), "distances must be finite, got 1"),
    ],
)
def test_values_that_cannot_be_fitted(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit_logistic(list(x), list(y))


def test_a_mapping_says_what_it_was_fitted_on():
    x, y = noisy()
    mapping = fitted()
    assert mapping.distances == (x.min(), x.max()) and mapping.scores == (y.min(), y.max())
    assert mapping.direction == -1 and mapping.pairs == 400
    assert mapping.pearson > 0.95 and mapping.spearman < -0.9 and 0.2 < mapping.rmse < 0.3
    assert mapping.distance_sha256 == DIGEST
    with pytest.raises(dataclasses.FrozenInstanceError):
        mapping.pairs = 3


def test_a_rising_scale_keeps_its_direction():
    x, y = noisy()
    assert MOSMapping.fit(x, -y, dataset="DMOS").direction == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_call_keeps_shape_and_dtype(dtype):
    mapping = fitted()
    x = torch.linspace(0.2, 5, 12, dtype=dtype).reshape(3, 4)
    got = mapping(x)
    assert got.dtype == dtype and got.shape == (3, 4)
    assert got.double().numpy() == pytest.approx(
        logistic(x.double().numpy(), mapping.parameters), abs=2e-2 if dtype is torch.float16 else 1e-4
    )


def test_it_is_monotone_with_gradients_inside_and_beyond():
    mapping = fitted()
    low, high = mapping.distances
    x = torch.linspace(low - 3, high + 3, 500, dtype=torch.float64, requires_grad=True)
    y = mapping(x)
    assert (y.diff() < 0).all()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient < 0).all()
    some = torch.tensor([low - 1, 0.5 * (low + high), high + 1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mapping, (some,))


def test_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="floating-point tensor"):
        fitted()(torch.tensor([1, 2]))


def test_save_and_load(tmp_path):
    mapping = fitted()
    path = mapping.save(tmp_path / "deep" / "mapping.json")
    assert MOSMapping.load(path) == mapping == MOSMapping.load(path, distance_sha256=DIGEST)


def test_a_mapping_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "not permitted")

    path = tmp_path / "mapping.json"
    path.write_text("before")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"cannot write .*mapping\.json: not permitted"):
        fitted().save(path)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]


def test_only_fitting_needs_scipy(tmp_path, monkeypatch):
    path = fitted().save(tmp_path / "mapping.json")
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert torch.isfinite(MOSMapping.load(path)(torch.ones(2))).all()
    with pytest.raises(MissingExtra, match=r"SciPy: pip install \"relqa_loss\[benchmark\]\""):
        fitted()


def test_another_distance_is_refused(tmp_path):
    path = fitted().save(tmp_path / "mapping.json")
    with pytest.raises(ValueError, match=r"fitted with another distance, of other weights .*: abab.*, not 0000"):
        MOSMapping.load(path, distance_sha256="00" * 32)
    x, y = noisy()
    unknown = MOSMapping.fit(x, y, dataset="made up").save(tmp_path / "unknown.json")
    with pytest.raises(ValueError, match="an unknown one, not abab"):
        MOSMapping.load(unknown, distance_sha256=DIGEST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a MOS mapping of the format"),
        ({"dataset": None}, "'dataset' has another type"),
        ({"pairs": 1.5}, "'pairs' has another type"),
        ({"parameters": [1, 2, 3]}, "parameters must be 5 finite numbers"),
        ({"parameters": [1, 2, 3, 4, float("nan")]}, "parameters must be 5 finite numbers"),
        ({"rmse": float("nan")}, "'rmse' has another type"),
        ({"distances": [3, 1]}, "distances must rise"),
        ({"direction": 1}, "direction must be -1"),
        ({"parameters": [-2.0, 4.0, 2.0, 1.0, 0.0], "distances": [0, 6]}, "not monotone"),
    ],
)
def test_altered_files_are_refused(tmp_path, change, message):
    path = fitted().save(tmp_path / "mapping.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        MOSMapping.load(path)


def test_missing_entries_and_files_are_named(tmp_path):
    path = fitted().save(tmp_path / "mapping.json")
    content = json.loads(path.read_text())
    del content["scale"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'scale' is missing"):
        MOSMapping.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot read the MOS mapping"):
        MOSMapping.load(path)
    with pytest.raises(ValueError, match="cannot read the MOS mapping"):
        MOSMapping.load(tmp_path / "nowhere.json")
