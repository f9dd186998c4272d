"""Selection: against hand-made orders, and the test of significance against scipy and simulations."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nanogrove.evaluate.selection import (
    documents_needed,
    halves,
    holm,
    ranked,
    sign_flips,
    significant,
    standard_error,
    tournament,
    truncation,
)


def test_ranks_put_what_is_no_number_last() -> None:
    scores = torch.tensor([0.5, math.nan, 0.1, math.inf, 0.3])
    assert ranked(range(5), scores) == [2, 4, 0, 1, 3]


def test_truncation_replaces_the_worst_by_the_best() -> None:
    order, seen = [4, 2, 0, 1, 3, 5], set()
    for seed in range(50):
        chosen = truncation(order, 3, 2, np.random.default_rng(seed))
        assert set(chosen) == {1, 3, 5}
        assert set(chosen.values()) <= {4, 2}
        seen |= set(chosen.items())
    assert len(seen) == 6


def test_a_tournament_replaces_by_better_ones_only_and_never_an_elite() -> None:
    order = [3, 1, 4, 0, 2]
    wins = dict.fromkeys(range(5), 0)
    for seed in range(400):
        chosen = tournament(order, 2, 2, np.random.default_rng(seed))
        assert not {3, 1} & set(chosen)
        assert all(order.index(better) < order.index(worse) for worse, better in chosen.items())
        for worse in chosen:
            wins[worse] += 1
    assert [wins[m] / 400 for m in (4, 0, 2)] == pytest.approx([0.5, 0.75, 1.0], abs=0.08)
    everyone = tournament(order, 1, 99, np.random.default_rng(0))
    assert everyone == {1: 3, 4: 3, 0: 3, 2: 3}


def test_holm_rejects_as_its_definition_says() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]  # .005 ≤ .05/4, .01 ≤ .05/3, .03 > .05/2
    assert holm([0.2, 0.02, 0.02], 0.05) == [False, False, False]
    assert holm([0.04], 0.05) == [True]
    assert holm([], 0.05) == []


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6, -0.5])
def test_sign_flips_are_the_permutation_test_of_pairs(shift: float) -> None:
    """scipy goes through all 2^12 signs; 100,000 random ones come as near as they must."""
    rows = np.random.default_rng(1).standard_t(3, (3, 12)) * np.arange(1, 13) + shift * 6
    p_values = sign_flips(torch.from_numpy(rows), 100_000, np.random.default_rng(0))
    for row, p in zip(rows, p_values, strict=True):
        exact = stats.permutation_test((row,), np.sum, permutation_type="samples", alternative="greater").pvalue
        assert p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 100_000) ** 0.5 + 2e-5)


def test_equal_scores_are_no_difference() -> None:
    p_values = sign_flips(torch.zeros(2, 30), 500, np.random.default_rng(0))
    assert p_values == [1.0, 1.0]


def test_a_document_is_on_one_side_and_sides_are_halves() -> None:
    documents = torch.tensor([3, 3, 0, 7, 7, 7, 1, 0, 5, 2])
    for seed in range(20):
        ranking, tests = halves(documents, np.random.default_rng(seed))
        assert torch.equal(ranking, ~tests)
        assert len(documents[tests].unique()) == len(documents[ranking].unique()) == 3
        assert not set(documents[tests].tolist()) & set(documents[ranking].tolist())


def test_the_error_of_a_score_is_that_of_independent_documents() -> None:
    """Where each sequence is its own document it is the usual one, else that of means over many simulated samples."""
    generator = np.random.default_rng(0)
    samples = torch.from_numpy(generator.normal(0, 1, (2, 50)))
    usual = samples.std(1) / 50**0.5
    assert torch.allclose(standard_error(samples, torch.arange(50)), usual)
    documents = torch.arange(40).repeat_interleave(torch.arange(40) % 5 + 1)
    shape = 3000, 1, len(documents)
    drawn = generator.normal(0, 1, (3000, 1, 40))[..., documents.numpy()] + generator.normal(0, 0.3, shape)
    errors = [float(standard_error(torch.from_numpy(one), documents)) for one in drawn]
    assert np.mean(errors) == pytest.approx(drawn.mean(2).std(), rel=0.05)


@pytest.mark.parametrize(("replacements", "level"), [(1, 0.05), (4, 0.05), (15, 0.01)])
def test_so_many_documents_can_show_a_difference_and_fewer_cannot(replacements: int, level: float) -> None:
    needed = documents_needed(replacements, level) // 2
    assert 2.0**-needed <= level / replacements < 2.0 ** -(needed - 1)
    chosen = dict.fromkeys(range(1, replacements + 1), 0)
    for count, kept in ((needed, chosen), (needed - 2, {})):
        samples = torch.ones(replacements + 1, count).double()
        samples[0] = 0
        passed, _ = significant(chosen, samples, torch.arange(count), level, np.random.default_rng(0))
        assert passed == kept


def test_who_is_not_beaten_is_spared() -> None:
    generator = np.random.default_rng(0)
    samples = torch.from_numpy(generator.normal(0, 0.1, (8, 60)))
    samples[5] += 1
    samples[7] += 1
    kept, spared = significant({5: 0, 6: 1, 7: 0}, samples, torch.arange(60), 0.05, generator)
    assert (kept, spared) == ({5: 0, 7: 0}, [6])
    assert significant({}, samples, torch.arange(60), 0.05, generator) == ({}, [])
