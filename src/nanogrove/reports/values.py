"""Values of a report as text: numbers in as many digits as say something, counts, times, and what is of unknown origin.

What goes into a page passes through `escaped`, or is data of a figure, which no browser executes.
"""

import html
import statistics

UNKNOWN = "n/a"


def finite(value: object) -> float | None:
    """A finite number as it is, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -1e300 < value < 1e300 else None


def spread(value: object) -> tuple[float | None, float | None, float | None]:
    """Lowest, median and highest of a population's values; of one value three times that value; None without any."""
    if not isinstance(value, list):
        number = finite(value)
        return number, number, number
    numbers = [n for n in map(finite, value) if n is not None]
    return (min(numbers), statistics.median(numbers), max(numbers)) if numbers else (None, None, None)


def quantity(value: object, digits: int = 4) -> str:
    """A figure with so many decimals; of a population its median, least and greatest."""
    low, middle, high = spread(value)
    if low is None or middle is None or high is None:
        return UNKNOWN
    least, shown, most = (decimal(number, digits) for number in (low, middle, high))
    return shown if low == high else f"{shown} ({least} to {most})"


def decimal(value: float, digits: int) -> str:
    """A number with so many decimals, or, where these would hide it or be nothing beside it, in three digits."""
    if value and not 0.1**digits / 2 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.{digits}f}"


def rounded(value: float, digits: int = 5) -> float:
    """A number in so many significant digits; a whole number as it is."""
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


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


def capital(words: str) -> str:
    """Words as a title begins."""
    return words[:1].upper() + words[1:]


def escaped(value: object) -> str:
    """Any value as text that is safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)
