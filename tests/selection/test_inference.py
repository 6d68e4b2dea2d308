"""The statistics of selection: exact where they say so, right as often as they say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from relqa_loss.selection.inference import (
    EXACT,
    benjamini_hochberg,
    highest_confidence,
    holm,
    mean_interval,
    sign_flip,
    win_rate,
)


def flipped(differences: list[float]) -> float:
    """Two-sided p-value by going through all signs, as the textbook has it."""
    means = [np.dot(signs, differences) for signs in itertools.product((1, -1), repeat=len(differences))]
    observed = sum(differences)
    return min(
        1.0, 2 * min(np.mean([m >= observed - 1e-12 for m in means]), np.mean([m <= observed + 1e-12 for m in means]))
    )


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_small_sets_get_the_exact_p_value(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.5, 1, (count, 3))
    expected = [flipped(list(column)) for column in differences.T]
    assert sign_flip(differences) == pytest.approx(expected)


def test_random_subsets_come_near_the_exact_p_value() -> None:
    differences = np.random.default_rng(3).normal(1, 1, EXACT + 1)
    means = ((np.arange(2 ** (EXACT + 1))[:, None] >> np.arange(EXACT + 1) & 1) * 2 - 1) @ differences
    exact = 2 * min(np.mean(means >= differences.sum() - 1e-9), np.mean(means <= differences.sum() + 1e-9))
    assert 0.01 < exact < 0.2 and float(sign_flip(differences[:, None])[0]) == pytest.approx(exact, abs=0.015)


def test_confidence_of_agreeing_images_grows_with_their_number() -> None:
    reached = [1 - float(sign_flip(np.ones((count, 1)))[0]) for count in (1, 2, 4, 8)]
    assert reached == [highest_confidence(count) for count in (1, 2, 4, 8)] == [0, 0.5, 0.875, 1 - 2**-7]
    assert highest_confidence(5) < 0.95 < highest_confidence(6)


@pytest.mark.parametrize("count", [4, 7, 12, 40])
def test_under_no_difference_the_test_errs_as_often_as_it_says(count: int) -> None:
    # Columns of one call share the subsets, which spares time and changes nothing about each.
    differences = np.random.default_rng(count).standard_t(3, (count, 2000))
    p = sign_flip(differences, resamples=999)
    for alpha in (0.05, 0.2):
        assert np.mean(p <= alpha) <= alpha + 3 * math.sqrt(alpha / 2000)


@pytest.mark.parametrize("count", [6, 9, 30])
def test_intervals_of_the_mean_cover_it_as_often_as_they_say(count: int) -> None:
    rng = np.random.default_rng(count)
    hits = 0
    for _ in range(300):
        low, high = mean_interval(rng.normal(0.3, 1, count), 0.9, resamples=999)
        hits += low <= 0.3 <= high
    assert 0.85 <= hits / 300 <= 0.97


def test_the_interval_leaves_out_zero_just_where_the_test_decides() -> None:
    rng = np.random.default_rng(1)
    decided = set()
    for _ in range(200):
        differences = rng.normal(0.6, 1, rng.integers(3, 18))
        low, high = mean_interval(differences, 0.9)
        sure = float(sign_flip(differences[:, None])[0]) <= 0.1 + 1e-12
        assert sure == (low > 0 or high < 0)
        decided.add(sure)
    assert decided == {True, False}


def test_too_few_images_leave_the_mean_open() -> None:
    assert mean_interval([1.0] * 5, 0.95) == (-math.inf, math.inf)
    assert mean_interval([1.0] * 6, 0.95) == (1.0, 1.0)


def test_everything_is_odd_in_its_evidence() -> None:
    for count in (9, 25):
        differences = np.random.default_rng(6).normal(0.4, 1, count)
        assert sign_flip(differences[:, None]) == sign_flip(-differences[:, None])
        low, high = mean_interval(differences, 0.95)
        assert mean_interval(-differences, 0.95) == (pytest.approx(-high), pytest.approx(-low))


def test_rounding_argues_for_neither_side() -> None:
    differences = np.array([0.1, 0.2, -0.3])[:, None]
    assert sign_flip(differences) == pytest.approx(flipped([1, 2, -3]))
    assert sign_flip(np.zeros((6, 1))) == 1


def test_win_rate_counts_ties_half() -> None:
    rate, (low, high) = win_rate([1, 1, 1, -1, 0, 0], 0.95)
    assert rate == pytest.approx(4 / 6) and 0 < low < rate < high < 1
    assert win_rate([-1, -1, -1, 1, 0, 0], 0.95)[0] == pytest.approx(2 / 6)


@pytest.mark.parametrize("count", [5, 8, 12, 24])
def test_win_rate_intervals_hold_for_small_sets_where_a_plain_bootstrap_fails(count: int) -> None:
    intervals = [win_rate([1] * won + [-1] * (count - won), 0.95)[1] for won in range(count + 1)]
    for true in (0.5, 0.7, 0.9, 0.95):
        chance = [math.comb(count, won) * true**won * (1 - true) ** (count - won) for won in range(count + 1)]
        covered = sum(p for p, (low, high) in zip(chance, intervals, strict=True) if low <= true <= high)
        assert covered >= 0.9, true
    # Resampling images that all agree gives [1, 1], which misses a true rate of 0.95 most of the time.
    assert intervals[-1][0] < 0.95


def test_corrections_match_worked_examples() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_many_images_do_not_fill_the_memory() -> None:
    differences = np.full((300_000, 1), 1.0)
    assert float(sign_flip(differences, resamples=20)[0]) == pytest.approx(2 / 21)
