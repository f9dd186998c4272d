"""What the finished runs of a study say: the trial that each arm takes, and the verdicts on arms."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from nanogrove.errors import StudyError
from nanogrove.record.measures import MEASURES, Measure
from nanogrove.studies.plan import End, Plan
from nanogrove.studies.results import Key, Result
from nanogrove.studies.sequential import until_decided
from nanogrove.studies.settings import StudySettings
from nanogrove.studies.statistics import EXACT
from nanogrove.studies.verdict import Figures, Rule, Verdict, check_seeds, decide


@dataclass(frozen=True, repr=False)
class Findings:
    """A study and what it shows.

    Args:
        study: its settings.
        plan: what was trained.
        measure: what arms are judged by.
        results: all finished runs.
        verdicts: of each arm but the first against the first; none where no pair is finished.
        seeds: that the verdicts rest on, at most.
    """

    study: StudySettings
    plan: Plan
    measure: Measure
    results: Mapping[Key, Result]
    verdicts: tuple[Verdict, ...]
    seeds: int

    def __repr__(self) -> str:
        """The findings in words."""
        return "\n".join(lines(self))

    @property
    def decided(self) -> bool:
        """Whether there is a verdict on each arm that says more than `not shown`."""
        return bool(self.verdicts) and all(verdict.outcome != "not shown" for verdict in self.verdicts)


def check_study_seeds(study: StudySettings) -> None:
    """Raises StudyError where the seeds of a study could show no difference, however large."""
    try:
        check_seeds(study.cap if study.until_decided else study.seeds, len(study.arms) - 1, study.level)
    except StudyError as error:
        raise StudyError(f"cap: {error}" if study.until_decided else str(error)) from None


def measure_named(name: str, figures: Mapping[str, object]) -> Measure:
    """The measure of this name that such figures have."""
    return next(measure for measure in MEASURES if measure.name == name and measure.applies(figures))


def judge(study: StudySettings, plan: Plan, results: Mapping[Key, Result], seeds: int) -> Findings:
    """The verdicts that the results of the first `seeds` seeds allow."""
    finished = [result for result in results.values() if result.trial is None]
    known = next((result.figures for result in finished if result.figures), {plan.measure: 0.0})
    measure = measure_named(plan.measure, known)
    ends: list[End] = ["short", "long"] if any(result.end for result in finished) else [""]
    figures = [_figures(study, results, plan.measure, end, seeds) for end in ends]
    verdicts: list[Verdict] = []
    first = study.arms[0].name
    if all(runs.keys() & each[first].keys() for each in figures for runs in each.values()):
        test = until_decided(study.cap) if study.until_decided else EXACT
        verdicts = decide(figures, Rule(measure, study.level, study.margin, test=test))
    return Findings(study, plan, measure, results, tuple(verdicts), seeds)


def _figures(study: StudySettings, results: Mapping[Key, Result], name: str, end: End, seeds: int) -> Figures:
    """The figures of all arms at an end; of an arm whose steps are not open, those of its only one."""
    return {
        arm.name: {
            result.seed: None if result.diverged else result.figures[name]
            for result in results.values()
            if result.arm == arm.name and result.trial is None and result.seed < seeds and result.end in ("", end)
        }
        for arm in study.arms
    }


def choose_trials(study: StudySettings, plan: Plan, results: Mapping[Key, Result]) -> dict[str, int]:
    """The number of the trial of each arm whose mean cost over the tuning seeds is the lowest.

    Raises StudyError for an arm of which all trials diverged.
    """
    chosen: dict[str, int] = {}
    for arm in study.arms:
        costs: dict[int, list[float]] = {}
        for result in results.values():
            if result.arm == arm.name and result.trial is not None:
                figure = math.inf
                if not result.diverged:
                    figure = measure_named(plan.measure, result.figures).cost(result.figures[plan.measure])
                costs.setdefault(result.trial, []).append(figure)
        means = {trial: fmean(values) for trial, values in sorted(costs.items())}
        chosen[arm.name] = min(means, key=means.__getitem__)
        if math.isinf(means[chosen[arm.name]]):
            raise StudyError(f"arm {arm.name}: all of its trials diverged; give --tune other values")
    return chosen


def lines(findings: Findings) -> Iterator[str]:
    """The findings in words, a line each."""
    for arm in findings.study.arms:
        trial = findings.plan.chosen.get(arm.name)
        if trial is not None:
            yield f"{arm.name} takes {' '.join(findings.study.trials[trial])}, the best of {len(findings.study.trials)}"
    if findings.study.equal == "data" and findings.plan.tuned:
        yield from _unequal_compute(findings)
    for verdict in findings.verdicts:
        yield verdict.sentence
    looks = len(findings.plan.looks)
    if looks > 1 and not findings.study.until_decided:
        yield (
            f"seeds or arms were added to what had been seen, {looks} looks in all, so the chance that any verdict is "
            f"wrong is up to {min(looks * findings.study.level, 1):g}; --until-decided may look after every seed"
        )
    if not findings.verdicts:
        yield "no pair of runs is finished yet"


def _unequal_compute(findings: Findings) -> Iterator[str]:
    """What each other arm computes, of arms that have the same data and budgets of their own."""
    first, *others = (each for each in findings.plan.arms if each.trial == findings.plan.chosen.get(each.arm))
    for other in others:
        yield f"{other.arm} trains with {other.flops / first.flops:.3g} times the FLOPs of {first.arm}"
