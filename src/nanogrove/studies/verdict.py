"""Figures of arms by seed become verdicts: better, worse, not shown, or within the margin; each in one plain sentence.

Figures of two arms are paired by seed, and a `PairedTest` tests the differences. The p values of all comparisons
are adjusted by Holm's procedure, so the chance that any `better` or `worse` of a study is wrong is at most the level. A
difference that is not shown is not a difference of 0: only where a margin was given, and the interval lies within it,
is it said that arms differ by less. That interval has the level divided by the number of comparisons.

Arms of equal time rest on a ratio of times that is known as an interval. They are compared at both ends of it, and what
is said must hold at both: the larger p value counts (Berger 1982), and the interval spans those of both ends.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, TypeGuard

import numpy as np

from nanogrove.errors import StudyError
from nanogrove.record.measures import Measure
from nanogrove.studies.statistics import (
    EXACT,
    MAX_SEEDS,
    PairedTest,
    holm,
    interquartile_mean,
    probability_of_improvement,
    seeds_needed,
    shown_effect,
)

Figures = Mapping[str, Mapping[int, float | None]]  # arm -> seed -> figure; None where the run diverged
Outcome = Literal["better", "worse", "not shown", "within the margin"]


@dataclass(frozen=True)
class Verdict:
    """What is known of one arm against another.

    Args:
        arm: that is judged.
        against: the arm that it is compared with.
        outcome: of the arm; `better` and `worse` are at the level of the study, after Holm's procedure.
        pairs: seeds that both arms have a run of.
        left_out: seeds that only one of them has.
        diverged: runs of the arm and of the other that diverged; each counts as worse than any other run of
            the study, by the range of these.
        difference: mean figure of the arm less that of the other.
        interval: of the difference, by itself. Of two ends it spans both; the figures are those of the end that is less
            clear.
        p: of this comparison by itself.
        holm_p: adjusted for all comparisons of the study.
        interquartile_means: of the arm and of the other.
        probability_of_improvement: the chance that a run of the arm is better than one of the other, of any seeds.
        sentence: all this in words.
    """

    arm: str
    against: str
    outcome: Outcome
    pairs: int
    left_out: int
    diverged: tuple[int, int]
    difference: float
    interval: tuple[float, float]
    p: float
    holm_p: float
    interquartile_means: tuple[float, float]
    probability_of_improvement: float
    sentence: str


@dataclass(frozen=True)
class Rule:
    """How a study decides.

    Args:
        measure: what arms are judged by, and which way is better.
        level: the chance that any verdict `better` or `worse` is wrong.
        margin: a difference that does not matter, in the measure's unit.
        all_pairs: whether each arm is compared with each other one, or all with the first.
        test: of paired differences.
    """

    measure: Measure
    level: float = 0.05
    margin: float | None = None
    all_pairs: bool = False
    test: PairedTest = EXACT


@dataclass(frozen=True)
class Comparison:
    """Two arms at one end: differences of costs, by seed in order, and what `Verdict` says of them."""

    costs: tuple[list[float], list[float]]
    left_out: int
    diverged: tuple[int, int]
    p: float

    @property
    def differences(self) -> list[float]:
        """Cost of the arm less that of the other, seed by seed; below 0 the arm is better."""
        return [one - other for one, other in zip(*self.costs, strict=True)]


def arms_compared(arms: Sequence[str], all_pairs: bool = False) -> list[tuple[str, str]]:
    """The comparisons of a study, as (arm, against): every other arm against the first, or all pairs."""
    return [(arm, against) for against, arm in combinations(arms, 2) if all_pairs or against == arms[0]]


def check_seeds(seeds: int, tests: int, level: float = 0.05) -> None:
    """Refuses a number of seeds that could show nothing, or more than the exact test takes.

    Raises:
        StudyError: says how many are enough, and what these could show.
    """
    needed, comparisons = seeds_needed(tests, level), _count(tests, "comparison")
    if needed > MAX_SEEDS:
        raise StudyError(f"{comparisons} at level {level:g} would need {needed} seeds, and {MAX_SEEDS} is the most")
    if seeds > MAX_SEEDS:
        raise StudyError(f"{seeds} seeds: the exact test takes up to {MAX_SEEDS}; give {MAX_SEEDS} or fewer")
    if seeds < needed:
        least = min(1.0, tests * 2.0 ** (1 - seeds))
        fewer = (
            f"{_count(seeds, 'seed')} could show no difference, however large: the least p value would be {least:.2g}"
        )
        effect = shown_effect(needed, level / tests)
        raise StudyError(
            f"{fewer}. {comparisons} at level {level:g} {'need' if tests > 1 else 'needs'} {needed} seeds or more;"
            f" {needed} show differences of {effect:.2f} standard deviations four times of five"
        )


def decide(ends: Sequence[Figures], rule: Rule) -> list[Verdict]:
    """A verdict for each comparison of a study, in the order of `arms_compared`.

    Args:
        ends: the figures, once; or for arms of equal time twice, as of the short and of the long end of the ratio.
        rule: how the study decides.

    Raises:
        StudyError: two arms share no seed.
    """
    pairs = arms_compared(list(ends[0]), rule.all_pairs)
    at_ends = [[_compare(figures, arm, against, rule) for figures in ends] for arm, against in pairs]
    p_values = [_p_at_all(comparisons) for comparisons in at_ends]
    adjusted = holm(p_values)
    return [
        _verdict(pair, comparisons, p, holm_p, rule, len(pairs))
        for pair, comparisons, p, holm_p in zip(pairs, at_ends, p_values, adjusted, strict=True)
    ]


def _compare(figures: Figures, arm: str, against: str, rule: Rule) -> Comparison:
    """Two arms at one end, paired by the seeds that both have."""
    one, other = figures[arm], figures[against]
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise StudyError(f"{arm} and {against} share no seed; train both with the same seeds")
    known = [rule.measure.cost(f) for runs in figures.values() for f in runs.values() if _known(f)]
    worst = _cost_of_divergence(known)

    def costs(runs: Mapping[int, float | None]) -> list[float]:
        return [rule.measure.cost(figure) if _known(figure) else worst for figure in map(runs.__getitem__, seeds)]

    pair = costs(one), costs(other)
    differences = [first - second for first, second in zip(*pair, strict=True)]
    one_diverged, other_diverged = (sum(not _known(runs[seed]) for seed in seeds) for runs in (one, other))
    return Comparison(
        pair, len(one.keys() ^ other.keys()), (one_diverged, other_diverged), rule.test.p_value(differences)
    )


def _cost_of_divergence(costs: Sequence[float]) -> float:
    """A cost above all costs of the study by as much as these differ, so that each diverged run of a pair loses."""
    if not costs:
        return 0.0  # all runs diverged, so no arm is better
    spread = max(costs) - min(costs)
    return max(costs) + (spread or abs(max(costs)) or 1.0)


def _known(figure: float | None) -> TypeGuard[float]:
    return figure is not None and math.isfinite(figure)


def _p_at_all(comparisons: Sequence[Comparison]) -> float:
    """The p value of a difference of one direction at all ends; 1 where the directions differ."""
    directions = {math.copysign(1, sum(comparison.differences)) for comparison in comparisons}
    return max(comparison.p for comparison in comparisons) if len(directions) == 1 else 1.0


def _verdict(
    arms: tuple[str, str], comparisons: Sequence[Comparison], p: float, holm_p: float, rule: Rule, tests: int
) -> Verdict:
    """One verdict, of all ends.

    Args:
        arms: the arm and the one it is compared with.
        comparisons: of these, at each end.
        p: of the comparison by itself, at all ends.
        holm_p: the same adjusted.
        rule: how the study decides.
        tests: how many comparisons the study makes.
    """
    least_clear = max(comparisons, key=lambda comparison: comparison.p)
    costs, cost = least_clear.costs, rule.measure.cost
    mean = float(np.mean(least_clear.differences))
    outcome: Outcome = "not shown"
    level = rule.level
    if holm_p <= rule.level:
        outcome = "better" if mean < 0 else "worse"
    elif rule.margin is not None:
        within = _interval(comparisons, rule, rule.level / tests)
        if max(abs(end) for end in within) < rule.margin:
            outcome, level = "within the margin", rule.level / tests
    verdict = Verdict(
        *arms,
        outcome,
        pairs=len(costs[0]),
        left_out=least_clear.left_out,
        diverged=least_clear.diverged,
        difference=cost(mean),
        interval=_interval(comparisons, rule, level),
        p=p,
        holm_p=holm_p,
        interquartile_means=(cost(interquartile_mean(costs[0])), cost(interquartile_mean(costs[1]))),
        probability_of_improvement=probability_of_improvement(*costs),
        sentence="",
    )
    deviation = float(np.std(least_clear.differences, ddof=1)) if verdict.pairs > 1 else math.nan
    differ = any(difference for each in comparisons for difference in each.differences)
    parts = [_claim(verdict, rule, level, tests)]
    if outcome == "not shown" and not differ and not any(verdict.diverged):
        parts = [f"not shown: {arms[0]} and {arms[1]} have the same figures on each seed"]
    elif outcome == "not shown":
        parts += _power(verdict.pairs, deviation, rule, tests)
    ends = len({tuple(each.differences) for each in comparisons})  # one, where the steps of neither arm are open
    return replace(verdict, sentence="; ".join([*parts, *_remarks(verdict, ends)]))


def _interval(comparisons: Sequence[Comparison], rule: Rule, level: float) -> tuple[float, float]:
    """The interval of the difference of figures, from the lowest of all ends to the highest."""
    ends = [rule.measure.cost(end) for each in comparisons for end in rule.test.interval(each.differences, level)]
    return min(ends), max(ends)


def _claim(verdict: Verdict, rule: Rule, level: float, tests: int) -> str:
    """The outcome with its figures."""
    arm, against, measure = verdict.arm, verdict.against, rule.measure
    unit = measure.unit or f"of {measure.label or measure.name}"
    sign = -1.0 if verdict.outcome in ("better", "worse") and verdict.difference < 0 else 1.0
    low, high = sorted(sign * end for end in verdict.interval)
    digits = _digits(high - low, measure.digits)
    interval = "no interval of so few pairs"
    if math.isfinite(high - low):
        interval = f"{100 * (1 - level):.4g} % interval {low:.{digits}f} to {high:.{digits}f}"
    facts = f"({interval}, {_count(verdict.pairs, 'pair')}, p {_p(verdict.holm_p)}{' after Holm' if tests > 1 else ''})"
    amount = f"{sign * verdict.difference:.{digits}f} {unit}"
    match verdict.outcome:
        case "not shown":
            return f"not shown: {arm} against {against}, difference {amount} {facts}"
        case "within the margin":
            return f"{arm} and {against} differ by less than the margin of {rule.margin:g} {unit}: by {amount} {facts}"
        case outcome:
            return f"{arm} is {outcome} than {against} by {amount} {facts}"


def _power(pairs: int, deviation: float, rule: Rule, tests: int) -> list[str]:
    """What so many pairs show, where the test says it."""
    if rule.test.shown_effect is None:
        return []
    effect = rule.test.shown_effect(pairs, rule.level / tests)
    if not math.isfinite(effect):
        needed = seeds_needed(tests, rule.level)
        return [f"{_count(pairs, 'pair')} can show no difference, {needed} or more can"]
    shown = effect * deviation
    here = f"{shown:.{_digits(shown, rule.measure.digits)}f}"
    return [f"{pairs} pairs show differences of {effect:.2f} standard deviations, here {here}, four times of five"]


def _remarks(verdict: Verdict, ends: int) -> list[str]:
    """What a reader has to know of the figures."""
    remarks = []
    if ends > 1:
        shown = verdict.outcome != "not shown"
        remarks.append(f"figures of the less clear end of the ratio of times{', and so at both' if shown else ''}")
    for arm, count in zip((verdict.arm, verdict.against), verdict.diverged, strict=True):
        if count:
            runs = "1 run of {} diverged and counts" if count == 1 else f"{count} runs of {{}} diverged and count"
            remarks.append(f"{runs.format(arm)} as worse than any other run")
    if verdict.left_out:
        verb = "is" if verdict.left_out == 1 else "are"
        remarks.append(f"{_count(verdict.left_out, 'seed')} that only one arm has {verb} left out")
    return remarks


def _digits(width: float, default: int) -> int:
    """Decimals that show a width to two digits."""
    return min(max(1 - math.floor(math.log10(width)), 0), 9) if 0 < width < math.inf else default


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _p(p: float) -> str:
    """A p value with its sign of relation, as in `= .012`."""
    return "< .001" if p < 0.001 else f"= {p:.{3 if p >= 0.01 else 2}g}".replace("0.", ".", 1)
