"""What may change when a run goes on: its budget and learning rates, and when it is scored, saved, sampled and tracked.

A run that goes on for longer is the longer run from the beginning, bit for bit, where both take the same steps up to
where it stands: `Taken` is what of a step follows from the budget, and is compared step by step. Where nothing but
learning rates differ, the schedule may be extended: a joint keeps those of the past, and a stable phase and a decay
follow (`train/optim/schedule.py`). All of it is in preset.json, so a run that is killed goes on from there alone.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from nanogrove.config.preset import Preset
from nanogrove.errors import RunError
from nanogrove.json_difference import Missing, differences
from nanogrove.methods import load_method
from nanogrove.record.events import Values
from nanogrove.runs.circumstances import Changes
from nanogrove.runs.setup import Setup, with_budget
from nanogrove.train.checkpoint import Checkpoint
from nanogrove.train.loop import BUDGETS
from nanogrove.waits import waiting

SECTIONS = ("evaluate", "save", "sample", "track")  # whose settings may change
RATES = ("lr", "adamw_lr")  # of the optimizer, which may change too
MOST_STEPS = 1 << 53  # that minutes become, whatever a checkpoint says of its pace
ANEW = "start anew with another --out"


def _changeable(preset: Preset) -> dict[str, tuple[str, ...]]:
    """The settings that may change, by section."""
    sections = {name: tuple(type(getattr(preset, name)).model_fields) for name in SECTIONS}
    return {**sections, "optimizer": RATES, "train": BUDGETS, "method": load_method(preset.method.name).counted_by}


def adjusted(kept: Preset, asked: Preset) -> Preset:
    """The preset of a run, with all that may change as another one asks for it."""
    sections = _changeable(kept)
    if asked.method.name != kept.method.name:
        del sections["method"]
    return kept.model_copy(
        update={
            section: getattr(kept, section).model_copy(
                update={name: getattr(getattr(asked, section), name) for name in names}
            )
            for section, names in sections.items()
        }
    )


def settings_of(preset: Preset) -> Values:
    """All settings that may change, JSON; checkpoints hold them, so that no kill hides a change from the record."""
    sections = {section: set(names) for section, names in _changeable(preset).items()}
    settings: Values = preset.model_dump(mode="json", include={**sections, "schedule": {"joints"}})
    return settings


def changed_settings(checkpoint: Checkpoint, kept: Preset, preset: Preset) -> Changes:
    """The settings that differ from those a checkpoint was saved with, by key, each with its earlier and present value.

    A checkpoint of an earlier version does not hold them; then from those that were `kept`.
    """
    saved, now = checkpoint.state.get("settings"), settings_of(preset)
    pairs = differences(saved if isinstance(saved, dict) else settings_of(kept), now)
    return {key: [was, now] for key, was, now in pairs if not (isinstance(was, Missing) or isinstance(now, Missing))}


def minutes_in_steps(preset: Preset, state: Values) -> Preset:
    """A preset whose minutes, of training in all, are as many steps as fit at the pace until the `state` of a run."""
    steps, seconds, minutes = state["step"], state["seconds"], preset.train.minutes
    if minutes is None:
        return preset
    total = int(min(60 * minutes * steps / seconds, MOST_STEPS)) if seconds > 0 else steps
    count = max(load_method(preset.method.name).budget(preset.method, total), 1)
    return preset.model_copy(update={"train": preset.train.model_copy(update={"steps": count, "minutes": None})})


class Taken(NamedTuple):
    """What of a step follows from the budget: its phase and where that began, its rate, and what the method adds."""

    phase: str
    began: int
    rate: float
    others: dict[str, object]


def taken(setup: Setup) -> Iterator[Taken]:
    """What of each step of a run follows from its budget, from the first step on."""
    method, config, plan = setup.method, setup.preset.method, setup.plan
    for span in method.phases(config, plan.steps):
        phase = plan.phase(*span[1:])
        for step in range(span.start, span.end):
            others = dict(method.step_depends_on(config, plan.steps, step))
            if plan.average.tail is not None:
                others["train.average.tail"] = max(step + 1 - phase.average_from, 0)
            yield Taken(span.name, span.start, float(phase.lr_factor(step)), others)


class Mismatch(NamedTuple):
    """The first step, counted from 0, that is not the same under two budgets."""

    step: int
    was: Taken
    now: Taken

    @property
    def of_rate_alone(self) -> bool:
        """Whether a schedule that keeps the past would make the step the same."""
        return self.was == self.now._replace(rate=self.was.rate)

    def reason(self) -> str:
        """What differs, as a clause."""
        number, was, now = self.step + 1, self.was, self.now
        if was.phase != now.phase:
            return f"step {number:,} would have been one of the {now.phase}, and was one of the {was.phase}"
        if was.began != now.began:
            return f"the {now.phase} would have begun after step {now.began:,}, and began after step {was.began:,}"
        if was.others != now.others:
            keys = (key for key in now.others if was.others.get(key) != now.others[key])
            return f"{next(keys, 'method')} follows from the budget, and by it step {number:,} would have been another"
        return f"the learning rate of step {number:,} would have been {now.rate:.3g} of its peak, not {was.rate:.3g}"


def first_mismatch(before: Setup, after: Setup, steps: int) -> Mismatch | None:
    """The first of so many steps that is not the same under two budgets; None where all are."""
    pairs = zip(islice(taken(before), steps), islice(taken(after), steps), strict=False)
    with waiting("comparing the steps taken with those of the longer run", steps) as wait:
        for step, (was, now) in enumerate(pairs):
            if was != now:
                return Mismatch(step, was, now)
            wait.done = step + 1
    return None


def _described_budget(kept: Preset, asked: Preset) -> str:
    """The settings of the budget that are asked for and were others, as overrides."""
    names = {"train": BUDGETS, "method": load_method(kept.method.name).counted_by}
    values = {
        f"{section}.{name}": (getattr(getattr(kept, section), name), getattr(getattr(asked, section), name))
        for section, settings in names.items()
        for name in settings
    }
    return " and ".join(f"{key}={json.dumps(now)}" for key, (was, now) in values.items() if now not in (was, None))


def checked(setup: Setup, kept: Preset, asked: Preset, checkpoint: Checkpoint, extend: bool, where: object) -> Setup:
    """The setup of a run that goes on from a checkpoint under another budget than it had.

    Raises RunError where it has taken as many steps already, and where its past is not that of the longer run, unless
    nothing but learning rates differ and `extend` is set.

    Args:
        setup: under the preset that is asked for, its minutes in steps.
        kept: the preset that the run had.
        asked: the preset that is asked for, as it was given, for messages.
        checkpoint: from which it goes on.
        extend: whether the schedule is extended where its past differs.
        where: the run folder, for messages.
    """
    before, step = with_budget(setup, kept), checkpoint.state["step"]
    budget = f"{where}: with {_described_budget(kept, asked)}"
    if (setup.preset.method, setup.plan.steps) == (kept.method, before.plan.steps):
        return setup
    if setup.plan.steps <= step:
        raise RunError(f"{budget} the run has {setup.plan.steps:,} steps, and it has taken {step:,}; give more")
    mismatch = first_mismatch(before, setup, step)
    if mismatch is not None and mismatch.of_rate_alone and extend:
        setup = _extended(before, setup, step)
        mismatch = first_mismatch(before, setup, step)
    if mismatch is not None:
        advice = ANEW
        if mismatch.of_rate_alone:
            advice = f"add --schedule extend, which keeps the past and adds a stable phase and a decay, or {ANEW}"
        raise RunError(f"{budget} {mismatch.reason()}; {advice}")
    return setup


def _extended(before: Setup, setup: Setup, step: int) -> Setup:
    """The setup whose schedule has a joint at `step`, of the end that its phase had before."""
    spans = before.method.phases(before.preset.method, before.plan.steps)
    planned = next(span.end for span in spans if span.start < step <= span.end)
    schedule = setup.preset.schedule
    longer: dict[str, Any] = {"joints": [*schedule.joints, (step, planned)]}
    return with_budget(setup, setup.preset.model_copy(update={"schedule": schedule.model_copy(update=longer)}))
