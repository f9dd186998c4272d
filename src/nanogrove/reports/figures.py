"""Figures of a report, as HTML: `plot` draws lines and bars, `heatmap` colours a grid, `forest` has
intervals in rows.

A figure is its caption, a legend, a place that the page's script draws into, and its data as a JSON block, which no
browser executes. Names and numbers are data there; the caption, the legend and a description are escaped text.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nanogrove.reports.lines import FIGURE_POINTS, LINE_POINTS, Line, Numbers, thinned
from nanogrove.reports.values import escaped, finite, rounded

COLOURS = 6  # of lines, as in page.css; with more lines they are dashed
CLASSES = {"reference": "dotted", "points": "points"}  # of a style in a legend
LABEL_LENGTH = 20  # characters of a name beside a row
DESCRIBED_LINES = 6  # at most, in the description of a figure


class Mark(NamedTuple):
    """Something that begins at `x`: a vertical line in a figure, and its name in the legend."""

    x: float
    name: str


class Interval(NamedTuple):
    """A row of a forest plot: a mean with its interval, whose ends are None where it has none, and what it is of."""

    name: str
    mean: float
    low: float | None
    high: float | None
    points: Sequence[float]


def plot(
    title: str,
    x_label: str,
    y_label: str,
    lines: Iterable[Line],
    *,
    log_x: bool = False,
    log_y: bool = False,
    zero: bool = False,
    marks: Sequence[Mark] = (),
) -> str:
    """A figure of lines; empty when there are none.

    Args:
        title: the caption.
        x_label: what lies on the horizontal axis, with its unit.
        y_label: what lies on the vertical axis, with its unit.
        lines: as `lines.line` and its siblings give them.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        zero: whether the vertical axis reaches to 0, and a line is there.
        marks: where phases begin; those outside of the lines are left out.
    """
    drawn = list(lines)
    if not drawn:
        return ""
    points = min(LINE_POINTS, max(FIGURE_POINTS // len(drawn), 60))
    first, last = (end(x for each in drawn for x in each["x"]) for end in (min, max))
    shown = [mark for mark in marks if first < mark.x < last]
    spec = {
        "x": x_label,
        "y": y_label,
        "log_x": log_x,
        "log_y": log_y,
        "zero": zero,
        "lines": [_compact(thinned(each, points)) for each in drawn],
        "colours": _colours(drawn),
        "marks": [rounded(mark.x) for mark in shown],
    }
    return _figure(title, _described(drawn, x_label), _legend(drawn, shown), spec)


def heatmap(title: str, x_label: str, y_label: str, cells: Iterable[tuple[object, object, object]]) -> str:
    """A figure of shares from 0 to 1, a coloured cell for each `(x, y, share)`; empty when there are none.

    A cell whose share is NaN, infinite or not a number is left blank; one without a finite x and y is left out.
    """
    shares = {
        (at, height): finite(share)
        for x, y, share in cells
        if (at := finite(x)) is not None and (height := finite(y)) is not None
    }
    known = [share for share in shares.values() if share is not None]
    if not known:
        return ""
    across, up = sorted({x for x, _ in shares}), sorted({y for _, y in shares})
    rows = [[None if (share := shares.get((x, y))) is None else rounded(share) for x in across] for y in up]
    grid = {"x": [f"{x:g}" for x in across], "y": [f"{y:g}" for y in up], "z": rows}
    described = f"shares from {min(known):.2f} to {max(known):.2f} in {len(across)} columns of {x_label}"
    return _figure(title, described, "", {"x": x_label, "y": y_label, "lines": [], "heat": grid})


def forest(title: str, x_label: str, intervals: Sequence[Interval]) -> str:
    """A figure with a row for each interval, and a line at 0; empty when there are none."""
    if not intervals:
        return ""
    described = [f"{each.name} {each.mean:.4g}{_reach(each)}" for each in intervals]
    drawn = []
    for each, text in zip(intervals, described, strict=True):
        low, mean, high, *points = _short([each.low, each.mean, each.high, *each.points])
        row = {"label": _label(each.name), "low": low, "mean": mean, "high": high, "points": points, "described": text}
        drawn.append({"name": each.name, **row})
    spec: dict[str, object] = {"x": x_label, "y": "", "lines": [], "forest": drawn}
    return _figure(title, "; ".join(described[:DESCRIBED_LINES]), "", spec)


def _reach(interval: Interval) -> str:
    known = interval.low is not None and interval.high is not None
    return f" ({interval.low:.4g} to {interval.high:.4g})" if known else ""


def _label(name: str) -> str:
    """A name that leaves room for the figure beside it: its beginning and its end."""
    half = LABEL_LENGTH // 2
    return name if len(name) <= LABEL_LENGTH else f"{name[:half]}…{name[-half:]}"


def rows(figures: Iterable[Sequence[str]]) -> str:
    """Figures in rows, each as wide as it can be; empty where there are none."""
    return "".join(f'<div class="row">{"".join(row)}</div>' for row in figures if any(row))


def _figure(title: str, described: str, legend: str, spec: dict[str, object]) -> str:
    data = json.dumps(spec, allow_nan=False, separators=(",", ":"))
    # A data block still ends at the first "</script", and "<!--" changes how it is read: no "<" may be left.
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    label = escaped(f"{title}: {described}")
    return (
        f'<figure><figcaption>{escaped(title)}</figcaption>{legend}<div role="img" aria-label="{label}"></div>'
        f'<script type="application/json">{data}</script></figure>'
    )


def _compact(drawn: Line) -> Line:
    """A line in as many digits as a screen shows."""
    compact: Line = {**drawn, "x": [rounded(x, 7) for x in drawn["x"]], "y": _short(drawn["y"])}
    if "low" in drawn:
        compact["low"], compact["high"] = _short(drawn["low"]), _short(drawn["high"])
    return compact


def _short(numbers: Numbers) -> Numbers:
    return [None if number is None else rounded(number) for number in numbers]


def _colours(lines: Sequence[Line]) -> list[int]:
    """The number of each line's colour; a faint one has that of the next."""
    return [sum(each["style"] != "faint" for each in lines[:n]) for n in range(len(lines))]


def _legend(lines: Sequence[Line], marks: Sequence[Mark]) -> str:
    """Names of the lines, each a switch, where there are several; what is smoothed; and names of the marks."""
    entries = [
        f'<li><button type="button" aria-pressed="true" class="colour-{colour % COLOURS} {_dash(line, colour)}">'
        f"<bdi>{escaped(line['name'])}</bdi></button></li>"
        for line, colour in zip(lines, _colours(lines), strict=True)
        if line["style"] != "faint"
    ]
    entries = entries if len(entries) > 1 else []
    windows = sorted({line["window"] for line in lines if "window" in line})
    entries += [f"<li>faint: each step; bold: mean of {' or '.join(map(str, windows))}</li>"] if windows else []
    entries += [f'<li class="mark">from here: <bdi>{escaped(mark.name)}</bdi></li>' for mark in marks]
    return f"<ul>{''.join(entries)}</ul>" if entries else ""


def _dash(line: Line, colour: int) -> str:
    if line["style"] in CLASSES:
        return CLASSES[line["style"]]
    return "solid" if colour < COLOURS else "dashed"


def _described(lines: Sequence[Line], x_label: str) -> str:
    """Where lines begin and end, for those who cannot see them."""
    sentences = []
    for line in [each for each in lines if each["style"] != "faint"][:DESCRIBED_LINES]:
        known = [(x, y) for x, y in zip(line["x"], line["y"], strict=True) if y is not None]
        (first, begin), (last, end) = known[0], known[-1]
        change = f"{begin:.4g}" if len(known) == 1 else f"from {begin:.4g} to {end:.4g}"
        where = f"at {x_label} {first:.6g}" + ("" if len(known) == 1 else f" to {last:.6g}")
        sentences.append(f"{line['name']} {change} {where}")
    return "; ".join(sentences)
