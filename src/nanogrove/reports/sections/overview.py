"""The head of a report: what was trained, and how good it is."""

from nanogrove.record.measures import headlines
from nanogrove.record.reading import Run, times
from nanogrove.reports.figures import duration, escaped, finite, quantity, short


def overview(run: Run) -> str:
    """Title, how the run was made, and one line of key figures."""
    start, step, end = (run.last(kind) for kind in ("start", "step", "end"))
    finished = bool(run.of("end"))
    result = {**(run.evaluations() or [end])[-1].values, **end.values}
    scored = {measure.label: quantity(result.get(measure.name)) for measure in headlines()}
    loss = f"{result.get('split') or 'validation'} loss" if finished else "validation loss so far"
    figures = {
        loss: scored.pop("loss"),
        **scored,
        "training tokens": short(finite({**step.values, **end.values}.get("tokens"))),
        "training time": duration(finite({**times(step), **times(end)}.get("seconds"))),
        "parameters": short(finite(start.values.get("parameters"))),
    }
    cells = "".join(
        f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}</dd></div>" for label, value in figures.items()
    )
    settings = [str(start.values[key]) for key in ("method", "device", "precision") if start.values.get(key)]
    settings += [f"seed {start.values['seed']}"] if "seed" in start.values else []
    settings += [f"{max(step.step, end.step):,} steps"]
    badge = "" if finished else ' <span class="badge">unfinished</span>'
    return f'<h1>{escaped(run.name)}{badge}</h1><p class="made">{escaped(", ".join(settings))}</p><dl>{cells}</dl>'
