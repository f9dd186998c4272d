"""The steps of each candidate, so that all have the same compute as the first: its tokens, its FLOPs or its CPU time.

A step's tokens are members × sequences × context. Its FLOPs are counted, 3 × the products of a forward pass
(`GPT.flops_per_token`); what a method generates or scores beside its steps is not counted. Its time is CPU time,
measured (`timing.py`). A method may add steps of its own, such as rounds, which keep their number.

With C the cost of the first candidate, f the further steps of a method and c the costs of a step of each kind,

    steps = (C − f · c_further) / c_main

rounded. Where time is measured the ratio of costs has an interval, and so has the number of steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nanogrove.errors import StudyError
from nanogrove.studies.arms import Candidate
from nanogrove.studies.computation import computation
from nanogrove.studies.settings import Equal

EQUAL_ENOUGH = 0.01  # share by which the compute of a method that counts its own steps may differ


class Cost(NamedTuple):
    """What a step costs, of those that `train.steps` names and of those that the method adds."""

    main: float
    further: float


class Measured(NamedTuple):
    """Seconds of CPU time of a step, and the interval of its ratio to that of the first, as factors of it."""

    cost: Cost
    low: float
    high: float


EXACTLY = Measured(Cost(1.0, 1.0), 1.0, 1.0)  # a cost that is counted


@dataclass(frozen=True)
class Steps:
    """`train.steps` of a candidate, or 0 where its method counts all steps, and the interval that equal time leaves."""

    steps: int
    short: int
    long: int

    @property
    def open(self) -> bool:
        """Whether the interval holds more than one number."""
        return self.short != self.long


def tokens_of_step(candidate: Candidate) -> Cost:
    """Tokens of a step, of all members."""
    setup = candidate.setup
    tokens = float((setup.population or 1) * setup.preset.train.batch_size * setup.corpus.length)
    return Cost(tokens, tokens)


def flops_of_step(candidate: Candidate) -> Cost:
    """Counted floating-point operations of a step, of all members."""
    setup = candidate.setup
    per_token = setup.new_state().model.flops_per_token(setup.corpus.length)
    return Cost(*(tokens * per_token for tokens in tokens_of_step(candidate)))


def total(candidate: Candidate, cost: Cost) -> float:
    """What a candidate costs by its own budget."""
    setup = candidate.setup
    further = setup.method.num_steps(setup.preset.method, 0)
    return cost.main * (setup.plan.steps - further) + cost.further * further


def equal_steps(
    equal: Equal,
    entries: Sequence[Candidate],
    measure_time: Callable[[Sequence[Candidate]], Sequence[Measured]],
) -> list[Steps]:
    """The steps of each candidate at the compute of the first.

    Raises StudyError where a method that counts its own steps has another compute, or there is none for a step.
    """
    if equal == "time":
        return _at_equal_time(entries, measure_time)
    cost_of = tokens_of_step if equal == "tokens" else flops_of_step
    costs = [cost_of(each) for each in entries]
    target = total(entries[0], costs[0])
    return [Steps(*[_steps(each, cost, target, equal)] * 3) for each, cost in zip(entries, costs, strict=True)]


def _at_equal_time(
    entries: Sequence[Candidate], measure_time: Callable[[Sequence[Candidate]], Sequence[Measured]]
) -> list[Steps]:
    """Candidates that compute the same as the first have its steps by rule; the others are timed, one of each kind."""
    kinds = list(dict.fromkeys(map(_kind, entries)))
    ones = [next(each for each in entries if _kind(each) == kind) for kind in kinds]
    times = measure_time(ones) if len(kinds) > 1 else [EXACTLY]
    by_kind = dict(zip(kinds, times, strict=True))
    target = total(entries[0], times[0].cost)
    steps = []
    for each in entries:
        time = by_kind[_kind(each)]
        middle = _steps(each, time.cost, target, "time", time)
        short, long = (_steps(each, time.cost, target / end, "time") if middle else 0 for end in (time.high, time.low))
        steps.append(Steps(middle, short, long))
    return steps


def _kind(candidate: Candidate) -> str:
    return computation(candidate.setup.preset)


def _steps(candidate: Candidate, cost: Cost, target: float, equal: Equal, known: Measured = EXACTLY) -> int:
    setup = candidate.setup
    further = setup.method.num_steps(setup.preset.method, 0)
    if not setup.method.needs_budget:
        share = total(candidate, cost) / target
        if share * known.high < 1 - EQUAL_ENOUGH or share * known.low > 1 + EQUAL_ENOUGH:
            counts = " or ".join(f"method.{name}" for name in setup.method.counted_by)
            raise StudyError(
                f"{candidate.label}: {setup.preset.method.name} counts its own steps, and has {share:.3g} times the "
                f"{equal} of the first arm; change {counts}, or make this arm the first, so that others follow it"
            )
        return 0
    steps = round((target - further * cost.further) / cost.main)
    if steps < 1:
        raise StudyError(
            f"{candidate.label}: the {equal} of the first arm are not enough for one of its steps; give that more steps"
        )
    return steps
