"""The report of a study: one HTML page, made from its findings and the records of its runs.

Arms, presets and overrides may be a stranger's, so they enter the page as escaped text or as data of figures, as in the
report of a run. A new section is one file in `sections/` and one line in `SECTIONS`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from nanogrove.atomic import refusal, write_file
from nanogrove.errors import StudyError
from nanogrove.record.events import Event, read_events
from nanogrove.reports.page import html_page
from nanogrove.studies.judge import Findings
from nanogrove.studies.sections.arms import arms, tuning
from nanogrove.studies.sections.curves import curves
from nanogrove.studies.sections.differences import differences
from nanogrove.studies.sections.machine import machine
from nanogrove.studies.sections.shown import ENDS, Shown, ShownArm
from nanogrove.studies.sections.statistics import statistics
from nanogrove.studies.sections.verdicts import verdicts

SECTIONS: Mapping[str, Callable[[Shown], str]] = {
    "verdicts": verdicts,
    "differences": differences,
    "arms": arms,
    "tuning": tuning,
    "curves": curves,
    "statistics": statistics,
    "machine": machine,
}  # in the order of the page; empty where there is nothing to show


def write_report(study: Path, findings: Findings) -> Path:
    """Writes `report.html` of a study, whole or not at all, and returns its path. Raises StudyError."""
    page = html_page(findings.study.name, list(drawn_sections(study, findings).values()))
    path = study / "report.html"
    try:
        write_file(path, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be written {refusal(error)}") from None
    return path


def drawn_sections(study: Path, findings: Findings) -> dict[str, str]:
    """The HTML of the sections that have something to show, by their names. Raises RunError for a damaged record."""
    shown = Shown(findings, _arms(study, findings))
    drawn = {name: section(shown) for name, section in SECTIONS.items()}
    return {name: html for name, html in drawn.items() if html}


def _arms(study: Path, findings: Findings) -> list[ShownArm]:
    """The arms with a finished run, in their order; one with two ends is two of them."""
    shown = []
    for planned in findings.plan.arms:
        if planned.trial != findings.plan.chosen.get(planned.arm):
            continue
        for end in ENDS:
            results = [
                result
                for result in findings.results.values()
                if result.trial is None and (result.arm, result.end) == (planned.arm, end)
            ]
            if results:
                results.sort(key=lambda result: result.seed)
                runs = [_evaluations(study / result.folder) for result in results]
                shown.append(ShownArm(planned, end, results, runs))
    return shown


def _evaluations(run: Path) -> list[Event]:
    """The evaluations of a run on validation; none where its folder is gone, as results outlive their runs."""
    record = run / "events.jsonl"
    if not record.is_file():
        return []
    events = [event for event in read_events(record) if event.kind == "eval"]
    return [event for event in events if event.values.get("split", "validation") == "validation"]
