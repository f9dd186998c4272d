"""Figures over the evaluations of a run: any measure, by its name, its unit and which way is better."""

from collections.abc import Sequence

from nanogrove.record.events import Event
from nanogrove.record.measures import Measure
from nanogrove.reports.figures import Mark, plot
from nanogrove.reports.lines import line
from nanogrove.reports.values import capital, finite


def evaluated(
    measure: Measure, events: Sequence[Event], x_label: str, x: Sequence[object], marks: Sequence[Mark]
) -> str:
    """A figure of one measure: a band of two standard errors where these are known, and what it is compared with.

    Args:
        measure: what is drawn.
        events: those that hold its figures.
        x_label: what lies on the horizontal axis.
        x: where each event lies on it.
        marks: where phases begin.
    """
    figures = [event.values.get(measure.name) for event in events]
    errors = [event.values.get(measure.error) for event in events]
    lines = line(measure.label or measure.name, x, [banded(*pair) for pair in zip(figures, errors, strict=True)])
    if lines and measure.reference:
        lines += line(
            measure.reference_label, x, [event.values.get(measure.reference) for event in events], "reference"
        )
    return plot(titled(measure), x_label, measure.unit or measure.label or measure.name, lines, marks=marks)


def titled(measure: Measure) -> str:
    """The title of a measure, or its label; of those that the terminal shows, which way is better too."""
    title = measure.title or measure.label or measure.name
    return capital(title) + (f", {measure.better} is better" if measure.label else "")


def banded(figure: object, error: object) -> object:
    """A figure and two standard errors to either side of it, or the figure alone."""
    middle, deviation = finite(figure), finite(error)
    if middle is None or deviation is None:
        return figure
    return [middle - 2 * deviation, middle, middle + 2 * deviation]
