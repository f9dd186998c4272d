"""The pictures of auxiliary heads: their losses, the share of their gradients, and what they have learned."""

from nanogrove.record.measures import HEADS
from nanogrove.record.reading import Run
from nanogrove.reports.figures import Line, escaped, line, plot

PARTS = ("value", "value_imagined", "dynamics_latent", "dynamics_token", "span", "multi_token", "policy", "memory")
BASELINES = {measure.reference for measure in HEADS if measure.reference}


def heads(run: Run) -> str:
    """Part losses over tokens, shares of the gradient, and held-out measures; empty where no head was trained."""
    events = [event for event in run.of("auxiliary") if isinstance(event.values.get("shares"), dict)]
    if not events:
        return ""
    steps, seen = run.of("step"), [event.values.get("seen") for event in events]
    tokens = [event.values.get("tokens") for event in steps]
    losses, shares = [], []
    for part in PARTS:
        losses += line(part, tokens, [event.values.get(part) for event in steps])
        shares += line(part, seen, [event.values["shares"].get(part) for event in events])
    least = (
        line("idle below", seen, [events[-1].values.get("idle_below")] * len(events), reference=True) if shares else []
    )
    figures = [
        plot("Losses of heads, without their weights", "tokens", losses),
        plot("Gradient in the trunk, over the main loss's", "tokens", [*shares, *least], log_y=True),
    ]
    measured = [event.values.get("measures") for event in events]
    for measure in HEADS:
        lines = []
        for name in filter(None, (measure.name, measure.reference)):
            values = [each.get(name) if isinstance(each, dict) else None for each in measured]
            lines += _by_step(name, seen, values)
        figures.append(plot(measure.title, "tokens", lines))
    idle = events[-1].values.get("idle")
    note = (
        f'<p class="made">Idle at the end: {escaped(", ".join(map(str, idle)))}</p>'
        if idle and isinstance(idle, list)
        else ""
    )
    pairs = [figures[n : n + 2] for n in range(0, len(figures), 2)]
    rows = "".join(f'<div class="row">{"".join(pair)}</div>' for pair in pairs if any(pair))
    return f"<h2>Auxiliary heads</h2>{note}{rows}"


def _by_step(name: str, seen: list[object], values: list[object]) -> list[Line]:
    """A line for each step ahead where values are lists, one per step; else one line."""
    reference = name in BASELINES
    if not any(isinstance(value, list) for value in values):
        return line(name, seen, values, reference=reference)
    lines, steps = [], max(len(value) for value in values if isinstance(value, list))
    for k in range(steps):
        each = [value[k] if isinstance(value, list) and len(value) > k else None for value in values]
        lines += line(f"{name}, {k + 1}", seen, each, reference=reference)
    return lines
