"""Lines of figures: numbers of a record that can be drawn, smoothed where noisy and thinned to what is seen."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NotRequired, TypedDict

from nanogrove.reports.values import finite, spread

LINE_POINTS = 400  # of one line; more cannot be seen on a screen and makes the page large
FIGURE_POINTS = 1200  # of all lines of one figure
NOISY_POINTS = 60  # a line of fewer is drawn as it is
WINDOWS = 30  # of a running mean, in the length of a line
LEAST_WINDOW = 9

Style = Literal["plain", "faint", "reference", "points", "bars"]
Numbers = list[float | None]
Point = tuple[object, object]


class Line(TypedDict):
    """One line of a figure, with a band from `low` to `high` where it has one.

    A `faint` line lies below the next one, whose colour it has; a `reference` is dotted; `points` are not joined.
    `bars` have their middles in `x` and their widths in `width`. A running mean has its number of points in `window`.
    """

    name: str
    style: Style
    x: list[float]
    y: Numbers
    low: NotRequired[Numbers]
    high: NotRequired[Numbers]
    width: NotRequired[list[float]]
    window: NotRequired[int]


def line(name: str, x: Sequence[object], y: Sequence[object], style: Style = "plain") -> list[Line]:
    """One line for `plot`; none when there is nothing to draw.

    `x` and `y` are of equal length. A `y` that is None, NaN, infinite or not a number leaves a gap; a point without
    `x` is left out. Where `y` holds lists, one number per population member, the line is their median and carries a
    band from the lowest to the highest.
    """
    points = [(at, spread(value)) for at, value in zip(map(finite, x), y, strict=True) if at is not None]
    if all(middle is None for _, (_, middle, _) in points):
        return []
    drawn: Line = {"name": name, "style": style, "x": [at for at, _ in points], "y": [each[1] for _, each in points]}
    if any(isinstance(value, list) for value in y):
        drawn["low"], drawn["high"] = [each[0] for _, each in points], [each[2] for _, each in points]
    return [drawn]


def noisy(name: str, x: Sequence[object], y: Sequence[object]) -> list[Line]:
    """A line as recorded, faint, and its running mean above it; a short line as it is."""
    drawn = line(name, x, y)
    if not drawn or len(drawn[0]["x"]) < NOISY_POINTS:
        return drawn
    recorded = drawn[0]
    count = len(recorded["x"])
    window = max(count // WINDOWS | 1, LEAST_WINDOW)
    at = sorted({*range(0, count, -(-count // LINE_POINTS)), count - 1})
    mean: Line = {
        "name": name,
        "style": "plain",
        "window": window,
        "x": [recorded["x"][n] for n in at],
        "y": [_mean(recorded["y"], n, window) for n in at],
    }
    if "low" in recorded:
        mean["low"], mean["high"] = ([_mean(recorded[side], n, window) for n in at] for side in ("low", "high"))
    if all(value is None for value in mean["y"]):
        return drawn
    return [{"name": name, "style": "faint", "x": recorded["x"], "y": recorded["y"]}, mean]


def _mean(values: Numbers, at: int, window: int) -> float | None:
    """The mean of the known values around one, near the ends of those that there are; a gap stays one.

    Near the beginning, where losses fall fast, as many are taken on either side, so that the mean is not too high.
    """
    reach = min(window // 2, at)
    known = [value for value in values[at - reach : at + reach + 1] if value is not None]
    return None if values[at] is None else sum(known) / len(known)


def links(name: str, segments: Iterable[tuple[Point, Point]]) -> list[Line]:
    """Straight segments between two points each, as one line for `plot` with gaps, thinned to LINE_POINTS.

    A segment with an end that is NaN, infinite or not a number is left out.
    """
    numbers = ([finite(value) for end in ends for value in end] for ends in segments)
    sound = [[value for value in segment if value is not None] for segment in numbers if None not in segment]
    shown = sound[:: -(-3 * len(sound) // LINE_POINTS) or 1]
    if not shown:
        return []
    x = [at for x0, _, x1, _ in shown for at in (x0, x1, x1)]
    y = [value for _, y0, _, y1 in shown for value in (y0, y1, None)]
    return [{"name": name, "style": "plain", "x": x, "y": y}]


def bars(name: str, edges: object, counts: object) -> list[Line]:
    """A histogram for `plot`: a bar for each count, between two edges; none where the two lists do not fit."""
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1:
        return []
    known = [edge for edge in map(finite, edges) if edge is not None]
    heights = [count for count in map(finite, counts) if count is not None]
    if len(known) < len(edges) or len(heights) < len(counts):
        return []
    middles, widths = [(a + b) / 2 for a, b in pairwise(known)], [b - a for a, b in pairwise(known)]
    return [{"name": name, "style": "bars", "x": middles, "y": [*heights], "width": widths}]


def thinned(drawn: Line, points: int) -> Line:
    """A line of about so many points at most: its ends, and the extremes and one gap of each of equal stretches."""
    if drawn["style"] == "bars" or len(drawn["x"]) <= points:
        return drawn
    kept = _kept(drawn["y"], points)
    thin: Line = {**drawn, "x": [drawn["x"][n] for n in kept], "y": [drawn["y"][n] for n in kept]}
    if "low" in drawn:
        thin["low"], thin["high"] = [drawn["low"][n] for n in kept], [drawn["high"][n] for n in kept]
    return thin


def _kept(y: Numbers, points: int) -> list[int]:
    stretches = max((points - 2) // 3, 1)
    kept = {0, len(y) - 1}
    for n in range(stretches):
        stretch = range(n * len(y) // stretches, (n + 1) * len(y) // stretches)
        by_value = [(value, i) for i in stretch if (value := y[i]) is not None]
        if by_value:
            kept |= {min(by_value)[1], max(by_value)[1]}
        kept.update([i for i in stretch if y[i] is None][:1])
    return sorted(kept)
