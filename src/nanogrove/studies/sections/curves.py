"""The measure as arms train, over tokens, FLOPs and time."""

from collections.abc import Callable
from statistics import median

from nanogrove.record.events import Event
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line, line
from nanogrove.reports.values import finite, spread
from nanogrove.studies.sections.shown import Shown, ShownArm

Axis = Callable[[Shown, ShownArm, Event], float | None]
AXES: dict[str, Axis] = {
    "tokens": lambda shown, arm, event: finite(event.values.get("seen")),
    "FLOPs": lambda shown, arm, event: arm.planned.flops * event.step / max(arm.planned.all_steps, 1),
    "seconds": lambda shown, arm, event: _seconds_per_step(shown, arm) * event.step,
}
TITLES = {"tokens": "over tokens", "FLOPs": "over FLOPs", "seconds": "over time of training"}


def curves(shown: Shown) -> str:
    """The median of the seeds of each arm and a band over all, and the best possible loss where it is known."""
    pictures = [
        plot(f"Validation {shown.label} {TITLES[axis]}", axis, shown.unit, _lines(shown, at))
        for axis, at in AXES.items()
    ]
    note = '<p class="note">Lines are medians over seeds; bands reach from the lowest to the highest.</p>'
    body = rows([pictures[:2], pictures[2:]])
    return f"<h2>Curves</h2>{note}{body}" if body else ""


def _lines(shown: Shown, axis: Axis) -> list[Line]:
    drawn: list[Line] = []
    for arm in shown.arms:
        by_step: dict[int, list[Event]] = {}
        for event in (event for events in arm.evaluations for event in events):
            by_step.setdefault(event.step, []).append(event)
        x = [axis(shown, arm, by_step[step][0]) for step in sorted(by_step)]
        y = [[spread(event.values.get(shown.name))[1] for event in by_step[step]] for step in sorted(by_step)]
        drawn += line(arm.name, x, y)
    floor = _best_possible(shown)
    if drawn and floor is not None:
        ends = [min(at for each in drawn for at in each["x"]), max(at for each in drawn for at in each["x"])]
        drawn += line("best possible", ends, [floor] * 2, "reference")
    return drawn


def _best_possible(shown: Shown) -> float | None:
    """The best possible figure that evaluations know, where it is the same for all of them."""
    reference = shown.findings.measure.reference
    events = [event for arm in shown.arms for events in arm.evaluations for event in events]
    floors = {finite(event.values.get(reference)) for event in events}
    return floors.pop() if reference and len(floors) == 1 else None


def _seconds_per_step(shown: Shown, arm: ShownArm) -> float:
    """Seconds of a step of an arm's runs.

    At equal time all arms have the time of the first by plan, whatever trained beside them and made runs take longer.
    """
    timed = shown.arms[0] if shown.findings.study.equal == "time" else arm
    seconds = median(finite(each.seconds) or 0.0 for each in timed.results)
    return seconds / max(median(each.steps for each in arm.results), 1)
