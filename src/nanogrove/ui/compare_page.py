"""The page that compares runs: one figure, one table of how they ended, one of the settings that differ.

All that is chosen is in the address, so that a link shows the same again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import QueryParams

from nanogrove.errors import RunError
from nanogrove.record.measures import Measure
from nanogrove.reports.evaluations import titled
from nanogrove.reports.figures import plot
from nanogrove.reports.tables import cut, wide_table
from nanogrove.reports.values import UNKNOWN, duration, escaped, quantity, short, spread
from nanogrove.ui.curves import (
    AXES,
    IRRELEVANT,
    STEP_LINES,
    TRAINING,
    Curve,
    differing_settings,
    floors,
    groups_of,
    lines_of,
    measures_of,
    read_curve,
)
from nanogrove.ui.frame import alert

MAX_RUNS = 50
MAX_FLOORS = 8  # lines of best possible figures
VALUE_CHARACTERS = 200  # of a setting


@dataclass(frozen=True)
class Choice:
    """What a person wants to see.

    Args:
        runs: names of runs.
        studies: names of studies, whose runs are compared too.
        x: a key of AXES.
        y: the name of a measure; empty for the first that the runs have.
        smooth: whether a running mean is drawn.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        over: settings; runs that differ in these alone are one line, their median with a band.
    """

    runs: tuple[str, ...]
    studies: tuple[str, ...]
    x: str
    y: str
    smooth: bool
    log_x: bool
    log_y: bool
    over: tuple[str, ...]


def choice_of(words: QueryParams) -> Choice:
    """What an address asks for."""
    flags = {name: words.get(name) == "on" for name in ("smooth", "log_x", "log_y")}
    x, y = words.get("x", ""), words.get("y", "")
    runs, studies = (tuple(dict.fromkeys(words.getlist(name))) for name in ("run", "study"))
    over = words.getlist("over") or (["seed"] if studies else [])
    return Choice(runs, studies, x if x in AXES else "tokens", y, over=tuple(over), **flags)


def compare_page(choice: Choice, paths: Mapping[str, Path], problems: Sequence[str], verdicts: str = "") -> str:
    """The body of the page of a choice.

    Args:
        choice: what is asked for.
        paths: the folders of the runs, by their names.
        problems: why others are left out.
        verdicts: HTML of what the studies of the runs say.
    """
    if len(paths) > MAX_RUNS:
        problems = [*problems, f"the first {MAX_RUNS} of {len(paths)} runs are shown; choose fewer"]
        paths = dict(list(paths.items())[:MAX_RUNS])
    curves, wrong = _read(paths, 0)
    title = f"<h1>Compare</h1>{''.join(map(alert, (*problems, *wrong)))}"
    if not curves:
        return f'{title}<p>No run is chosen. Choose some in <a href="/">the list</a>, then “Compare”.</p>'
    known = measures_of(curves)
    measure = known.get(choice.y) or next(iter(known.values()))
    if measure is TRAINING:
        curves, _ = _read(paths, STEP_LINES // len(paths))
    settings = differing_settings(curves)
    over = [key for key in choice.over if key in settings]
    groups = groups_of(curves, over)
    lines = lines_of(groups, measure.name, AXES[choice.x], choice.smooth)
    best = floors(groups, measure, AXES[choice.x])
    if len(best) <= MAX_FLOORS:
        lines += best
    label, unit = AXES[choice.x].label, measure.unit or measure.label
    figure = plot(titled(measure), label, unit, lines, log_x=choice.log_x, log_y=choice.log_y)
    hidden = ""
    if len(best) > MAX_FLOORS:
        hidden = (
            f"<p class='note'>The best possible figures of these lines are {len(best):,}, too many to draw; choose "
            "fewer runs to see them.</p>"
        )
    missing = f'<p class="empty">No chosen run has a figure of {escaped(measure.label)} over {escaped(label)}.</p>'
    return (
        f"{title}{_form(choice, curves, known, measure, settings)}"
        f'<div id="live"><section id="figure" class="compared">{figure or missing}</section></div>'
        f"{hidden}{verdicts}{_ends(curves, measure)}{_settings(curves, settings)}"
    )


def _read(paths: Mapping[str, Path], steps: int) -> tuple[list[Curve], list[str]]:
    """Runs with so many of their steps, at most, and why others cannot be read."""
    curves, problems = list[Curve](), list[str]()
    for name, path in paths.items():
        try:
            curves.append(read_curve(path, name, steps))
        except RunError as error:
            problems.append(str(error))
    return curves, problems


def _form(
    choice: Choice,
    curves: Sequence[Curve],
    known: Mapping[str, Measure],
    measure: Measure,
    settings: Mapping[str, object],
) -> str:
    """What can be chosen."""
    axes = "".join(_option(name, axis.label, name == choice.x) for name, axis in AXES.items())
    measures = "".join(_option(each.name, each.label, each.name == measure.name) for each in known.values())
    flags = (
        ("smooth", "Running mean", choice.smooth),
        ("log_x", "Logarithmic across", choice.log_x),
        ("log_y", "Logarithmic up", choice.log_y),
    )
    boxes = "".join(_box(name, "on", label, checked) for name, label, checked in flags)
    keys = "".join(_box("over", key, key, key in choice.over) for key in settings if key not in IRRELEVANT)
    over = f"<fieldset><legend>Median and band over</legend>{keys}</fieldset>" if keys else ""
    runs = "".join(_box("run", curve.name, curve.name, True) for curve in curves)
    return (
        f'<form class="choice" action="/compare"><p><label for="y">Measure</label> <select id="y" name="y">{measures}'
        f'</select> <label for="x">over</label> <select id="x" name="x">{axes}</select></p>'
        f"<p>{boxes}</p><fieldset><legend>Runs</legend>{runs}</fieldset>{over}<button>Draw</button></form>"
    )


def _option(value: str, label: str, chosen: bool) -> str:
    return f'<option value="{escaped(value)}"{" selected" if chosen else ""}>{escaped(label)}</option>'


def _box(name: str, value: str, label: str, checked: bool) -> str:
    state = " checked" if checked else ""
    box = f'<input type="checkbox" name="{name}" value="{escaped(value)}"{state}>'
    return f'<label class="box">{box} <bdi>{escaped(label)}</bdi></label> '


def _ends(curves: Sequence[Curve], measure: Measure) -> str:
    """The table of how far runs came and how good they are."""
    rows = []
    for curve in curves:
        events = curve.events(measure.name)
        last = events[-1] if events else None
        key = "loss" if measure is TRAINING else measure.name
        figures = [middle for event in events if (middle := spread(event.values.get(key))[1]) is not None]
        best = min(figures, key=measure.cost) if figures else None
        at = {name: axis.at(curve, last) if last else None for name, axis in AXES.items()}
        amounts = [short(at["tokens"]), short(at["flops"]), UNKNOWN if at["time"] is None else duration(at["time"])]
        now = quantity(last.values.get(key)) if last else UNKNOWN
        rows.append((curve.name, f"{last.step:,}" if last else "", *amounts, now, quantity(best)))
    label = measure.label
    titles = ("run", "steps", "tokens", "FLOPs", "time", f"last {label}", f"best {label}")
    return f"<h2>Figures</h2>{wide_table('Figures of the runs', titles, rows)}"


def _settings(curves: Sequence[Curve], settings: Mapping[str, Sequence[str]]) -> str:
    """The table of the settings in which runs differ."""
    rows = [(key, *(cut(value, VALUE_CHARACTERS) for value in values)) for key, values in settings.items()]
    table = wide_table("Settings that differ", ("setting", *(curve.name for curve in curves)), rows)
    return f"<h2>Settings that differ</h2>{table or '<p>None.</p>'}"
