"""The pictures of auxiliary heads: their losses, the share of their gradients, and what they have learned."""

from typing import Any

from nanogrove.record.reading import Run
from nanogrove.reports.figures import escaped, line, plot

PARTS = ("value", "value_imagined", "dynamics_latent", "dynamics_token", "span", "multi_token", "policy", "memory")
BASELINES = {"latent_copying", "span_chance", "policy_kl_of_model"}
MEASURES = {
    "Value: share of the variance explained": ("value_r2",),
    "Value: error, nats a token": ("value_error",),
    "Dynamics: cosine with the true state, k steps on": ("latent_cosine", "latent_copying"),
    "Spans told from the batch's others": ("span_accuracy", "span_chance"),
    "Tokens ahead: accuracy": ("multi_token_accuracy",),
    "Tokens ahead: loss": ("multi_token_loss",),
    "Policy: KL from its target": ("policy_kl", "policy_kl_of_model"),
    "Policy: entropy, nats": ("policy_entropy",),
    "Memory: loss of the segment before": ("memory_loss",),
    "Memory: accuracy on the segment before": ("memory_accuracy",),
}


def heads(run: Run) -> str:
    """Part losses over tokens, shares of the gradient, and held-out measures; empty where no head was trained."""
    told = [event for event in run.of("auxiliary") if isinstance(event.values.get("shares"), dict)]
    if not told:
        return ""
    steps, seen = run.of("step"), [event.values.get("seen") for event in told]
    tokens = [event.values.get("tokens") for event in steps]
    losses, shares = [], []
    for part in PARTS:
        losses += line(part, tokens, [event.values.get(part) for event in steps])
        shares += line(part, seen, [event.values["shares"].get(part) for event in told])
    least = line("idle below", seen, [told[-1].values.get("idle_below")] * len(told), reference=True) if shares else []
    figures = [
        plot("Losses of heads, without their weights", "tokens", losses),
        plot("Gradient in the trunk, over the main loss's", "tokens", [*shares, *least], log_y=True),
    ]
    measured = [event.values.get("measures") for event in told]
    for title, names in MEASURES.items():
        lines = []
        for name in names:
            values = [found.get(name) if isinstance(found, dict) else None for found in measured]
            lines += _by_step(name, seen, values)
        figures.append(plot(title, "tokens", lines))
    idle = told[-1].values.get("idle")
    note = (
        f'<p class="made">Idle at the end: {escaped(", ".join(map(str, idle)))}</p>'
        if idle and isinstance(idle, list)
        else ""
    )
    pairs = [figures[n : n + 2] for n in range(0, len(figures), 2)]
    rows = "".join(f'<div class="row">{"".join(pair)}</div>' for pair in pairs if any(pair))
    return f"<h2>Auxiliary heads</h2>{note}{rows}"


def _by_step(name: str, seen: list[Any], values: list[Any]) -> list[dict[str, Any]]:
    """A line for each step ahead where values are lists, one a step; else one line."""
    reference = name in BASELINES
    if not any(isinstance(value, list) for value in values):
        return line(name, seen, values, reference=reference)
    lines, steps = [], max(len(value) for value in values if isinstance(value, list))
    for k in range(steps):
        each = [value[k] if isinstance(value, list) and len(value) > k else None for value in values]
        lines += line(f"{name}, {k + 1}", seen, each, reference=reference)
    return lines
