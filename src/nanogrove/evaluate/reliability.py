"""How far each voter can be trusted, from the answers alone: nobody tells which of them are right.

The model is that of Dawid & Skene 1979 ("Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm") with one number for each voter: voter v is right with probability p_v, and its wrong answers are K others,
equally likely. Two voters then give one answer with probability

    A_uv = p_u·p_v + (1 − p_u)·(1 − p_v) / K

and the p_v are those that fit best, by least squares, how often each pair agrees (`estimate`). The probability of an
answer c to be the true one, its support, is by Bayes' rule, where each of K + 1 answers may be it (`label`):

    q(c) ∝ Π_{v: v answers c} K·p_v / (1 − p_v)        1 for answers that nobody gave; None is never right

Where this deviates: Dawid & Skene find p_v by EM, from q. With answers that anybody can write, EM ends at one voter who
is always right and others who never are, wherever voters agree seldom: a voter confirms itself. Pairs cannot.

It assumes that voters err independently: where all share an error, nothing in their answers shows it. Voters who agree
no more often than by chance have p_v = 1 / (K + 1), where a vote says nothing, and no label has support.

Voters who learn from their own labels come to share the errors of these, and a vote no longer sees them. They can be
counted while they are new (trust, our own): let the voters of a round be copies of one rule, from which each departs
on prompts of its own, whether the rule is right there or wrong, and let the likeliest answers of the round be the next
rule. With c_i the mean support of the likeliest answers to the prompts of round i (`consensus`), and l_r the share of
the labels of round r that its answers say are right, so many are right:

    t_r = c_1 · … · c_{r−1} · l_r

l_r is the mean of p_v where the answers of each voter are labels, and the mean support of the likeliest answers to the
prompts that pass where a vote chooses the labels.

It does not count errors that a base shares from the start, and goes on counting those that training on labels mends.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WRONG_ANSWERS = 10  # K; more make agreement the stronger evidence
MAX_ROUNDS = 200  # over all voters, each fitted to the others
TOLERANCE = 1e-5  # of every p_v, at which they end
LEAST_ODDS = 0.05  # below which a vote says nothing: it is that of chance, up to the tolerance

Given = Sequence[str | None]  # the answers `[P]` to one prompt, or `[N]` of one voter


class Reliability(NamedTuple):
    """For each of P voters the probability that it is `right`."""

    right: list[float]

    @property
    def odds(self) -> list[float]:
        """log(K·p_v / (1 − p_v)): how much more likely its answer is as the true one than as another."""
        return [math.log(WRONG_ANSWERS * p / (1 - p)) for p in self.right]

    @property
    def effective_voters(self) -> float:
        """How many equal votes are as good: (Σ w)² / Σ w² (Kish 1965) with w_v = log(K·p_v / (1 − p_v)), at least 0.

        These are the best weights of independent votes (Nitzan & Paroush 1982). 0 where no vote says anything.
        """
        weights = [max(each, 0.0) for each in self.odds]
        return sum(weights) ** 2 / sum(each**2 for each in weights) if max(weights, default=0.0) > LEAST_ODDS else 0.0


def estimate(answers: Sequence[Given]) -> Reliability:
    """The reliability of voters with `answers [P][N]`, at least that of chance, and at most N + ½ in N + 1."""
    prompts, chance = len(answers[0]) if answers else 0, 1 / (WRONG_ANSWERS + 1)
    most = (prompts + 0.5) / (prompts + 1)
    agreed = [[_agreement(one, other) for other in answers] for one in answers]
    right = [0.5] * len(answers)
    for _ in range(MAX_ROUNDS):
        before = list(right)
        for voter, shares in enumerate(agreed):
            others = [other for other in range(len(right)) if other != voter]
            wrong = [(1 - right[other]) / WRONG_ANSWERS for other in others]
            slopes = [right[other] - same for other, same in zip(others, wrong, strict=True)]
            squares = sum(slope**2 for slope in slopes)
            fit = sum(slope * (shares[other] - same) for other, slope, same in zip(others, slopes, wrong, strict=True))
            best = fit / squares if squares > TOLERANCE else chance
            right[voter] = (right[voter] + min(max(best, chance), most)) / 2  # halfway, so that two do not swing
        if max((abs(a - b) for a, b in zip(right, before, strict=True)), default=0.0) < TOLERANCE:
            break
    return Reliability(right)


def label(given: Given, reliability: Reliability) -> tuple[str | None, float]:
    """The likeliest of the answers `given`, the first of several, and its probability; None where there is none."""
    scores = _scores(given, reliability.odds)
    if not scores:
        return None, 0.0
    likeliest = max(scores, key=lambda answer: scores[answer])
    unseen, most = max(WRONG_ANSWERS + 1 - len(scores), 0), scores[likeliest]
    return likeliest, 1 / (sum(math.exp(score - most) for score in scores.values()) + unseen * math.exp(-most))


def consensus(answers: Iterable[Given], reliability: Reliability) -> float | None:
    """c, the mean support of the likeliest of the `answers [N][P]` to each prompt; None where there is no prompt."""
    supports = [label(given, reliability)[1] for given in answers]
    return sum(supports) / len(supports) if supports else None


def _agreement(one: Given, other: Given) -> float:
    """The share of prompts to which two voters give one answer; none is no answer."""
    same = sum(a == b and a is not None for a, b in zip(one, other, strict=True))
    return same / max(len(one), 1)


def _scores(given: Given, odds: Sequence[float]) -> dict[str, float]:
    """The log-likelihood of each answer but None to be the true one, over that of an answer that nobody gave."""
    scores: dict[str, float] = {}
    for answer, weight in zip(given, odds, strict=True):
        if answer is not None:
            scores[answer] = scores.get(answer, 0.0) + weight
    return scores
