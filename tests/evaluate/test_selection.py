"""Selection: against hand-made orders, and the test of noise against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nanogrove.evaluate.selection import exceeds_noise, ranked, significant, tournament, truncation


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


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.05, 0.08, 0.2, -0.2])
def test_the_test_of_noise_is_the_paired_t_test(gap: float) -> None:
    """Hard sequences are hard for both, so the pairs tell what the two means do not."""
    generator = np.random.default_rng(0)
    hard = generator.normal(3, 1, 300)
    samples = torch.tensor(np.stack([hard + generator.normal(0, 0.3, 300), hard + gap + generator.normal(0, 0.3, 300)]))
    p = stats.ttest_rel(samples[1].numpy(), samples[0].numpy(), alternative="greater").pvalue
    for level in (0.01, 0.05, 0.2):
        if abs(p - level) > 0.002:
            assert exceeds_noise(samples, better=0, worse=1, significance=level) == (p < level)


def test_equal_members_replace_nobody_and_a_sure_difference_does() -> None:
    same = torch.ones(2, 50).double()
    assert not exceeds_noise(same, 0, 1, 0.05)
    assert exceeds_noise(torch.stack([same[0], same[1] + 0.1]), 0, 1, 0.05)
    assert not exceeds_noise(torch.stack([same[0] + 0.1, same[1]]), 0, 1, 0.05)


def test_who_is_not_beaten_is_spared() -> None:
    assert significant({5: 0, 6: 1, 7: 0}, lambda better, worse: worse != 6) == ({5: 0, 7: 0}, [6])


def test_false_alarms_are_as_rare_as_said() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2000, 2, 200, generator=generator, dtype=torch.float64)
    found = sum(exceeds_noise(pair, 0, 1, 0.05) for pair in noise) / 2000
    assert found == pytest.approx(0.05, abs=0.015)
