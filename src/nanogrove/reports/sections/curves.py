"""The curves of training, and of measures that have a title."""

from collections.abc import Sequence

from nanogrove.record.events import Event
from nanogrove.record.measures import pictured
from nanogrove.record.reading import Run, times
from nanogrove.reports.figures import line, plot


def curves(run: Run) -> str:
    """Loss over tokens and over time, then learning rate, gradient norm, throughput and measures over tokens."""
    steps, evaluations = run.of("step"), run.evaluations()
    if not steps:
        return "<h2>Curves</h2><p>No training step is recorded yet.</p>"

    def over(events: Sequence[Event], name: str) -> list[object]:
        return [event.values.get(name) for event in events]

    def clock(events: Sequence[Event], name: str) -> list[object]:
        return [times(event).get(name) for event in events]

    tokens, seen = over(steps, "tokens"), over(evaluations, "seen")
    main = "next_token" if "next_token" in steps[-1].values else "loss"  # beside auxiliary heads loss is their sum
    train, validation = over(steps, main), over(evaluations, "loss")
    by_tokens = [*line("train", tokens, train), *line("validation", seen, validation)]
    by_time = [
        *line("train", clock(steps, "seconds"), train),
        *line("validation", clock(evaluations, "seconds"), validation),
    ]
    wide = [plot("Loss over tokens", "tokens", by_tokens), plot("Loss over time", "seconds", by_time)]
    small = [
        plot("Learning rate", "tokens", line("lr", tokens, over(steps, "lr"))),
        plot("Gradient norm", "tokens", line("gradient norm", tokens, over(steps, "grad_norm"))),
        plot("Tokens per second", "tokens", line("tokens/s", tokens, clock(steps, "tokens_per_second"))),
    ]
    note = '<p class="made">Lines are medians over the population; bands reach from lowest to highest.</p>'
    titled = [
        plot(measure.title, "tokens", line(measure.label, seen, over(evaluations, measure.name)))
        for measure in pictured()
    ]
    rows = "".join(f'<div class="row">{"".join(row)}</div>' for row in (wide, small, titled) if row)
    return f"<h2>Curves</h2>{note if any(isinstance(loss, list) for loss in train) else ''}{rows}"
