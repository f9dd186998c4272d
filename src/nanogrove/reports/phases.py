"""The phases of a run: stretches of steps that learn from one objective each, so that no curve joins two of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanogrove.record.events import Event
from nanogrove.record.measures import measured
from nanogrove.record.reading import Run


@dataclass(frozen=True)
class Phase:
    """The steps after `begin`, up to `end`.

    Args:
        name: what the method does; empty for a run of one objective.
        objective: what the loss of its steps is.
        unit: of that loss.
        held_out: the figure of `eval` events that is the same objective on held-out data.
        begin: the last step before it.
        end: its last step; infinite for the last phase.
    """

    name: str
    objective: str
    unit: str
    held_out: str
    begin: float
    end: float

    def of(self, events: Sequence[Event]) -> list[Event]:
        """Those of some events that belong to it."""
        return [event for event in events if self.begin < event.step <= self.end]


def phases(run: Run) -> list[Phase]:
    """The phases of a run in order, of which each has steps; one alone where no `phase` event says otherwise."""
    steps, events = run.of("step"), run.of("phase")
    ends = [*(event.step for event in events), float("inf")]
    parts = [Phase("base" if events else "", "loss", loss_unit(run), "loss", -1, ends[0])]
    parts += [_phase(event, end) for event, end in zip(events, ends[1:], strict=True)]
    return [part for part in parts if part.of(steps)]


def loss_unit(run: Run) -> str:
    """The unit of the loss of `eval` events."""
    values = run.evaluations()[-1].values if run.evaluations() else {}
    units = [measure.unit for measure in measured(values) if measure.name == "loss"]
    return units[0] if units else "nats per token"


def _phase(event: Event, end: float) -> Phase:
    words = [str(event.values.get(key, "")) for key in ("name", "objective", "unit", "held_out")]
    name, objective, unit, held_out = words
    return Phase(name, objective or "loss", unit, held_out, event.step, end)
