"""Paired differences from the first arm: all arms in one figure, then the pairs of each by seed."""

from collections.abc import Iterator

from nanogrove.reports.figures import Interval, forest, plot, rows
from nanogrove.reports.lines import Line, line
from nanogrove.reports.values import capital, escaped, finite
from nanogrove.studies.sections.shown import Shown
from nanogrove.studies.verdict import Verdict

Differences = dict[int, float]  # by seed


def differences(shown: Shown) -> str:
    """A figure with a row for each arm, and one of the pairs of each arm; empty while there is no verdict."""
    findings = shown.findings
    if not findings.verdicts:
        return ""
    first, intervals, pictures = findings.study.arms[0].name, [], []
    for verdict in findings.verdicts:
        ends = list(_differences(shown, verdict.arm, first))
        low, high = (finite(end) for end in verdict.interval)
        points = [value for _, each in ends for value in each.values()]
        if (mean := finite(verdict.difference)) is not None:
            intervals.append(Interval(verdict.arm, mean, low, high, points))
        title = f"{verdict.arm} less {first}, by seed"
        pictures.append(plot(title, "seed", shown.unit, _pairs(verdict, ends), zero=True))
    note = (
        f"Figures of an arm less those of {first} of the same seed; {shown.better}. A dot is a seed, a diamond or a "
        "dotted line their mean, and a bar or a band the interval of that mean."
    )
    return (
        f'<h2>Paired differences</h2><p class="note">{escaped(note)}</p>'
        + rows([[forest(f"{capital(shown.label)} less that of {first}", shown.unit, intervals)]])
        + rows([pictures[n : n + 2] for n in range(0, len(pictures), 2)])
    )


def _differences(shown: Shown, arm: str, first: str) -> Iterator[tuple[str, Differences]]:
    """The differences of an arm from the first, for each end that it has, with the arm's name at that end."""
    for each in shown.arms:
        for reference in shown.arms:
            same_end = each.end == reference.end or "" in (each.end, reference.end)
            if (each.planned.arm, reference.planned.arm) == (arm, first) and same_end:
                figures, others = each.figures(shown.name), reference.figures(shown.name)
                name = each.name if each.end else f"{each.name} {reference.end}".rstrip()
                yield name, {seed: figures[seed] - others[seed] for seed in sorted(figures.keys() & others.keys())}


def _pairs(verdict: Verdict, ends: list[tuple[str, Differences]]) -> list[Line]:
    """Points of the pairs, and the mean with its interval."""
    drawn: list[Line] = []
    for name, by_seed in ends:
        drawn += line(name, list(by_seed), list(by_seed.values()), "points")
    seeds = [at for each in drawn for at in each["x"]]
    if seeds:
        low, high = verdict.interval
        drawn += line("mean, interval", [min(seeds), max(seeds)], [[low, verdict.difference, high]] * 2, "reference")
    return drawn
