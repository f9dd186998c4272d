"""The exact test against brute force and scipy, quantiles against scipy, and what few seeds can show by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nanogrove.studies.statistics import (
    MAX_SEEDS,
    holm,
    interquartile_mean,
    probability_of_improvement,
    seeds_needed,
    shown_effect,
    sign_flip,
    t_interval,
    t_quantile,
)


def by_brute_force(differences: list[int]) -> float:
    """The share of all patterns of signs whose sum is as far from 0, in whole numbers."""
    patterns = itertools.product([1, -1], repeat=len(differences))
    sums = [abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) for signs in patterns]
    return sum(each >= abs(sum(differences)) for each in sums) / len(sums)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9), st.sampled_from([1.0, 0.1, 1e-7, 1e300, 1e-300]))
def test_equal_sums_are_not_split_by_rounding(differences: list[int], unit: float) -> None:
    assert sign_flip([d * unit for d in differences]) == by_brute_force(differences)


def test_differences_of_rounded_figures_tie_where_they_should() -> None:
    figures = [2.3, 2.4, 2.5, 2.6, 2.7]
    others = [2.2, 2.5, 2.2, 2.5, 2.6]
    assert len({one - other for one, other in zip(figures, others, strict=True)}) > 3  # 0.1 in several roundings
    differences = [one - other for one, other in zip(figures, others, strict=True)]
    assert sign_flip(differences) == by_brute_force([1, -1, 3, 1, 1])


@pytest.mark.parametrize("seeds", [2, 5, 8, 11])
def test_the_exact_test_is_that_of_scipy(seeds: int) -> None:
    differences = np.random.default_rng(seeds).normal(0.4, 1, seeds)
    reference = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(differences.tolist()) == pytest.approx(reference.pvalue, rel=1e-12)


def test_small_cases_of_the_exact_test() -> None:
    assert sign_flip([3.0]) == 1.0
    assert sign_flip([]) == sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 2 / 2**6  # a zero neither helps nor harms
    assert sign_flip([1.0] * 24) == 2 / 2**24


@pytest.mark.parametrize("differences", [[math.nan, 1.0], [math.inf], [1.0] * (MAX_SEEDS + 1)])
def test_what_the_exact_test_refuses(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="up to 40 finite differences"):
        sign_flip(differences)


@pytest.mark.slow
def test_the_exact_test_takes_as_many_seeds_as_it_says() -> None:
    assert sign_flip([1.0] * 39 + [-1.0]) == 2 * 41 / 2**40
    differences = np.random.default_rng(0).normal(0.4, 1, MAX_SEEDS)
    assert sign_flip(differences.tolist()) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.2)


def test_the_share_of_patterns_at_a_level_is_at_most_the_level() -> None:
    """The error rate of the test, exactly: all signs of 8 differences of very unequal sizes."""
    sizes = np.random.default_rng(0).standard_cauchy(8)
    p_values = [sign_flip((sizes * signs).tolist()) for signs in itertools.product([1, -1], repeat=8)]
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(p_values) <= level) <= level
    assert np.mean(np.array(p_values) <= 0.05) == 12 / 256


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 8, 23, 200])
@pytest.mark.parametrize("level", [0.5, 0.05, 0.05 / 24, 1e-4])
def test_quantiles_of_t_are_those_of_scipy(degrees: int, level: float) -> None:
    assert t_quantile(level, degrees) == pytest.approx(stats.t.ppf(1 - level / 2, degrees), rel=1e-9)


def test_the_interval_is_that_of_scipy() -> None:
    differences = [0.1, -0.2, 0.4, 0.3, 0.25]
    reference = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert t_interval(differences, 0.1) == pytest.approx((reference.low, reference.high), rel=1e-9)
    assert t_interval([0.5], 0.05) == (-math.inf, math.inf)
    assert t_interval([0.5, 0.5], 0.05) == (0.5, 0.5)


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.04, 0.5, 1.0]), min_size=1, max_size=6))
def test_holm_rejects_what_its_steps_reject(p_values: list[float]) -> None:
    rejected = set()
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[number] * (len(p_values) - rank) > 0.05:
            break
        rejected.add(number)
    assert {number for number, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("count", [1, 3, 4, 8, 11])
def test_the_interquartile_mean_is_a_mean_trimmed_by_a_quarter(count: int) -> None:
    figures = np.random.default_rng(count).normal(size=count)
    assert interquartile_mean(figures.tolist()) == pytest.approx(stats.trim_mean(figures, 0.25))


def test_the_probability_of_improvement_counts_pairs_of_all_runs() -> None:
    assert probability_of_improvement([1.0, 2.0], [2.0, 3.0]) == (3 + 0.5) / 4
    one, other = np.random.default_rng(0).normal(size=(2, 9))
    reference = stats.mannwhitneyu(other, one).statistic / 81
    assert probability_of_improvement(one.tolist(), other.tolist()) == pytest.approx(reference)


@pytest.mark.parametrize(("tests", "seeds"), [(1, 6), (3, 7), (6, 8), (24, 10), (56, 12)])
def test_the_seeds_that_are_needed(tests: int, seeds: int) -> None:
    assert seeds_needed(tests, 0.05) == seeds
    assert 2 / 2**seeds <= 0.05 / tests < 2 / 2 ** (seeds - 1)


def test_a_level_that_is_a_power_of_two_needs_no_seed_more() -> None:
    assert seeds_needed(1, 2 / 2**5) == 5
    assert shown_effect(5, 2 / 2**5) < math.inf == shown_effect(4, 2 / 2**5)


def test_what_seeds_can_show() -> None:
    assert shown_effect(5, 0.05) == math.inf
    assert stats.norm.cdf(shown_effect(6, 0.05)) ** 6 == pytest.approx(0.8, abs=1e-6)
    effect, quantile = shown_effect(8, 0.05), stats.t.ppf(1 - 6 / 2**7 / 2, 7)
    assert stats.nct.sf(quantile, 7, effect * math.sqrt(8)) == pytest.approx(0.8, abs=1e-6)
    assert [round(shown_effect(seeds, 0.05), 2) for seeds in (6, 8, 12, 24)] == [1.79, 1.17, 0.89, 0.6]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "level", "near"), [(6, 0.05, 0.02), (8, 0.05, 0.02), (12, 0.05, 0.02), (8, 0.02, 0.05)]
)
def test_what_seeds_can_show_is_shown_four_times_of_five(seeds: int, level: float, near: float) -> None:
    draws = np.random.default_rng(0).normal(shown_effect(seeds, level), 1, (4000, seeds))
    shown = np.mean([sign_flip(differences) <= level for differences in draws.tolist()])
    assert shown == pytest.approx(0.8, abs=near + 0.015)
