"""The report of a run: one HTML page of pictures, made from a run folder alone.

The page is self-contained: no network, no fonts or scripts from elsewhere, and a Content-Security-Policy
that allows none. What a run says (names, prompts, samples, presets) is text of unknown origin, so it enters
the page in two ways only: escaped by `escaped`, or as JSON in a data block, which no browser executes. Only two
scripts may run, plotly's and ours; the policy names them by their hashes.

A new section is one file with a function from `Run` to HTML, and one line in `SECTIONS`, which says what a run must
hold for the function to be called; `plot` and `line` make figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanogrove.atomic import refusal, write_file
from nanogrove.errors import RunError
from nanogrove.record.folder import refuse_link
from nanogrove.record.reading import Run, read_run
from nanogrove.reports.page import html_page
from nanogrove.reports.sections.best_possible import best_possible
from nanogrove.reports.sections.calibration import calibration
from nanogrove.reports.sections.curves import curves
from nanogrove.reports.sections.ensemble import ensemble
from nanogrove.reports.sections.evolution import evolution
from nanogrove.reports.sections.heads import heads
from nanogrove.reports.sections.overview import overview
from nanogrove.reports.sections.policy_gradient import policy_gradient
from nanogrove.reports.sections.rewards import rewards
from nanogrove.reports.sections.samples import samples
from nanogrove.reports.sections.self_improvement import self_improvement
from nanogrove.reports.sections.settings import machine, preset
from nanogrove.reports.sections.sources import sources


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        html: From a run to HTML; empty where a damaged record leaves nothing to show.
        needs: Names of `Run.parts`, any of which a run must have; a section without them is in every report.
    """

    html: Callable[[Run], str]
    needs: tuple[str, ...] = ()


SECTIONS = (
    Section(overview),
    Section(self_improvement, ("exact",)),
    Section(evolution, ("generation",)),
    Section(ensemble, ("losses_by_count",)),
    Section(rewards, ("reward", "rewards")),
    Section(policy_gradient, ("no_signal",)),
    Section(curves),
    Section(sources, ("sources",)),
    Section(heads, ("auxiliary",)),
    Section(best_possible, ("bayes_loss",)),
    Section(calibration, ("calibration",)),
    Section(samples, ("sample",)),
    Section(preset),
    Section(machine),
)  # in the order of the page


def drawn_sections(run: Run) -> dict[str, str]:
    """The HTML of the sections that a run has, each by the name of its function, in the order of the page."""
    parts = run.parts()
    drawn = {
        each.html.__name__: each.html(run) for each in SECTIONS if not each.needs or parts.intersection(each.needs)
    }
    return {name: html for name, html in drawn.items() if html}


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path; an older report is replaced whole.

    Works for finished runs and for unfinished ones. Raises RunError when the folder holds no run, or one
    whose record is damaged.
    """
    refuse_link(run)
    read = read_run(run)
    page = html_page(read.name, list(drawn_sections(read).values()))
    return write_page(run, "report.html", page, f"nanogrove report {run}")


def write_page(run: Path, name: str, page: str, command: str) -> Path:
    """Writes a page into a run folder and returns its path. Raises RunError, with the command to give again."""
    path = run / name
    # JSON can carry half of a surrogate pair and UTF-8 cannot; one bad character must not cost the report.
    try:
        write_file(path, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise RunError(f"{path}: cannot be written {refusal(error)} and give `{command}`") from None
    return path
