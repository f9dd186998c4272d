"""The pictures of a mixture: what each source was given, and the loss on it."""

from nanogrove.record.reading import Run
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line, line

MAX_SOURCES_DRAWN = 12


def sources(run: Run) -> str:
    """The loss on each of several sources of text, its share of the tokens and, where they adapt, the weights."""
    events = [event for event in run.of("sources") if isinstance(event.values.get("names"), list)]
    if not events:
        return ""
    seen = [event.values.get("seen") for event in events]
    names = [str(name) for name in events[-1].values["names"]][:MAX_SOURCES_DRAWN]

    def over(key: str) -> list[Line]:
        lines = []
        for number, name in enumerate(names):
            values = [event.values.get(key) for event in events]
            lines += line(name, seen, [v[number] if isinstance(v, list) and len(v) > number else None for v in values])
        return lines

    row = [
        plot("Training loss by source", "tokens", "nats per token", over("loss")),
        plot("Share of the tokens", "tokens", "share", over("share")),
        plot("Weights from here on", "tokens", "weight", over("weights")),
        plot("Passes over each source", "tokens", "passes", over("passes")),
    ]
    left_out = len(events[-1].values["names"]) - len(names)
    note = f'<p class="note">{left_out:,} more sources are in events.jsonl.</p>' if left_out > 0 else ""
    return f"<h2>Sources</h2>{note}{rows([row])}"
