"""The pictures of auxiliary heads: their losses, the share of their gradients, and what they have learned."""

from nanogrove.record.measures import HEADS
from nanogrove.record.reading import Run
from nanogrove.reports.evaluations import titled
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line, Style, line, noisy
from nanogrove.reports.values import escaped

NAMES = {
    "value": "value",
    "value_imagined": "value, imagined",
    "dynamics_latent": "dynamics, latent",
    "dynamics_token": "dynamics, token",
    "span": "spans",
    "multi_token": "tokens ahead",
    "policy": "policy",
    "memory": "memory",
}  # of the parts of the loss
BASELINES = {measure.reference for measure in HEADS if measure.reference}


def heads(run: Run) -> str:
    """Part losses over tokens, shares of the gradient, and held-out measures; empty where no head was trained."""
    events = [event for event in run.of("auxiliary") if isinstance(event.values.get("shares"), dict)]
    if not events:
        return ""
    steps, seen = run.of("step"), [event.values.get("seen") for event in events]
    tokens = [event.values.get("tokens") for event in steps]
    losses, shares = [], []
    for part in NAMES:
        name = NAMES[part]
        losses += noisy(name, tokens, [event.values.get(part) for event in steps])
        shares += line(name, seen, [event.values["shares"].get(part) for event in events])
    least = line("idle below", seen, [events[-1].values.get("idle_below")] * len(events), "reference") if shares else []
    figures = [
        plot("Losses of heads, without their weights", "tokens", "loss", losses),
        plot("Gradient in the trunk, over the main loss's", "tokens", "ratio of norms", [*shares, *least], log_y=True),
    ]
    measured = [event.values.get("measures") for event in events]
    for measure in HEADS:
        lines = []
        for name in filter(None, (measure.name, measure.reference)):
            values = [each.get(name) if isinstance(each, dict) else None for each in measured]
            lines += _by_step(name, seen, values)
        figures.append(plot(titled(measure), "tokens", measure.unit or measure.label or measure.title, lines))
    idle = events[-1].values.get("idle")
    note = (
        f'<p class="note">Idle at the end: {escaped(", ".join(map(str, idle)))}</p>'
        if idle and isinstance(idle, list)
        else ""
    )
    pairs = [figures[n : n + 2] for n in range(0, len(figures), 2)]
    return f"<h2>Auxiliary heads</h2>{note}{rows(pairs)}"


def _by_step(name: str, seen: list[object], values: list[object]) -> list[Line]:
    """A line for each step ahead where values are lists, one per step; else one line."""
    style: Style = "reference" if name in BASELINES else "plain"
    label = name.replace("_", " ")
    if not any(isinstance(value, list) for value in values):
        return line(label, seen, values, style)
    lines, steps = [], max(len(value) for value in values if isinstance(value, list))
    for k in range(steps):
        each = [value[k] if isinstance(value, list) and len(value) > k else None for value in values]
        lines += line(f"{label}, {k + 1} ahead", seen, each, style)
    return lines
