"""Several runs as curves of one figure: read quickly from their records, over steps, tokens, FLOPs or time.

Of a record only the events that are drawn are parsed, so that twenty long runs take a second.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from nanogrove.errors import RunError
from nanogrove.json_difference import differences, shown
from nanogrove.json_reading import BadJsonError
from nanogrove.model.config import ModelConfig
from nanogrove.model.size import flops_per_token
from nanogrove.record.events import Event, Values, event_of, lines_that_fit
from nanogrove.record.folder import read_preset
from nanogrove.record.measures import Measure, measured
from nanogrove.record.reading import times
from nanogrove.reports.lines import Line, line, noisy
from nanogrove.reports.values import finite, spread

TRAINING = Measure("training_loss", "training loss", "nats per token")  # the `loss` of `step` events
IRRELEVANT = ("name", "description")  # settings that change nothing
STEP_LINES = 20_000  # of all records, parsed at most: many more than a figure shows


@dataclass(frozen=True)
class Curve:
    """A run that is compared.

    Args:
        name: as the page calls it.
        preset: its settings.
        start: what its first event says.
        steps: its `step` events, or some of them, evenly spaced; none where no figure of them is drawn.
        evaluations: those on the validation split.
        flops: floating-point operations of a token; None where the preset does not say.
    """

    name: str
    preset: Values
    start: Values
    steps: Sequence[Event]
    evaluations: Sequence[Event]
    flops: float | None

    def events(self, measure: str) -> list[Event]:
        """Those that hold a measure."""
        if measure == TRAINING.name:
            return [event for event in self.steps if "loss" in event.values]
        return [event for event in self.evaluations if measure in event.values]


@dataclass(frozen=True)
class Axis:
    """What lies on the horizontal axis: its label, and where an event of a run lies on it."""

    label: str
    at: Callable[[Curve, Event], float | None]


def _tokens(curve: Curve, event: Event) -> float | None:
    return finite(event.values.get("seen" if event.kind == "eval" else "tokens"))


def _flops(curve: Curve, event: Event) -> float | None:
    tokens = _tokens(curve, event)
    return None if tokens is None or curve.flops is None else tokens * curve.flops


AXES: Mapping[str, Axis] = {
    "tokens": Axis("tokens", _tokens),
    "steps": Axis("steps", lambda curve, event: float(event.step)),
    "flops": Axis("FLOPs of a member", _flops),
    "time": Axis("training time, seconds", lambda curve, event: finite(times(event).get("seconds"))),
}


def read_curve(path: Path, name: str, steps: int) -> Curve:
    """A run, with at most so many of its `step` events. Raises RunError where it is damaged."""
    preset = read_preset(path) or {}
    lines = dict[str, list[str]](start=[], eval=[], step=[])
    try:
        for text in lines_that_fit(path / "events.jsonl"):
            kind = text[: text.find(",")].removeprefix('{"kind": "').removesuffix('"')
            if kind in lines and (kind != "step" or steps):
                lines[kind].append(text)
        chosen = lines["step"][:: -(-len(lines["step"]) // steps)] if lines["step"] else []
        start = [event_of(text) for text in lines["start"][:1]]
        evaluations = [event_of(text) for text in lines["eval"]]
        step_events = [event_of(text) for text in chosen]
    except (OSError, BadJsonError, ValueError) as error:
        raise RunError(f"{name}: events.jsonl is damaged ({error}); it is left out") from None
    values = start[0].values if start else {}
    on_validation = [event for event in evaluations if event.values.get("split", "validation") == "validation"]
    return Curve(name, preset, values, step_events, on_validation, _flops_per_token(preset, values))


def _flops_per_token(preset: Values, start: Values) -> float | None:
    model = preset.get("model")
    if isinstance(model, dict):
        with suppress(ValidationError, ValueError):
            return flops_per_token(ModelConfig.model_validate({**model, "vocab_size": start.get("vocabulary")}))
    return None


def measures_of(curves: Sequence[Curve]) -> dict[str, Measure]:
    """The measures that any of some runs has, by their names, the training loss last."""
    figures = [curve.evaluations[-1].values for curve in curves if curve.evaluations]
    known = {each.name: each for values in figures for each in measured(values) if not each.by and each.label}
    return {**known, TRAINING.name: TRAINING}


def differing_settings(curves: Sequence[Curve]) -> dict[str, list[str]]:
    """The settings in which runs differ, each with the value that every run has, as JSON."""
    changed = dict[str, dict[int, tuple[object, object]]]()
    for number, curve in enumerate(curves[1:], 1):
        for key, first, value in differences(curves[0].preset, curve.preset):
            changed.setdefault(key, {})[number] = (first, value)
    table = dict[str, list[str]]()
    for key, values in changed.items():
        first = next(iter(values.values()))[0]
        table[key] = [shown(values.get(number, (first, first))[1]) for number in range(len(curves))]
    return table


def groups_of(curves: Sequence[Curve], over: Sequence[str]) -> dict[str, list[Curve]]:
    """Runs by what tells them apart, once the settings `over` are left out; each alone where none is left out."""
    if not over:
        return {curve.name: [curve] for curve in curves}
    kept = {key: values for key, values in differing_settings(curves).items() if key not in (*over, *IRRELEVANT)}
    groups = dict[str, list[Curve]]()
    for number, curve in enumerate(curves):
        name = ", ".join(f"{key}={values[number]}" for key, values in kept.items())
        groups.setdefault(name, []).append(curve)
    return {f"{name or 'all'}: {len(group)} run{'s' * (len(group) > 1)}": group for name, group in groups.items()}


def lines_of(groups: Mapping[str, Sequence[Curve]], measure: str, axis: Axis, smooth: bool) -> list[Line]:
    """A line for each group of runs, by its name: their median, and of several a band."""
    return [each for name, group in groups.items() for each in _line(name, group, measure, axis, smooth)]


def _line(name: str, group: Sequence[Curve], measure: str, axis: Axis, smooth: bool) -> list[Line]:
    key = "loss" if measure == TRAINING.name else measure
    by_step = dict[int, list[tuple[float | None, object]]]()
    for curve in group:
        for event in curve.events(measure):
            by_step.setdefault(event.step, []).append((axis.at(curve, event), event.values.get(key)))
    x, y = list[float | None](), list[object]()
    for step in sorted(by_step):
        positions = [at for at, _ in by_step[step] if at is not None]
        x.append(median(positions) if positions else None)
        figures = [figure for _, figure in by_step[step]]
        y.append(figures[0] if len(group) == 1 else [spread(figure)[1] for figure in figures])
    return noisy(name, x, y)[-1:] if smooth else line(name, x, y)


def floors(groups: Mapping[str, Sequence[Curve]], measure: Measure, axis: Axis) -> list[Line]:
    """The best possible figures of groups of runs, as far as their evaluations know them.

    A line for each figure, or each course of it, with the groups that it belongs to in its name where it is not of all.
    """
    by_figure = dict[str, dict[str, Line]]()  # then by group
    for name, group in groups.items() if measure.reference else ():
        for each in _line(name, group, measure.reference, axis, smooth=False):
            figures = [each["y"], each.get("low", each["y"]), each.get("high", each["y"])]
            one = all(len(set(side)) == 1 for side in figures)
            by_figure.setdefault(repr([side[0] for side in figures] if one else figures), {})[name] = each
    return [_floor(_label(measure.reference_label, list(lines), len(groups)), lines) for lines in by_figure.values()]


def _label(label: str, names: Sequence[str], groups: int) -> str:
    """What a best possible figure is called: with the first of its groups, where it is not that of all."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return label if len(names) == groups else f"{label}: {names[0]}{more}"


def _floor(label: str, lines: Mapping[str, Line]) -> Line:
    """The line of a figure that some groups share, over all that these reach."""
    first, *others = lines.values()
    floor: Line = {**first, "name": label, "style": "reference"}
    if others:
        at = [at for each in lines.values() for at in each["x"]]
        floor["x"], floor["y"] = [min(at), max(at)], [first["y"][0]] * 2
        if "low" in first:
            floor["low"], floor["high"] = [first["low"][0]] * 2, [first["high"][0]] * 2
    return floor
