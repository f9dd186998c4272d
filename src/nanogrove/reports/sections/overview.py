"""The head of a report: what was trained, and how good it is."""

from nanogrove.record.events import Values
from nanogrove.record.measures import Measure, measured
from nanogrove.record.reading import Run, times
from nanogrove.reports.tables import key_figures
from nanogrove.reports.values import UNKNOWN, decimal, duration, escaped, finite, quantity, short


def overview(run: Run) -> str:
    """Title, how the run was made, and one line of key figures, of which those that are not known are left out."""
    start, step, end = (run.last(kind) for kind in ("start", "step", "end"))
    finished = bool(run.of("end"))
    result = run.result()
    figures = [
        *(key_figure(measure, result, finished) for measure in measured(result) if measure.headline and not measure.by),
        ("training tokens", short(finite({**step.values, **end.values}.get("tokens"))), ""),
        ("training time", duration(finite({**times(step), **times(end)}.get("seconds"))), ""),
        ("parameters", short(finite(start.values.get("parameters"))), ""),
    ]
    settings = [str(start.values[key]) for key in ("method", "device", "precision", "scored") if start.values.get(key)]
    settings += [f"seed {start.values['seed']}"] if "seed" in start.values else []
    settings += [f"{max(step.step, end.step):,} steps"]
    badge = "" if finished else ' <span class="badge">unfinished</span>'
    head = f'<h1><bdi>{escaped(run.name)}</bdi>{badge}</h1><p class="note">{escaped(", ".join(settings))}</p>'
    return head + key_figures(figure for figure in figures if figure[1] != UNKNOWN)


def key_figure(measure: Measure, result: Values, finished: bool) -> tuple[str, str, str]:
    """A label, a figure with its standard error, and its unit, direction and the best there is."""
    label = measure.label or measure.name
    if measure.name == "loss":
        label = f"{result.get('split') or 'validation'} loss" if finished else "validation loss so far"
    value = quantity(result[measure.name], measure.digits)
    error, reference = finite(result.get(measure.error)), finite(result.get(measure.reference))
    value += "" if error is None else f" ± {decimal(error, measure.digits)}"
    unit = "" if measure.unit == label else measure.unit
    about = [unit, f"{measure.better} is better", ""]
    if reference is not None:
        about[-1] = f"{measure.reference_label} {decimal(reference, measure.digits)}"
    return label, value, ", ".join(filter(None, about))
