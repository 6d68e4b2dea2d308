"""Rank correlations and ROC-AUC against SciPy or their definition; the bootstrap of groups."""

import sys

import numpy as np
import pytest

from relqa_loss.evaluation.statistics import (
    group_resamples,
    interval,
    kendall,
    lowest_of,
    mean_of,
    mean_rank,
    median_of,
    ranks,
    spearman,
    weighted_auc,
)
from relqa_loss.images import MissingExtra


def test_ranks_average_ties():
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_spearman_equals_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    first = rng.integers(0, 6, 60)
    second = first + rng.normal(0, 2, 60).round()
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_spearman_of_a_constant_is_not_a_number():
    assert np.isnan(spearman([1, 2, 3], [5, 5, 5]))
    assert np.isnan(spearman([1], [1]))


def test_spearman_wants_equal_lengths():
    with pytest.raises(ValueError, match="as many values"):
        spearman([1, 2], [1, 2, 3])


def test_auc_is_the_share_of_weighted_pairs_in_order():
    rng = np.random.default_rng(1)
    scores, positive, weights = rng.integers(0, 5, 40), rng.random(40) < 0.4, rng.random(40)
    right = total = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            pair = weights[i] * weights[j]
            total += pair
            right += pair * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    assert weighted_auc(scores, positive, weights) == pytest.approx(right / total)


def test_auc_of_a_constant_is_one_half_and_of_one_class_unknown():
    assert weighted_auc(np.ones(6), [True, False] * 3) == 0.5
    assert np.isnan(weighted_auc([1, 2], [True, True]))


def test_auc_rejects_bad_weights_and_sizes():
    with pytest.raises(ValueError, match=">= 0"):
        weighted_auc([1, 2], [True, False], [1, -1])
    with pytest.raises(ValueError, match="one size"):
        weighted_auc([1, 2, 3], [True, False])


def test_mean_of_leaves_out_what_is_unknown():
    assert mean_of([1.0, None, float("nan"), 3.0]) == 2.0
    assert mean_of([None]) is None


@pytest.mark.parametrize("values", [4, 50, 100_000])
@pytest.mark.parametrize("count", [2, 3, 64, 150])
def test_kendall_is_tau_b_by_its_definition(values, count):
    rng = np.random.default_rng(count)
    first = rng.integers(0, values, count)
    second = np.where(rng.random(count) < 0.5, first, rng.integers(0, values, count)) / 7 - 3
    upper = np.triu_indices(count, 1)
    a, b = (np.sign(side[:, None] - side[None])[upper] for side in (first, second))
    expected = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    assert kendall(first, second) == pytest.approx(expected, abs=1e-12)
    assert kendall(-first, second) == pytest.approx(-expected, abs=1e-12)


def test_kendall_without_scipy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtra, match=r"SciPy: pip install \"relqa_loss\[benchmark\]\""):
        kendall([1, 2, 3], [1, 3, 2])


def test_kendall_of_a_constant_is_not_a_number():
    assert np.isnan(kendall([1, 2, 3], [5, 5, 5]))
    assert np.isnan(kendall([1], [1]))
    with pytest.raises(ValueError, match="as many values"):
        kendall([1, 2], [1, 2, 3])


def test_resamples_take_whole_groups_with_replacement():
    groups = ["a", "b", "a", "c", "c", "c"]
    members = {"a": [0, 2], "b": [1], "c": [3, 4, 5]}
    draws = list(group_resamples(groups, 300, seed=4))
    repeated = list(group_resamples(groups, 300, seed=4))
    assert all((one == other).all() for one, other in zip(draws, repeated, strict=True))
    sizes = set()
    for draw in draws:
        counts = np.bincount(draw, minlength=6)
        assert sum(counts[own[0]] for own in members.values()) == 3
        assert all(len(set(counts[own])) == 1 for own in members.values())
        sizes.add(draw.size)
    assert {3, 6, 9} <= sizes
    share = np.mean([np.bincount(draw, minlength=6)[1] for draw in draws])
    assert share == pytest.approx(1, abs=0.2)


def test_an_interval_holds_the_middle_of_the_values():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval([np.nan, 2.0, 2.0]) == (2.0, 2.0)
    assert np.isnan(interval([np.nan])).all()


def test_median_and_lowest_pass_over_what_is_missing():
    values = [3.0, None, float("nan"), 1.0, 2.5]
    assert (median_of(values), lowest_of(values)) == (2.5, 1.0)
    assert median_of([None]) is None and lowest_of([]) is None


def test_the_mean_rank_does_not_depend_on_the_judges_scales():
    first, second = [1.0, 5.0, 3.0], [10.0, 30.0, 20.0]
    assert mean_rank([first, second]).tolist() == [1.0, 3.0, 2.0]
    assert mean_rank([np.exp(first), second]).tolist() == [1.0, 3.0, 2.0]
