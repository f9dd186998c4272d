"""A budget in minutes becomes steps: a few real steps are timed before the first one that counts.

`train.minutes` is the training time of the whole run as `TrainState.seconds` counts it, without evaluation, samples and
saving. Where a method adds steps that `train.steps` does not name, such as rounds or generations, these are timed too
and their time is set aside; the rest is filled with the steps that `train.steps` names:

    steps = (60 · minutes − further steps · their seconds − seconds of compiling) / seconds per step

A timed step is the method's: its data, its objective and the resolved settings, on a new state that is thrown away, at
a learning rate of 0, so that a rehearsal cannot diverge. The first step is left out, since it warms up memory and
caches, and of the others the lower quartile counts, since other work on the machine makes steps longer and never
shorter. Several ranks rehearse together, and the times of rank 0 count for all.

Nothing of it reaches the run: data are functions of the step, and torch's generators are put back. The number of steps
is all that is kept, in preset.json, so a resumed run measures nothing.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from nanogrove.data.corpus import Corpus
from nanogrove.errors import PresetError
from nanogrove.methods import load_method
from nanogrove.methods.contract import MethodConfig
from nanogrove.record.events import Event
from nanogrove.train.autotune import keep_freed_memory
from nanogrove.train.parallel.ranks import ALONE, Ranks
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState
from nanogrove.waits import waiting

MEASURED_SECONDS = 2.0  # of timed steps, unless the budget is a short one
MEASURED_SHARE = 1 / 30  # of the budget that timed steps take, where that is less
LEAST_STEPS = 2  # that are timed, after the first one
USEFUL_STEPS = 10  # for which the budget that an error proposes has room, so that it holds when measured again
ENDLESS = 1 << 40  # steps of a rehearsal, which no rehearsal reaches, so that nothing is scored and no phase ends


@dataclass(frozen=True)
class Pace:
    """The seconds of a step, and those that the first step took beyond them."""

    step: float
    start: float


@dataclass(frozen=True)
class Rehearsal:
    """What a budget in minutes comes to: `train.steps`, and the times they follow from, for the record."""

    steps: int
    times: dict[str, float]


@dataclass(frozen=True)
class Paces:
    """The pace of what one of `train.steps` brings, and of the `count` further ones of a method."""

    main: Pace
    further: Pace
    count: int


def paces(
    config: MethodConfig,
    corpus: Corpus,
    plan: Plan,
    new_state: Callable[[], TrainState],
    wanted: float,
    longest: float = math.inf,
) -> Paces:
    """Times steps of a method, of each kind that it has, under a plan whose number of steps does not count.

    Args:
        config: the settings of the method
        corpus: its data
        plan: resolved; its learning rates do not count either
        new_state: makes a state that is thrown away
        wanted: seconds of timed steps of each kind, about
        longest: seconds of a first step above which it counts alone
    """
    keep_freed_memory()

    def timed(further: bool) -> Pace:
        return pace(rehearsed(config, corpus, plan, new_state, further), wanted, plan.ranks, longest)

    count = load_method(config.name).num_steps(config, 0)
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = [torch.cuda.current_device()] if used else []
    with waiting("timing a few steps"), torch.random.fork_rng(devices=devices):
        return Paces(timed(False), timed(True) if count else Pace(0.0, 0.0), count)


def rehearsed(
    config: MethodConfig, corpus: Corpus, plan: Plan, new_state: Callable[[], TrainState], further: bool
) -> Iterator[Event]:
    """The events of endless steps of a method, at a learning rate of 0 and without evaluation.

    They are those that `train.steps` names or, where `further` is set, those that the method adds.
    """
    method = load_method(config.name)
    quiet = replace(
        plan,
        steps=ENDLESS,
        lr_factor=lambda step: 0.0,
        schedule=lambda end, start: lambda step: 0.0,
        evaluate_every=ENDLESS,
        evaluate_early=False,
    )
    if method.rehearse is None:
        return method.run(new_state(), corpus, quiet, config)
    return method.rehearse(new_state(), corpus, quiet, config, further)


def rehearse(
    minutes: float, config: MethodConfig, corpus: Corpus, plan: Plan, new_state: Callable[[], TrainState]
) -> Rehearsal:
    """Times steps of a method under a resolved `plan`, whose own number of steps does not count.

    Raises PresetError where the minutes are too few for a step, on rank 0.
    """
    method = load_method(config.name)
    measured = paces(config, corpus, plan, new_state, min(MEASURED_SECONDS, 60 * minutes * MEASURED_SHARE))
    main, further, count = measured.main, measured.further, measured.count
    aside = count * further.step + (main.start if plan.compile else 0.0)
    times = {"minutes": minutes, "step_ms": round(1000 * main.step, 3)}
    if count:
        times |= {"further_steps": count, "further_step_ms": round(1000 * further.step, 3)}

    def steps() -> int:
        fitting = steps_in(minutes, main.step, aside)
        if fitting:
            return fitting
        enough = rounded_up((aside + USEFUL_STEPS * main.step) / 60)
        names = " × ".join(f"method.{name}" for name in method.counted_by)
        first = f"the {count:,} steps of {names} and the first one that train.steps would count" if count else "a step"
        takes = f"{'take' if count else 'takes'} {_duration(aside + main.step)} here"
        raise PresetError(
            f"train.minutes={minutes:g} is too short: {first} {takes}; set train.minutes={enough:g} or more"
        )

    return Rehearsal(plan.ranks.broadcast_from_main(steps), times)


def pace(events: Iterator[Event], wanted: float, ranks: Ranks = ALONE, longest: float = math.inf) -> Pace:
    """The pace of `step` events, of which as many are taken as make `wanted` seconds; on all ranks as many.

    A first step of more than `longest` seconds counts alone.
    """
    times: list[float] = []
    before = 0.0
    for event in events:
        if event.kind == "step":
            times.append(event.time["seconds"] - before)
            before = event.time["seconds"]
            enough = len(times) > LEAST_STEPS and before - times[0] >= wanted
            if ranks.all_reduce_max(int(enough or times[0] > longest)):
                break
    usual = sorted(times[1:] or times)[len(times[1:]) // 4]
    return Pace(usual, max(times[0] - usual, 0.0))


def steps_in(minutes: float, step: float, aside: float = 0.0) -> int:
    """How many steps of `step` seconds fit in the minutes, of which `aside` seconds are taken."""
    return max(int((60 * minutes - aside) / step), 0)


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} seconds" if seconds < 99 else f"{seconds / 60:,.1f} minutes"


def rounded_up(value: float) -> float:
    """The next number of two digits that is not less, for a person to type."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.1e}")
