"""Text that the model wrote."""

from nanogrove.record.events import Event
from nanogrove.record.reading import Run
from nanogrove.reports.figures import escaped

OLDER_SAMPLES = 50  # kept in the page besides the latest


def samples(run: Run) -> str:
    """Text written by the model: that of the latest step in view, the older ones folded away."""
    events = run.of("sample")
    latest = [event for event in events if event.step == events[-1].step]
    older = [event for event in events if event.step != events[-1].step][::-1]
    body = "".join(_sample(event) for event in latest)
    if older:
        left_out = len(older) - OLDER_SAMPLES
        more = f"<p>{left_out:,} more are in events.jsonl.</p>" if left_out > 0 else ""
        folded = "".join(_sample(event) for event in older[:OLDER_SAMPLES])
        body += f"<details><summary>{len(older):,} from earlier steps</summary>{folded}{more}</details>"
    return f"<h2>Samples</h2>{body}"


def _sample(event: Event) -> str:
    prompt = event.values.get("prompt")
    caption = f"Step {event.step:,}" + (f", prompt: {escaped(prompt)}" if prompt else "")
    text = escaped(event.values.get("text", ""))
    # The parser drops one newline right after <pre>, so the text's own first newline needs one to be dropped.
    return f'<p class="made">{caption}</p><pre dir="auto">\n{text}</pre>'
