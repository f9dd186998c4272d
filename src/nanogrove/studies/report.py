"""The report of a study: one HTML page, made from its findings and the records of its runs.

Arms, presets and overrides may be a stranger's, so they enter the page as escaped text or as data of figures, as in the
report of a run. A new section is one function and one line in `SECTIONS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from nanogrove.atomic import refusal, write_file
from nanogrove.errors import StudyError
from nanogrove.record.events import Event, read_events
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line, line
from nanogrove.reports.page import html_page
from nanogrove.reports.values import UNKNOWN, capital, decimal, duration, escaped, finite, short
from nanogrove.studies.judge import Findings, lines
from nanogrove.studies.plan import PlannedArm
from nanogrove.studies.results import Result

TESTS = {False: "an exact sign-flip test of paired differences", True: "a test that holds however long one looks"}


@dataclass(frozen=True)
class Arm:
    """An arm of a study: what the plan says of it, its results, and the evaluations of each of its runs, in order."""

    planned: PlannedArm
    results: Sequence[Result]
    evaluations: Sequence[Sequence[Event]]

    @property
    def name(self) -> str:
        """The arm's name, with the end of its steps where there are two."""
        return " ".join(filter(None, (self.planned.arm, self.results[0].end if self.results else "")))

    def figures(self, name: str) -> dict[int, float]:
        """The figures of the runs that did not diverge, by seed."""
        return {result.seed: result.figures[name] for result in self.results if not result.diverged}


def write_report(study: Path, findings: Findings) -> Path:
    """Writes `report.html` of a study, whole or not at all, and returns its path. Raises StudyError."""
    arms = _arms(study, findings)
    drawn = [section(findings, arms) for section in SECTIONS]
    page = html_page(findings.study.name, [html for html in drawn if html])
    path = study / "report.html"
    try:
        write_file(path, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be written {refusal(error)}") from None
    return path


def _arms(study: Path, findings: Findings) -> list[Arm]:
    """The arms in their order; one with two ends is there twice."""
    arms = []
    chosen = [each for each in findings.plan.arms if each.trial == findings.plan.chosen.get(each.arm)]
    for planned in chosen:
        for end in ("", "short", "long"):
            results = [
                result
                for result in findings.results.values()
                if result.trial is None and (result.arm, result.end) == (planned.arm, end)
            ]
            if results:
                results.sort(key=lambda result: result.seed)
                arms.append(Arm(planned, results, [_evaluations(study / result.folder) for result in results]))
    return arms


def _evaluations(run: Path) -> list[Event]:
    """The evaluations of a run on validation; none where its folder is gone, as results outlive their runs."""
    record = run / "events.jsonl"
    if not record.is_file():
        return []
    events = [event for event in read_events(record) if event.kind == "eval"]
    return [event for event in events if event.values.get("split", "validation") == "validation"]


def _head(findings: Findings, arms: Sequence[Arm]) -> str:
    """The question and its answers."""
    study = findings.study
    asked = (
        f"{len(study.arms)} arms, {findings.seeds} paired seeds, equal {study.equal}; judged by "
        f"{findings.measure.label or findings.measure.name} on {findings.plan.split}, {findings.measure.better} is "
        f"better, by {TESTS[study.until_decided]} at level {study.level:g}, adjusted for {len(study.arms) - 1} "
        f"{'comparison' if len(study.arms) == 2 else 'comparisons'} (Holm)"
    )
    answers = "".join(f"<li>{escaped(capital(text))}</li>" for text in lines(findings))
    badge = "" if findings.verdicts else ' <span class="badge">unfinished</span>'
    return f'<h1><bdi>{escaped(study.name)}</bdi>{badge}</h1><p class="note">{escaped(asked)}</p><ul>{answers}</ul>'


def _table(findings: Findings, arms: Sequence[Arm]) -> str:
    """What each arm is, what it took and what it came to."""
    name, digits = findings.plan.measure, findings.measure.digits
    overrides = {arm.name: [*findings.study.overrides, *arm.overrides] for arm in findings.study.arms}
    body = ""
    for arm in arms:
        figures = list(arm.figures(name).values())
        shown = f"{decimal(fmean(figures), digits)}" if figures else UNKNOWN
        reach = f"{decimal(min(figures), digits)} to {decimal(max(figures), digits)}" if figures else UNKNOWN
        diverged = sum(result.diverged is not None for result in arm.results)
        cells = (
            *(arm.name, " ".join([*overrides[arm.planned.arm], *arm.planned.overrides]) or "as the preset"),
            *(f"{arm.results[0].steps:,}", str(len(arm.results)), str(diverged), shown, reach),
            *(short(arm.planned.flops), duration(sum(result.seconds for result in arm.results))),
        )
        body += "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>"
    titles = ("arm", "settings", "steps", "runs", "diverged", f"mean {name}", "range", "FLOPs of a run", "trained for")
    head = "".join(f"<th>{escaped(title)}</th>" for title in titles)
    tuned = _tuned(findings)
    return f"<h2>Arms</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{tuned}" if arms else ""


def _tuned(findings: Findings) -> str:
    """All trials of all arms, where there were any."""
    trials = findings.study.trials
    if len(trials) == 1:
        return ""
    head = "".join(f"<th>{escaped(' '.join(trial))}</th>" for trial in trials)
    body = ""
    for arm in findings.study.arms:
        cells = ""
        for number in range(len(trials)):
            entries = [r for r in findings.results.values() if (r.arm, r.trial) == (arm.name, number)]
            known = [r.figures[findings.plan.measure] for r in entries if not r.diverged]
            text = decimal(fmean(known), findings.measure.digits) if known else "diverged" if entries else UNKNOWN
            taken = findings.plan.chosen.get(arm.name) == number
            cells += f"<td>{f'<b>{text}</b>' if taken else text}</td>"
        body += f"<tr><td>{escaped(arm.name)}</td>{cells}</tr>"
    seeds = f"mean {findings.plan.measure} on validation, of seeds that the comparison does not use"
    return (
        f'<h3>Trials</h3><p class="note">{escaped(seeds)}; bold is taken.</p>'
        f"<table><thead><tr><th>arm</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _curves(findings: Findings, arms: Sequence[Arm]) -> str:
    """The measure as arms train, over tokens, FLOPs and time: the median of the seeds, and a band over all."""
    name, label = findings.plan.measure, findings.measure.label or findings.measure.name
    unit = findings.measure.unit or label
    axes: dict[str, Callable[[Arm, Event], float | None]] = {
        "tokens": lambda arm, event: finite(event.values.get("seen")),
        "FLOPs": lambda arm, event: arm.planned.flops * event.step / max(arm.planned.all_steps, 1),
        "seconds of training": lambda arm, event: _seconds_per_step(arm) * event.step,
    }
    pictures = []
    for axis, where in axes.items():
        drawn: list[Line] = []
        for arm in arms:
            by_step: dict[int, list[Event]] = {}
            for events in arm.evaluations:
                for event in events:
                    by_step.setdefault(event.step, []).append(event)
            steps = sorted(by_step)
            x = [where(arm, by_step[step][0]) for step in steps]
            drawn += line(arm.name, x, [[event.values.get(name) for event in by_step[step]] for step in steps])
        floors = [event.values.get("bayes_loss") for arm in arms for events in arm.evaluations for event in events]
        if name == "loss" and drawn and floors and floors[0] is not None:
            ends = [min(at for each in drawn for at in each["x"]), max(at for each in drawn for at in each["x"])]
            drawn += line("best possible", ends, [floors[0]] * 2, "reference")
        pictures.append(plot(f"Validation {label}", axis, unit, drawn))
    note = '<p class="note">Lines are medians over seeds; bands reach from lowest to highest.</p>'
    body = rows([pictures[:2], pictures[2:]])
    return f"<h2>Curves</h2>{note}{body}" if body else ""


def _seconds_per_step(arm: Arm) -> float:
    return median(result.seconds / max(result.steps, 1) for result in arm.results)


def _differences(findings: Findings, arms: Sequence[Arm]) -> str:
    """For each arm against the first: the difference of each pair, and the mean with its interval."""
    first = findings.study.arms[0].name
    name = findings.plan.measure
    reference = next((arm for arm in arms if arm.planned.arm == first), None)
    if reference is None:
        return ""
    pictures = []
    for verdict in findings.verdicts:
        drawn: list[Line] = []
        for arm in (arm for arm in arms if arm.planned.arm == verdict.arm):
            figures, others = arm.figures(name), reference.figures(name)
            seeds = sorted(figures.keys() & others.keys())
            drawn += line(arm.name, seeds, [figures[seed] - others[seed] for seed in seeds])
        if drawn:
            ends = [min(drawn[0]["x"]), max(drawn[0]["x"])]
            drawn += line("mean", ends, [verdict.difference] * 2, "reference")
            for side, value in zip(("interval, from", "interval, to"), verdict.interval, strict=True):
                drawn += line(side, ends, [finite(value)] * 2, "reference")
            drawn += line("no difference", ends, [0.0, 0.0], "reference")
        pictures.append(plot(f"{verdict.arm} less {first}, by seed", "seed", findings.measure.unit or name, drawn))
    body = rows([pictures[n : n + 2] for n in range(0, len(pictures), 2)])
    return f"<h2>Paired differences</h2>{body}" if body else ""


def _statistics(findings: Findings, arms: Sequence[Arm]) -> str:
    """All figures of the verdicts, in a table."""
    titles = (
        *("arm", "against", "verdict", "pairs", "mean difference", "interval", "p", "p, Holm"),
        *("interquartile means", "probability of improvement"),
    )
    digits, body = findings.measure.digits, ""
    for verdict in findings.verdicts:
        low, high = (decimal(end, digits) for end in verdict.interval)
        one, other = (decimal(mean, digits) for mean in verdict.interquartile_means)
        cells = (
            *(verdict.arm, verdict.against, verdict.outcome, str(verdict.pairs), decimal(verdict.difference, digits)),
            *(f"{low} to {high}", f"{verdict.p:.4g}", f"{verdict.holm_p:.4g}", f"{one} and {other}"),
            f"{verdict.probability_of_improvement:.2f}",
        )
        body += "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>"
    head = "".join(f"<th>{escaped(title)}</th>" for title in titles)
    return f"<h2>Statistics</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""


SECTIONS: tuple[Callable[[Findings, Sequence[Arm]], str], ...] = (
    _head,
    _table,
    _curves,
    _differences,
    _statistics,
)  # in the order of the page
