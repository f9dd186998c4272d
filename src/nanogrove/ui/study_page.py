"""The page of a study: the sections of its report, drawn anew as its runs end, its runs, and what a person wrote."""

import asyncio
import hashlib
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nanogrove.errors import NanogroveError
from nanogrove.record.listing import cells
from nanogrove.reports.values import duration, escaped
from nanogrove.studies.plan import Run
from nanogrove.studies.reading import Standing, read_standing
from nanogrove.studies.report import drawn_sections
from nanogrove.studies.results import key_of as result_key
from nanogrove.studies.sections.verdicts import answer
from nanogrove.ui.forms import save_notes
from nanogrove.ui.frame import alert, html_page, link, to_page
from nanogrove.ui.index import Entry, Index
from nanogrove.ui.run_list import choose_all
from nanogrove.ui.run_page import notes_form
from nanogrove.ui.studies import Study, is_within

TITLES = ("run", "arm", "seed", "steps", "measure", "state", "age")
SCRIPTS = ("list.js", "plotly.js", "figures.js", "run.js")  # the first reads the page before figures are drawn in it
Shares = Sequence[tuple[Run, float]]  # of runs, each with the share of it that is trained
NO_PLAN = "It is not planned yet: `nanogrove compare` decides what each arm trains before the first run."


class StudyPages:
    """Answers requests for the pages of the studies of an index."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [Route("/study", self.show), Route("/study/notes", self.save, methods=["POST"])]

    async def show(self, request: Request) -> Response:
        """`GET /study?name=…`: a study. Raises RunError where there is none."""
        key = request.query_params.get("name", "")
        path, study = await asyncio.to_thread(self.index.study, key)
        form = notes_form(link("/study/notes", name=key), study.notes, study.notes.digest())
        return await self._page(key, path, study, form)

    async def save(self, request: Request) -> Response:
        """`POST /study/notes?name=…`: what a person wrote; where it cannot be saved, it is in the form again."""
        key = request.query_params.get("name", "")
        path, study = await asyncio.to_thread(self.index.study, key)
        unsaved = await save_notes(request, path)
        if unsaved is not None:
            return await self._page(key, path, study, notes_form(link("/study/notes", name=key), *unsaved), 409)
        return to_page("/study", key, "#notes")

    async def _page(self, key: str, path: Path, study: Study, form: str, code: int = 200) -> Response:
        def body() -> str:
            runs = {name: entry for name, entry in self.index.read().runs.items() if is_within(name, key)}
            return study_page(key, path, study, runs, form)

        return html_page(key, await asyncio.to_thread(body), SCRIPTS, code)


def study_page(key: str, path: Path, study: Study, runs: Mapping[str, Entry], form: str) -> str:
    """The body of the page of a study.

    Args:
        key: its name in addresses.
        path: its folder.
        study: what is listed of it.
        runs: those that lie in its folder, by their names in addresses.
        form: HTML of the form of its notes.
    """
    standing, problem = None, study.damage
    sections = dict[str, str]()
    try:
        standing = read_standing(path)
        sections = drawn_sections(path, standing.findings) if standing else {}
    except NanogroveError as error:
        problem = str(error)
    title = sections.pop("verdicts", f"<h1><bdi>{escaped(key)}</bdi></h1>")
    state = alert(problem)
    if standing is not None:
        state += _state(key, path, study, standing, runs)
    elif not problem:
        state += f'<p class="note">{escaped(NO_PLAN)}</p>'
    parts = {"overview": title, "status": state, **sections}
    body = "".join(
        f'<section id="{name}" data-digest="{_digest(html)}">{html}</section>' for name, html in parts.items()
    )
    verbs = (
        f' · <a href="{link("/compare", study=key)}">Compare its runs</a> · '
        f'<a href="{link("/", search="" if key == "." else f"{key}/")}">Its runs in the list</a>'
    )
    head = f'<p class="verbs">Study <bdi>{escaped(key)}</bdi>{verbs if runs else ""}</p>'
    table = "" if standing is None else _runs(key, standing, runs)
    return f'{head}<div id="live">{body}</div>{table}{form}'


def verdicts_of(studies: Mapping[str, Path]) -> str:
    """What studies say, each in the words of its verdicts, with a link to it; empty where there are none."""
    items = list[str]()
    for key, path in studies.items():
        try:
            standing = read_standing(path)
        except NanogroveError as error:
            items.append(f"<li>{alert(str(error))}</li>")
            continue
        name = f'<a href="{link("/study", name=key)}">study <bdi>{escaped(key)}</bdi></a>'
        verdicts = standing.findings.verdicts if standing else ()
        if standing is None or not verdicts:
            items.append(f"<li>{name}: no pair of its runs is finished yet</li>")
            continue
        under_way = (
            ""
            if standing.complete
            else f", which is under way: {_count(standing)}, and a verdict on a part of them is not yet its answer"
        )
        items += [f"<li>{answer(verdict)} <span class='note'>{name}{under_way}</span></li>" for verdict in verdicts]
    return f'<h2>What studies of these runs say</h2><ul class="verdicts">{"".join(items)}</ul>' if items else ""


def run_key(study: str, run: Run) -> str:
    """The name in addresses of a run of a study."""
    folder = run.folder.as_posix()
    return folder if study == "." else f"{study}/{folder}"


def compared_keys(key: str, path: Path, runs: Mapping[str, Entry]) -> list[str]:
    """The runs that a study compares, as far as they have begun, seed by seed. Raises StudyError."""
    standing = read_standing(path)
    names = [run_key(key, run) for run in standing.compared] if standing else []
    return [name for name in names if name in runs]


def _count(standing: Standing) -> str:
    return f"{standing.finished:,} of {len(standing.runs):,} runs are finished"


def _state(key: str, path: Path, study: Study, standing: Standing, runs: Mapping[str, Entry]) -> str:
    """Whether a study is under way, how far it is, and what to do where it is not."""
    if standing.complete:
        return '<p class="status"><span class="state finished">finished</span></p>'
    at_work = [run for run in standing.runs if _state_of(key, run, standing, runs) == "running"]
    running = study.running or bool(at_work)
    words = [_count(standing)]
    words += [f"{len(at_work):,} are being trained"] if at_work else []
    shares = [(run, _share(key, run, standing, runs)) for run in standing.runs]
    left = _seconds_left(standing, shares, len(at_work))
    words += [f"about {duration(left)} left" if running and left is not None else ""]
    share = _work(shares) / _work([(run, 1.0) for run in standing.runs])
    lines = [f'<progress aria-label="Progress of the study" max="1" value="{share:.4f}"></progress>']
    if standing.findings.verdicts:
        lines.append("<p class='note'>A verdict on a part of its pairs is not yet the answer of the study.</p>")
    if not running:
        command = escaped(f"nanogrove compare {shlex.quote(str(path))}")
        lines.append(f"<p class='note'><code>{command}</code> goes on with it.</p>")
    badge = "running" if running else "stopped"
    return (
        f'<p class="status"><span class="state {badge}">{badge}</span> {escaped(", ".join(filter(None, words)))}</p>'
        + "".join(lines)
    )


def _share(key: str, run: Run, standing: Standing, runs: Mapping[str, Entry]) -> float:
    """The share of a run that is trained."""
    if result_key(run) in standing.findings.results:
        return 1.0
    entry = runs.get(run_key(key, run))
    return min((entry.run.step or 0) / max(run.way.planned.all_steps, 1), 1.0) if entry else 0.0


def _work(shares: Shares) -> float:
    """The FLOPs of shares of runs."""
    return sum(share * run.way.planned.flops for run, share in shares)


def _seconds_left(standing: Standing, shares: Shares, at_once: int) -> float | None:
    """The time that is left at the pace of the finished runs, with so many at once; None where that is not known."""
    results = standing.findings.results
    finished = [run for run, _ in shares if result_key(run) in results]
    seconds = sum(results[result_key(run)].seconds for run in finished)
    if not seconds or not at_once:
        return None
    left = _work([(run, 1 - share) for run, share in shares])
    return seconds / _work([(run, 1.0) for run in finished]) * left / at_once


def _state_of(key: str, run: Run, standing: Standing, runs: Mapping[str, Entry]) -> str:
    entry = runs.get(run_key(key, run))
    if entry is not None:
        return entry.run.state
    return "finished; its folder is gone" if result_key(run) in standing.findings.results else "not begun"


def _runs(key: str, standing: Standing, runs: Mapping[str, Entry]) -> str:
    """The table of the runs of a study, in which some can be chosen to be compared."""
    now, begun = time.time(), [run for run in standing.runs if run_key(key, run) in runs]
    head = "".join(f'<th scope="col">{title}</th>' for title in ("choose", *TITLES))
    rows = "".join(_row(key, run, _state_of(key, run, standing, runs), runs, now) for run in standing.runs)
    return (
        f'<form id="runs" action="/compare"><h2>Runs</h2>{choose_all(len(begun))}'
        f'<div class="wide list" role="region" tabindex="0" aria-label="Runs"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div><p><button>Compare the chosen runs</button></p></form>"
    )


def _row(key: str, run: Run, state: str, runs: Mapping[str, Entry], now: float) -> str:
    name = run_key(key, run)
    folder, entry = run.folder.as_posix(), runs.get(name)
    way = " ".join(filter(None, (run.way.arm, run.way.end, "" if run.way.trial is None else f"trial {run.way.trial}")))
    if entry is None:
        box, shown, steps, measure, age = "", escaped(folder), "", "", ""
    else:
        box = f'<input type="checkbox" name="run" value="{escaped(name)}" aria-label="Choose {escaped(folder)}">'
        shown = f'<a href="{link("/run", name=name)}">{escaped(folder)}</a>'
        _, _, _, steps, measure, state, age = cells(entry.run, now)
    words = "".join(f"<td><div>{escaped(cell)}</div></td>" for cell in (way, f"{run.seed}", steps, measure))
    kind = entry.run.state if entry else ""
    return (
        f'<tr><td>{box}</td><th scope="row"><div>{shown}</div></th>{words}'
        f'<td><div class="state {kind}">{escaped(state)}</div></td><td><div>{age}</div></td></tr>'
    )


def _digest(html: str) -> str:
    """What tells a section from what it was."""
    return hashlib.sha256(html.encode(errors="replace")).hexdigest()[:16]
