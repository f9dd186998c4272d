"""Reliability of voters: against simulated voters whose reliability is known, and brute force over what is true."""

import math
import random
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pytest
from scipy.optimize import least_squares

from nanogrove.evaluate import committee, reliability
from nanogrove.evaluate.reliability import WRONG_ANSWERS, Reliability, consensus, estimate, label

TRUE = "0"


def simulated(right: Sequence[float], prompts: int, seed: int = 0, wrong: int = 40) -> list[list[str | None]]:
    """Answers of voters of these reliabilities, the true one being `TRUE`; errors are independent, one in ten None."""
    rng = random.Random(seed)

    def answer(p: float) -> str | None:
        if rng.random() < p:
            return TRUE
        return None if rng.random() < 0.1 else str(rng.randint(1, wrong))

    return [[answer(p) for _ in range(prompts)] for p in right]


def test_reliabilities_of_a_committee_whose_voters_confirm_each_other_are_recovered() -> None:
    for right in ([0.97, 0.95, 0.9, 0.9, 0.8, 0.8, 0.7, 0.5], [0.92, 0.65, 0.46, 0.2, 0.12]):
        assert estimate(simulated(right, 4000)).right == pytest.approx(right, abs=0.05)


def test_weights_keep_more_labels_than_a_plain_vote_at_the_same_precision() -> None:
    """The voters of a base that was measured at 5 digits: a vote of half of them keeps a fifth of the prompts."""
    answers = simulated([0.92, 0.65, 0.46, 0.2, 0.1, 0.08, 0.0, 0.0], 1000)
    plain, weighted = committee.elect(answers), committee.elect_by_reliability(answers)
    for labels, vote, least, most in ((plain, 0.5, 0.1, 0.25), (weighted, 0.9, 0.6, 0.9)):
        kept = [answer for answer, support in zip(*labels, strict=True) if support >= vote]
        assert least < len(kept) / 1000 < most
        assert kept.count(TRUE) / len(kept) > 0.98
    assert 2 < estimate(answers).effective_voters < 4


@pytest.mark.parametrize("right", [[0.02] * 8, [0.1] * 8, [0.9, 0.0, 0.0, 0.0]])
def test_voters_whom_nobody_confirms_say_nothing(right: list[float]) -> None:
    """One voter does not explain everything by itself, right always and all others never."""
    answers = simulated(right, 300)
    voters = estimate(answers)
    assert voters.right == pytest.approx([1 / (WRONG_ANSWERS + 1)] * len(right), abs=0.02)
    assert voters.effective_voters == 0
    assert max(committee.elect_by_reliability(answers).support) < 0.5
    assert committee.agreement(answers, 0.5) == 0


def test_a_probability_is_that_of_brute_force_over_the_true_answer() -> None:
    """Bayes' rule over all K + 1 answers that can be true, each as likely before."""
    right, everything = [0.9, 0.6, 0.3, 0.05], [str(n) for n in range(WRONG_ANSWERS + 1)]
    voters = Reliability(right)
    for given in product(["0", "1", "2", None], repeat=4):
        likelihood = {
            truth: math.prod(
                (p if answer == truth else (1 - p) / WRONG_ANSWERS) for p, answer in zip(right, given, strict=True)
            )
            for truth in everything
        }
        answer, support = label(given, voters)
        if answer is None:
            assert set(given) == {None}
            assert support == 0
            continue
        among = {each: likelihood[each] for each in set(given) - {None}}
        assert likelihood[answer] == pytest.approx(max(among.values()))
        assert support == pytest.approx(likelihood[answer] / sum(likelihood.values()))


def test_a_hundred_voters_who_always_agree_are_not_too_many() -> None:
    """Their odds together are beyond the range of a float64."""
    for answers, expected in ((["7"] * 100, 1.0), (["7"] * 50 + ["8"] * 50, 0.5)):
        answer, support = label(answers, Reliability([0.9995] * 100))
        assert answer == "7"
        assert support == pytest.approx(expected)


def test_the_estimate_is_the_best_fit_to_how_often_pairs_agree() -> None:
    """Against scipy's bounded least squares over the same pairs."""
    answers = simulated([0.9, 0.7, 0.4, 0.2], 300, seed=3)
    pairs = list(combinations(range(4), 2))
    agreed = [
        sum(a == b and a is not None for a, b in zip(answers[u], answers[v], strict=True)) / 300 for u, v in pairs
    ]

    def residuals(p: np.ndarray) -> list[float]:
        return [
            p[u] * p[v] + (1 - p[u]) * (1 - p[v]) / WRONG_ANSWERS - a for (u, v), a in zip(pairs, agreed, strict=True)
        ]

    best = least_squares(residuals, [0.5] * 4, bounds=(1 / (WRONG_ANSWERS + 1), 300.5 / 301), xtol=1e-12)
    assert estimate(answers).right == pytest.approx(best.x.tolist(), abs=1e-3)


def test_two_voters_who_always_agree_have_support_and_two_who_never_do_have_none() -> None:
    same: list[str | None] = ["7"] * 20
    assert min(committee.elect_by_reliability([same, same]).support) > 0.99
    assert max(committee.elect_by_reliability([same, ["8"] * 20]).support) < 0.1
    assert committee.elect_by_reliability([[None], [None]]) == ([None], [0.0])


def test_the_effective_number_of_voters() -> None:
    assert Reliability([0.8] * 5).effective_voters == pytest.approx(5)
    assert Reliability([0.8, 0.8, 1 / 11, 0.01]).effective_voters == pytest.approx(2)
    more, less = math.log(10 * 0.99 / 0.01), math.log(10)
    assert Reliability([0.99, 0.5]).effective_voters == pytest.approx((more + less) ** 2 / (more**2 + less**2))
    assert reliability.estimate([]).effective_voters == 0


def test_the_consensus_is_right_as_often_as_it_is_said_to_be() -> None:
    for right in ([0.8] * 3, [0.9, 0.7, 0.5], [0.6] * 8):
        answers = simulated(right, 4000, wrong=WRONG_ANSWERS)
        voters = estimate(answers)
        likeliest = [label(given, voters)[0] for given in zip(*answers, strict=True)]
        said = consensus(zip(*answers, strict=True), voters)
        assert said == pytest.approx(likeliest.count(TRUE) / 4000, abs=0.03)
    assert consensus([], Reliability([0.9, 0.9])) is None


def test_trust_counts_the_errors_that_voters_learned_from_their_own_labels() -> None:
    """Voters follow one rule and depart from it independently; the likeliest answers of a round are the next rule."""
    rng, shared, inherited = random.Random(1), 0.0, 1.0
    for _ in range(6):
        rule = ["adopted" if rng.random() < shared else TRUE for _ in range(4000)]
        noise = simulated([0.8, 0.75, 0.7], 4000, rng.randint(0, 10**6), WRONG_ANSWERS)
        answers = [
            [wanted if given == TRUE else given for wanted, given in zip(rule, voter, strict=True)] for voter in noise
        ]
        voters = estimate(answers)
        right = sum(voter.count(TRUE) for voter in answers) / 12_000
        assert inherited * sum(voters.right) / 3 == pytest.approx(right, abs=0.03)
        inherited *= consensus(zip(*answers, strict=True), voters) or 0.0
        shared = 1 - sum(label(given, voters)[0] == TRUE for given in zip(*answers, strict=True)) / 4000
    assert shared > 0.4, "by then the voters agree on much that is wrong"
