"""Rank correlation and ROC-AUC against SciPy and against their definition."""

import numpy as np
import pytest

from relqa_loss.evaluation.statistics import mean_of, ranks, spearman, weighted_auc


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
