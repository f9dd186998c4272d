"""Weights from rewards: closed forms, invariance, extreme rewards."""

import numpy as np
import pytest
from scipy import stats

from nanogrove.train.objectives.weighting import (
    balance,
    best_fraction,
    effective_sample_size,
    exponential,
    scaled,
    wanted_above,
)

REWARDS = np.random.default_rng(0).normal(2.0, 3.0, 500)


def test_weights_have_mean_one_and_the_exponential_s_ratios() -> None:
    weights = exponential(REWARDS, 0.7, None)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[3] / weights[4] == pytest.approx(np.exp((REWARDS[3] - REWARDS[4]) / 0.7))
    clipped = exponential(REWARDS, 0.7, 20.0)
    assert clipped.max() / clipped.min() == pytest.approx(20.0 / np.exp(REWARDS.min() / 0.7))


@pytest.mark.parametrize("shift", [-1e6, -3.0, 17.0, 1e6])
def test_a_constant_added_to_all_rewards_changes_nothing(shift: float) -> None:
    for how in ("whiten", "rank"):
        plain, moved = scaled(REWARDS, how), scaled(REWARDS + shift, how)  # type: ignore[arg-type]
        assert moved == pytest.approx(plain, abs=1e-8)
    assert exponential(REWARDS + shift, 0.7, None) == pytest.approx(exponential(REWARDS, 0.7, None), rel=1e-7)


@pytest.mark.parametrize("rewards", [[-1e6, -2e6, -1e6 + 1], [1e8, 0.0, -1e8], [0.0, 0.0, 0.0]])
def test_weights_are_finite_whatever_the_rewards(rewards: list[float]) -> None:
    known = np.array(rewards)
    for how in ("none", "whiten", "rank"):
        made = scaled(known, how)  # type: ignore[arg-type]
        for weights in (exponential(made, 0.1, None), exponential(made, 0.1, 20.0)):
            assert np.isfinite(weights).all()
            assert (weights >= 0).all()
            assert weights.mean() == pytest.approx(1.0)


def test_ranks_are_those_of_scipy() -> None:
    known = np.array([3.0, 1.0, 1.0, 7.0, -2.0])
    assert scaled(known, "rank") == pytest.approx((stats.rankdata(known) - 0.5) / 5 - 0.5)


def test_the_best_fraction_counts_and_the_rest_does_not() -> None:
    best = best_fraction(REWARDS, 0.2)
    assert best.sum() == 100
    assert REWARDS[best].min() > REWARDS[~best].max()
    assert best_fraction(REWARDS, 1e-9).sum() == 1
    assert best_fraction(np.array([0.0, 1.0, 1.0, 1.0]), 0.25).tolist() == [False, True, True, True], "ties are kept"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_of_two_rewards_the_higher_is_wanted_and_no_side_is_empty(share: float) -> None:
    thumbs = (np.arange(200) < share * 200).astype(float)
    assert ((thumbs > wanted_above(thumbs)) == (thumbs == 1)).all()
    stars = np.array([5.0] * 120 + [4.0] * 50 + [1.0] * 30)
    assert ((stars > wanted_above(stars)) == (stars == 5)).all(), "the median is the highest, and still some are wanted"
    assert (wanted_above(REWARDS) < REWARDS).sum() == len(REWARDS) // 2


@pytest.mark.parametrize("given", [(None, None), (2.0, None), (None, 0.3), (1.5, 0.7)])
def test_both_sides_count_alike_whatever_their_sizes(given: tuple[float | None, float | None]) -> None:
    for wanted, unwanted in [(9, 1), (1, 9), (900, 100), (1, 1), (5, 4), (4, 3), (7, 5), (3, 4), (1, 100_000)]:
        first, second = balance(wanted, unwanted, given)
        assert all(g in (None, w) for g, w in zip(given, (first, second), strict=True)), "what is given stands"
        ratio = wanted * first / (unwanted * second)
        if None in given:
            assert 1 - 1e-9 <= ratio <= 4 / 3 + 1e-9
        if given == (None, None):
            assert min(first, second) == 1
    assert balance(5, 4, (None, None)) == (1, 1), "sides that are balanced already stay as they are"


def test_other_rows_are_weighted_by_what_the_training_rows_are() -> None:
    more = np.append(REWARDS, [50.0])
    assert scaled(more, "whiten", REWARDS)[:500] == pytest.approx(scaled(REWARDS, "whiten"))
    assert exponential(more, 0.7, None, REWARDS)[:500] == pytest.approx(exponential(REWARDS, 0.7, None))


def test_effective_sample_size() -> None:
    assert effective_sample_size(np.ones(40)) == pytest.approx(40)
    assert effective_sample_size(np.array([1.0, 0, 0, 0])) == pytest.approx(1)
