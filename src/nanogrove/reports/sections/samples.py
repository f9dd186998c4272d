"""Text that the model wrote."""

from nanogrove.record.events import Event
from nanogrove.record.reading import Run
from nanogrove.reports.values import escaped

OLDER_SAMPLES = 50  # in the page besides the latest
TEXT_LENGTH = 20_000  # of one sample, in characters
OLDER_LENGTH = 60_000  # of all older samples


def samples(run: Run) -> str:
    """Text written by the model: that of the latest step in view, the older ones folded away."""
    events = run.of("sample")
    latest = [event for event in events if event.step == events[-1].step]
    older = [event for event in events if event.step != events[-1].step][::-1]
    body = "".join(_sample(event) for event in latest)
    if older:
        shown = _first(older[:OLDER_SAMPLES], OLDER_LENGTH)
        left_out = len(older) - len(shown)
        more = f"<p>{left_out:,} more are in events.jsonl.</p>" if left_out > 0 else ""
        folded = "".join(_sample(event) for event in shown)
        body += f"<details><summary>{len(older):,} from earlier steps</summary>{folded}{more}</details>"
    return f"<h2>Samples</h2>{body}"


def _first(events: list[Event], length: int) -> list[Event]:
    """The first of some samples, as many as have no more than this number of characters together."""
    shown = []
    for event in events:
        length -= len(str(event.values.get("text"))[:TEXT_LENGTH]) + len(str(event.values.get("prompt")))
        if length < 0:
            break
        shown.append(event)
    return shown


def _sample(event: Event) -> str:
    prompt = event.values.get("prompt")
    caption = f"Step {event.step:,}" + (f", prompt: <bdi>{escaped(prompt)}</bdi>" if prompt else "")
    return f'<p class="note">{caption}</p>{text(event.values.get("text"))}'


def text(value: object) -> str:
    """What a model wrote, as it is; the first TEXT_LENGTH characters, and a word where there is nothing."""
    written = "" if value is None else str(value)
    if not written:
        return '<p class="empty">(empty)</p>'
    more = len(written) - TEXT_LENGTH
    further = f'<p class="empty">({more:,} more characters are in events.jsonl)</p>' if more > 0 else ""
    # The parser drops one newline right after <pre>, so the text's own first newline needs one to be dropped.
    return f'<pre dir="auto">\n{escaped(written[:TEXT_LENGTH])}</pre>{further}'
