"""Figures and values of a report, as HTML: `line` thins data to what a screen can tell apart, `plot` draws lines,
`heatmap` colours a grid.

What goes into a page passes through `escaped`, or stands in a JSON block that no browser executes.
"""

import html
import json
import statistics
from collections.abc import Iterable, Sequence
from typing import NotRequired, TypedDict

MAX_POINTS = 2000  # of one line; more cannot be told apart on a screen and makes the page slow
UNKNOWN = "n/a"


class Line(TypedDict):
    """One line of a figure, with a band from `low` to `high` where it has one."""

    name: str
    reference: bool  # dotted
    x: list[float]
    y: list[float | None]
    low: NotRequired[list[float | None]]
    high: NotRequired[list[float | None]]


Point = tuple[object, object]


def plot(title: str, x_label: str, lines: Iterable[Line], logarithmic: bool = False, log_y: bool = False) -> str:
    """A figure of the lines that `line` and `links` made, over one axis; empty when there are none."""
    drawn = list(lines)
    return _figure(title, {"x": x_label, "log": logarithmic, "log_y": log_y, "lines": drawn}) if drawn else ""


def heatmap(title: str, x_label: str, y_label: str, cells: Iterable[tuple[object, object, object]]) -> str:
    """A figure of shares from 0 to 1, a coloured cell for each `(x, y, share)`; empty when there are none.

    A cell whose share is not a finite number is left blank; one without a finite x and y is left out.
    """
    placed = {
        (at, height): finite(share)
        for x, y, share in cells
        if (at := finite(x)) is not None and (height := finite(y)) is not None
    }
    if all(share is None for share in placed.values()):
        return ""
    across, up = sorted({x for x, _ in placed}), sorted({y for _, y in placed})
    grid = {"x": across, "y": up, "z": [[placed.get((x, y)) for x in across] for y in up]}
    return _figure(title, {"x": x_label, "y": y_label, "log": False, "lines": [], "heat": grid})


def _figure(title: str, described: dict[str, object]) -> str:
    spec = json.dumps(described, allow_nan=False, separators=(",", ":"))
    # A data block still ends at the first "</script", and "<!--" changes how it is read: no "<" may be left.
    spec = spec.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    caption = escaped(title)
    return (
        f'<figure><figcaption>{caption}</figcaption><div role="img" aria-label="{caption}"></div>'
        f'<script type="application/json">{spec}</script></figure>'
    )


def line(name: str, x: Sequence[object], y: Sequence[object], reference: bool = False) -> list[Line]:
    """One line for `plot`, thinned to at most MAX_POINTS points; none when there is nothing to draw.
    A `reference` is dotted.

    `x` and `y` are of equal length. A `y` that is None, not finite or not a number leaves a gap; a point
    without `x` is left out. Where `y` holds lists, one number per population member, the line is their median
    and carries a band from the lowest to the highest.
    """
    placed = [(at, spread(value)) for at, value in zip(map(finite, x), y, strict=True) if at is not None]
    if all(middle is None for _, (_, middle, _) in placed):
        return []
    kept = [placed[i] for i in _thinned([middle for _, (_, middle, _) in placed])]
    drawn: Line = {
        "name": name,
        "reference": reference,
        "x": [at for at, _ in kept],
        "y": [spread[1] for _, spread in kept],
    }
    if any(isinstance(value, list) for value in y):
        drawn["low"] = [spread[0] for _, spread in kept]
        drawn["high"] = [spread[2] for _, spread in kept]
    return [drawn]


def links(name: str, segments: Iterable[tuple[Point, Point]]) -> list[Line]:
    """Straight segments between two points each, as one line for `plot` with gaps; at most MAX_POINTS points of them.

    A segment with an end that is not a finite number is left out.
    """
    numbers = ([finite(value) for end in ends for value in end] for ends in segments)
    sound = [[value for value in segment if value is not None] for segment in numbers if None not in segment]
    shown = sound[:: -(-3 * len(sound) // MAX_POINTS) or 1]
    if not shown:
        return []
    x = [at for x0, _, x1, _ in shown for at in (x0, x1, x1)]
    y = [value for _, y0, _, y1 in shown for value in (y0, y1, None)]
    return [{"name": name, "reference": False, "x": x, "y": y}]


def _thinned(y: Sequence[float | None]) -> list[int]:
    """Which points to draw: the ends, and the lowest, the highest and one gap of each of equal stretches."""
    if len(y) <= MAX_POINTS:
        return list(range(len(y)))
    stretches = (MAX_POINTS - 2) // 3
    kept = {0, len(y) - 1}
    for n in range(stretches):
        stretch = range(n * len(y) // stretches, (n + 1) * len(y) // stretches)
        by_value = [(value, i) for i in stretch if (value := y[i]) is not None]
        if by_value:
            kept |= {min(by_value)[1], max(by_value)[1]}
        kept.update([i for i in stretch if y[i] is None][:1])
    return sorted(kept)


def finite(value: object) -> float | None:
    """A finite number as it is, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -1e300 < value < 1e300 else None


def spread(value: object) -> tuple[float | None, float | None, float | None]:
    """Lowest, median and highest of a population's values; of one value three times that value; None without any."""
    numbers = [n for n in map(finite, value if isinstance(value, list) else [value]) if n is not None]
    return (min(numbers), statistics.median(numbers), max(numbers)) if numbers else (None, None, None)


def quantity(value: object) -> str:
    """A figure in four decimals; of a population its median, least and greatest."""
    low, middle, high = spread(value)
    if low is None or middle is None or high is None:
        return UNKNOWN
    return f"{middle:.4f}" if low == high else f"{middle:.4f} ({low:.4f} to {high:.4f})"


def short(value: float | None) -> str:
    """A count in three digits: 950, 12.3 k, 4.56 M."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them, as in `2 h 5 min`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def escaped(value: object) -> str:
    """Any value as text that is safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)
