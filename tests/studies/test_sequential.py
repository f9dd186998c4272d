"""The error rate of a study that looks after every pair, counted over all patterns of signs, and its interval."""

import itertools
import math

import numpy as np
import pytest

from nanogrove.studies.sequential import anytime_interval, log_e, p_until_decided, until_decided
from nanogrove.studies.statistics import sign_flip

SIZES = {
    "equal": np.ones(8),
    "normal": np.random.default_rng(0).normal(size=8),
    "heavy": np.random.default_rng(1).standard_cauchy(8),
    "with a zero": np.array([0.3, 0.0, 1.0, 2.0, 0.5, 0.7, 1.5, 0.1]),
}


def least_p(differences: np.ndarray) -> float:
    """The least p value of a study that looks after every pair, at its cap too."""
    looks = range(1, len(differences) + 1)
    return min(p_until_decided(differences[:pairs].tolist(), len(differences)) for pairs in looks)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_looking_after_every_pair_keeps_the_error_rate_exactly(sizes: np.ndarray) -> None:
    p_values = [least_p(sizes * signs) for signs in itertools.product([1, -1], repeat=7) for signs in [(1, *signs)]]
    for level in (0.01, 0.05 / 3, 0.05, 0.06, 0.2):
        assert np.mean(np.array(p_values) <= level) <= level
    assert np.mean(np.array(p_values) <= 0.05) > 0.03, "and little of the level is left unused"


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_evidence_is_a_martingale(sizes: np.ndarray) -> None:
    """Its mean over all signs is 1 after every pair."""
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    np.testing.assert_allclose(np.exp(log_e(sizes * signs)).mean(0), 1, rtol=1e-12)


def test_the_evidence_by_hand() -> None:
    z = [1.0, -2.0 / math.sqrt(2.5)]
    factors = [math.prod(math.exp(c * each) / math.cosh(c * each) for each in z) for c in (1, -1, 2, -2)]
    assert math.exp(log_e(np.array([3.0, -6.0]))[1]) == pytest.approx(np.mean(factors))
    assert log_e(np.array([0.0, 0.0])).tolist() == pytest.approx([0, 0], abs=1e-15)


def test_the_unit_of_figures_does_not_matter() -> None:
    differences = np.random.default_rng(0).normal(0.8, 1, 10)
    expected = p_until_decided(differences.tolist(), 10)
    for unit in (1e-300, 1e-5, 1e300, -1.0):
        assert p_until_decided((differences * unit).tolist(), 10) == pytest.approx(expected)


def test_equal_differences_are_decided_after_six_pairs() -> None:
    assert p_until_decided([0.1] * 5, 24) > 0.05 >= p_until_decided([0.1] * 6, 24)
    assert p_until_decided([0.0] * 6, 24) == 1


def test_a_decision_before_the_cap_stands_at_the_cap() -> None:
    differences = [1.0, 1.1, 0.9, 1.2, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]
    early = p_until_decided(differences[:6], 10)
    assert early <= 0.05
    assert p_until_decided(differences, 10) <= early


def test_the_cap_shows_what_the_fixed_number_of_pairs_would() -> None:
    differences = np.random.default_rng(2).normal(0.5, 1, 24).tolist()
    before = [p_until_decided(differences[:pairs], 25) for pairs in range(1, 25)]
    assert min(before) > 0.05, "never decided before"
    assert sign_flip(differences) < p_until_decided(differences, 24) <= 0.05


@pytest.mark.parametrize("differences", [[1.0] * 9, [math.nan], [math.inf]])
def test_what_a_study_with_a_cap_refuses(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="cap of 8 pairs takes up to 8 finite"):
        p_until_decided(differences, 8)


def test_the_interval_holds_the_shifts_that_are_not_rejected() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 12)
    low, high = anytime_interval(differences.tolist(), 0.05)
    for inside, outside in ((low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)):
        assert log_e(differences - inside)[-1] < math.log(20) <= log_e(differences - outside)[-1]
    wide = anytime_interval(differences.tolist(), 0.01)
    assert wide[0] < low < differences.mean() < high < wide[1]


def test_the_interval_of_few_or_of_equal_pairs() -> None:
    assert anytime_interval([0.1, 0.2, 0.3], 0.05) == (-math.inf, math.inf)
    assert anytime_interval([0.5] * 8, 0.05) == pytest.approx((0.5, 0.5))
    assert anytime_interval([0.0] * 8, 0.05) == pytest.approx((0, 0), abs=1e-9)


def test_the_test_of_a_study() -> None:
    test = until_decided(6)
    assert test.p_value([1.0] * 6) == p_until_decided([1.0] * 6, 6)
    assert test.interval is anytime_interval
    assert test.shown_effect is None
