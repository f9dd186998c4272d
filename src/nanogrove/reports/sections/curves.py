"""The curves of training, phase by phase, and of measures that have a title."""

from collections.abc import Callable, Sequence

from nanogrove.record.events import Event
from nanogrove.record.measures import pictured
from nanogrove.record.reading import Run, times
from nanogrove.reports.evaluations import evaluated
from nanogrove.reports.figures import Mark, plot, rows
from nanogrove.reports.lines import Line, line, noisy
from nanogrove.reports.phases import Phase, loss_unit, phases
from nanogrove.reports.values import capital, escaped, finite, spread

HOURS, MINUTES = ("hours", 3600.0), ("minutes", 60.0)
WIDE = 100.0  # between the least and the greatest value of a curve: from here on its axis is logarithmic


def curves(run: Run) -> str:
    """Loss over tokens and over time, phase by phase; then rate, gradient norm, throughput and measures over tokens."""
    steps, evaluations = run.of("step"), run.evaluations()
    if not steps:
        return "<h2>Curves</h2><p>No training step is recorded yet.</p>"
    known = phases(run)
    tokens, seen = over(steps, "tokens"), over(evaluations, "seen")
    marks = _marks(known, steps) if len(known) > 1 else []
    apart = any(phase.held_out != "loss" for phase in known)
    validation = line("validation", seen, over(evaluations, "loss")) if apart else []
    everywhere = "Validation loss, all phases" if len(known) > 1 else "Validation loss"
    norms = over(steps, "grad_norm")
    pictures = [_losses(phase, run, len(known) > 1) for phase in known]
    pictures += [
        [plot(everywhere, "tokens", loss_unit(run), validation, marks=marks)],
        [
            plot("Learning rate", "tokens", "learning rate", line("rate", tokens, over(steps, "lr")), marks=marks),
            plot(
                "Gradient norm",
                "tokens",
                "before clipping",
                _apart(known, steps, _norm),
                log_y=_wide(norms),
            ),
            plot("Tokens per second", "tokens", "tokens per second", _apart(known, steps, _speed)),
        ],
        [evaluated(measure, evaluations, "tokens", seen, marks) for measure in pictured()],
    ]
    notes = [_objectives(known)] if apart and len(known) > 1 else []
    if any(isinstance(event.values.get("loss"), list) for event in steps):
        notes.append("Lines are medians over the population; bands reach from lowest to highest.")
    body = rows(pictures)
    words = "".join(f'<p class="note">{escaped(note)}</p>' for note in notes)
    return f"<h2>Curves</h2>{words}{body}"


def over(events: Sequence[Event], name: str) -> list[object]:
    """The figures of one name, an event each."""
    return [event.values.get(name) for event in events]


def _losses(phase: Phase, run: Run, several: bool) -> list[str]:
    """The objective of one phase over tokens and over time, beside the same on held-out data."""
    steps, evaluations = phase.of(run.of("step")), phase.of(run.evaluations())
    main = "next_token" if "next_token" in steps[-1].values else "loss"  # beside auxiliary heads loss is their sum
    train, held_out = over(steps, main), over(evaluations, phase.held_out)
    clock = [finite(times(event).get("seconds")) for event in (*steps, *evaluations)]
    unit, size = _unit(clock)
    scaled = [None if seconds is None else seconds / size for seconds in clock]
    by_tokens = [
        *noisy("train", over(steps, "tokens"), train),
        *line("validation", over(evaluations, "seen"), held_out),
    ]
    by_time = [*noisy("train", scaled[: len(steps)], train), *line("validation", scaled[len(steps) :], held_out)]
    title = f"{capital(phase.name)}: {phase.objective}" if several else capital(phase.objective)
    return [
        plot(f"{title} over tokens", "tokens", phase.unit or "loss", by_tokens),
        plot(f"{title} over time", f"training time, {unit}", phase.unit or "loss", by_time),
    ]


def _norm(step: Event) -> object:
    return step.values.get("grad_norm")


def _speed(step: Event) -> object:
    return times(step).get("tokens_per_second")


def _apart(known: Sequence[Phase], steps: Sequence[Event], figure: Callable[[Event], object]) -> list[Line]:
    """A figure of each step over tokens, a line for each phase."""
    parts = [(phase.name or "each step", phase.of(steps)) for phase in known]
    return [
        drawn for name, part in parts for drawn in noisy(name, over(part, "tokens"), [figure(step) for step in part])
    ]


def _unit(clock: Sequence[float | None]) -> tuple[str, float]:
    """What a time is shown in, and how many seconds that is."""
    longest = max((seconds for seconds in clock if seconds is not None), default=0.0)
    return next((unit for unit in (HOURS, MINUTES) if longest >= 5 * unit[1]), ("seconds", 1.0))


def _marks(known: Sequence[Phase], steps: Sequence[Event]) -> list[Mark]:
    """Where each phase but the first begins, in tokens."""
    begins = [
        (phase.name, max((event for event in steps if event.step <= phase.begin), key=lambda e: e.step, default=None))
        for phase in known[1:]
    ]
    tokens = [(name, finite(event.values.get("tokens"))) for name, event in begins if event is not None]
    return [Mark(at, name) for name, at in tokens if at is not None]


def _wide(values: Sequence[object]) -> bool:
    """Whether values are positive and far apart."""
    numbers = [number for value in values for number in spread(value) if number is not None]
    return bool(numbers) and min(numbers) > 0 and max(numbers) > WIDE * min(numbers)


def _objectives(known: Sequence[Phase]) -> str:
    """What each phase learns from, since their losses cannot be compared."""
    listed = "; ".join(f"{phase.name}, {phase.objective} ({phase.unit})" for phase in known)
    return f"Each phase has an objective of its own, so its loss is drawn apart: {listed}."
