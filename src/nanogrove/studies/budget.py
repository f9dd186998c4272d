"""The steps of each candidate, so that all have the same compute as the first: its tokens, its FLOPs or its CPU time.

At equal data each has the steps of its own budget instead, whatever these compute, and all learn from the same tokens.

A step's tokens are members × sequences × context. What one of `train.steps` brings counts as a step, also where a
method takes several for it, as a chain of models does. Its FLOPs are counted, 3 × the products of a forward pass
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
from nanogrove.studies.arms import Candidate, fingerprint
from nanogrove.studies.computation import computation
from nanogrove.studies.settings import Equal

EQUAL_ENOUGH = 0.01  # share by which the compute of a method that counts its own steps may differ


class Cost(NamedTuple):
    """What a step costs: what one of `train.steps` brings, and one of those that the method adds."""

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
    tokens, members = float(setup.preset.train.batch_size * setup.corpus.length), setup.population or 1
    return Cost(members * tokens, (setup.method.further_members(setup.preset.method) or members) * tokens)


def flops_of_step(candidate: Candidate) -> Cost:
    """Counted floating-point operations of a step, of all members."""
    setup = candidate.setup
    per_token = setup.new_state().model.flops_per_token(setup.corpus.length)
    return Cost(*(tokens * per_token for tokens in tokens_of_step(candidate)))


def total(candidate: Candidate, cost: Cost, budget: int | None = None) -> float:
    """What a candidate costs by a budget of `train.steps`; by its own where left out."""
    steps = _own_budget(candidate) if budget is None else budget
    return cost.main * steps + cost.further * _further(candidate)


def _further(candidate: Candidate) -> int:
    """The steps that a method adds to those of `train`."""
    return candidate.setup.method.num_steps(candidate.setup.preset.method, 0)


def _own_budget(candidate: Candidate) -> int:
    """`train.steps` of a candidate, or what another budget comes to; 0 where its method counts all steps."""
    setup = candidate.setup
    return setup.method.budget(setup.preset.method, setup.plan.steps)


def equal_steps(
    equal: Equal,
    entries: Sequence[Candidate],
    measure_time: Callable[[Sequence[Candidate]], Sequence[Measured]],
) -> list[Steps]:
    """The steps of each candidate at the compute of the first.

    Raises StudyError where a method that counts its own steps has another compute, where there is none for a step, and
    at equal data where an arm learns from other data.
    """
    if equal == "data":
        return _at_equal_data(entries)
    if equal == "time":
        return _at_equal_time(entries, measure_time)
    cost_of = tokens_of_step if equal == "tokens" else flops_of_step
    costs = [cost_of(each) for each in entries]
    target = total(entries[0], costs[0])
    return [Steps(*[_steps(each, cost, target, equal)] * 3) for each, cost in zip(entries, costs, strict=True)]


def _at_equal_data(entries: Sequence[Candidate]) -> list[Steps]:
    """The steps of each candidate's own budget."""
    first, steps = fingerprint(entries[0].setup), []
    for each in entries:
        if fingerprint(each.setup) != first:
            raise StudyError(
                f"{each.label}: learns from other data than {entries[0].label}, and equal data asks for the same; give "
                "all arms the same data"
            )
        steps.append(Steps(*[_own_budget(each)] * 3))
    return steps


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
    setup, further = candidate.setup, _further(candidate)
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
