"""A new run: a preset, a run or a file to begin from, a form of its settings, what it would take, and its start."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from nanogrove.config.catalog import packaged_text, parse_preset, unknown_preset
from nanogrove.config.overrides import replaced, resolve
from nanogrove.config.preset import Preset
from nanogrove.errors import RunError
from nanogrove.record.events import Values
from nanogrove.record.folder import read_preset
from nanogrove.reports.values import escaped
from nanogrove.ui.choices import choices_page
from nanogrove.ui.dry_run import LONGEST_SECONDS, DryRuns
from nanogrove.ui.fields import fieldsets, key_of_problem, resolve_form, settings_of, texts_of, typed_overrides
from nanogrove.ui.files import Files
from nanogrove.ui.forms import read_form
from nanogrove.ui.frame import alert, html_page, link, to_page
from nanogrove.ui.index import Index
from nanogrove.ui.processes import Processes

FOLDER, DO, SEEN = "folder", "do", "seen"  # fields of the form that are not settings


class Beginning(NamedTuple):
    """What a new run begins from.

    Args:
        kind: `preset`, `run` or `file`.
        name: its name in the address.
        values: the JSON of its preset.
        text: what a file holds, as `nanogrove explore` prints it.
    """

    kind: str
    name: str
    values: Values
    text: str = ""


class NotExploredError(RunError):
    """A file of which no run can begin; `text` is what is known of it."""

    def __init__(self, problem: str, text: str) -> None:
        super().__init__(problem)
        self.text = text


@dataclass(frozen=True)
class Answer:
    """What the page shows beside the settings of the beginning.

    Args:
        folder: the name of the new folder.
        typed: texts of fields that differ, by key.
        problems: what is wrong, by key; by the empty one what concerns no field.
        notes: settings that do not apply.
        figures: what the run would take; empty before that is known.
        seen: a digest of the settings that the figures are of.
    """

    folder: str
    typed: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    figures: str = ""
    seen: str = ""


class NewRuns:
    """Answers requests for the page of a new run."""

    def __init__(self, index: Index, processes: Processes) -> None:
        self.index, self.processes = index, processes
        self.dry_runs, self.files = DryRuns(), Files(index.first)

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [
            Route("/new", self.show, methods=["GET"]),
            Route("/new", self.submit, methods=["POST"]),
            Route("/files", self.receive, methods=["POST"]),
        ]

    def close(self) -> None:
        """Ends the dry run, and the exploring, under way."""
        self.dry_runs.close()
        self.files.close()

    async def receive(self, request: Request) -> Response:
        """`POST /files?name=…`: keeps a file; the answer is the name that it has, or why it was not taken."""
        try:
            return PlainTextResponse(await self.files.receive(request, request.query_params.get("name", "")))
        except RunError as error:
            return PlainTextResponse(str(error), 409)

    async def show(self, request: Request) -> Response:
        """`GET /new`: what there is to begin from; with `?preset=…`, `?run=…` or `?file=…` the form."""
        words = request.query_params
        if not any(kind in words for kind in ("preset", "run", "file")):
            return await asyncio.to_thread(self._choices)
        return await asyncio.to_thread(self._form, words)

    def _choices(self, problem: str = "", text: str = "", status: int = 200) -> Response:
        page = choices_page(self.index.read(), self.files, problem, text)
        return html_page("New run", page, ("new.js",), status)

    def _form(self, words: QueryParams) -> Response:
        """The form of a beginning as it is; of a file with what training on it would take."""
        try:
            begin = self._beginning(words)
        except NotExploredError as error:
            return self._choices(str(error), error.text, 422)
        name = begin.name.rpartition("/")[2] if begin.kind != "file" else str(begin.values["name"])
        answer = Answer(self.index.free_name(name))
        if begin.kind == "file":
            answer = self._proposed(begin, answer)
        return html_page("New run", form_page(begin, answer), ("new.js",))

    def _proposed(self, begin: Beginning, answer: Answer) -> Answer:
        """An answer with the figures of the preset that was proposed for a file."""
        preset = resolve(begin.values)
        figures, problem, _ = self.dry_runs.figures(preset)
        return (
            replace(answer, problems={"": problem})
            if problem
            else replace(answer, figures=figures, seen=_digest(preset))
        )

    async def submit(self, request: Request) -> Response:
        """`POST /new?preset=…`: what the run would take or, once that was shown, its start."""
        form = await read_form(request)
        return await asyncio.to_thread(self._submit, request.query_params, form)

    def _submit(self, words: QueryParams, form: dict[str, str]) -> Response:
        begin, folder = self._beginning(words), form.get(FOLDER, "").strip()
        first = resolve(begin.values)
        settings = settings_of(first)
        overrides = typed_overrides(form, texts_of(first, settings), settings)
        typed = {key: form[key].replace("\r\n", "\n") for key in overrides}
        preset, problems = resolve_form(begin.values, overrides)
        try:
            path = self.index.new_path(folder)
        except RunError as error:
            problems[FOLDER] = str(error)
        if preset is None or problems:
            return _page(begin, Answer(folder, typed, problems), 422)
        seen = _digest(preset)
        if form.get(DO) == "start" and form.get(SEEN) == seen:
            try:
                self.processes.start(path, preset)
            except RunError as error:
                return _page(begin, Answer(folder, typed, {FOLDER: str(error)}), 409)
            self.index.read()
            return to_page("/run", self.index.key_of_path(path))
        figures, problem, _ = self.dry_runs.figures(preset)
        if problem:
            key = key_of_problem(problem, {each.key: each for each in settings})
            return _page(begin, Answer(folder, typed, {key: problem}), 422)
        notes = tuple(
            f"{key}={json.dumps(value)} of the preset does not apply beside {by}"
            for key, value, by in replaced(begin.values, list(overrides.values()))
        )
        return _page(begin, Answer(folder, typed, {}, notes, figures, seen))

    def _beginning(self, words: QueryParams) -> Beginning:
        """What an address names. Raises PresetError and RunError where that is missing or cannot be used."""
        if "file" in words:
            explored = self.files.explored(words["file"])
            if explored.problem:
                raise NotExploredError(explored.problem, explored.text)
            return Beginning("file", words["file"], explored.values, explored.text)
        if "run" in words:
            key = words["run"]
            values = read_preset(self.index.run(key)[0])
            if values is None:
                raise RunError(f"{key}: has no preset.json to begin from; choose another run")
            return Beginning("run", key, values)
        name = words.get("preset", "")
        text = packaged_text(name)  # never a path
        if text is None:
            raise unknown_preset(name)
        return Beginning("preset", name, parse_preset(text, name))


def _digest(preset: Preset) -> str:
    return hashlib.sha256(json.dumps(preset.model_dump(mode="json")).encode()).hexdigest()


def _page(begin: Beginning, answer: Answer, status: int = 200) -> Response:
    return html_page("New run", form_page(begin, answer), ("new.js",), status)


def form_page(begin: Beginning, answer: Answer) -> str:
    """The body of the page of the form."""
    first = resolve(begin.values)
    settings = settings_of(first)
    texts = texts_of(first, settings)
    typed = texts | answer.typed
    action = link("/new", **{begin.kind: begin.name})
    others = "; ".join(each for key, each in answer.problems.items() if key not in (*typed, FOLDER))
    count = sum(key in typed or key == FOLDER for key in answer.problems)
    wrong = f"{count} value{'s are' if count > 1 else ' is'} wrong; see below" if count else ""
    return (
        f"<h1>New run</h1><p class='note'>{escaped(first.method.name)} on {escaped(first.data.type)}, from the "
        f"{begin.kind} <bdi>{escaped(begin.name)}</bdi>: {escaped(first.description)}</p>{alert(others)}{alert(wrong)}"
        f"{_explored(begin)}"
        f'<form class="settings" method="post" action="{action}">'
        f'{_figures(answer)}<div class="setting"><label for="{FOLDER}">Folder of the run</label>'
        f'<input id="{FOLDER}" name="{FOLDER}" value="{escaped(answer.folder)}" maxlength="100" required '
        f'spellcheck="false">{alert(answer.problems.get(FOLDER, ""))}</div>'
        f"{fieldsets(settings, typed, texts, answer.problems)}"
        f'<p><button name="{DO}" value="show">Show what it takes</button></p></form>'
    )


def _explored(begin: Beginning) -> str:
    """What a file holds; empty for other beginnings."""
    text = f'<pre tabindex="0" aria-label="What the file holds">{escaped(begin.text)}</pre>'
    return f"<section id='explored'><h2>What the file holds</h2>{text}</section>" if begin.text else ""


def _figures(answer: Answer) -> str:
    """What the run would take, with the buttons."""
    notes = "".join(f"<p class='note'>{escaped(each)}</p>" for each in answer.notes)
    show = f'<button name="{DO}" value="show">Show what it takes</button>'  # the first, which Enter presses
    waiting = f'<p id="waiting" class="note" role="status" data-longest="{LONGEST_SECONDS:.0f}"></p>'
    if not answer.figures:
        return f"<p>{show}</p>{waiting}"
    return (
        f'<section id="figures"><h2>What it takes</h2>{notes}<pre tabindex="0">{escaped(answer.figures)}</pre>'
        f'<input type="hidden" name="{SEEN}" value="{answer.seen}">'
        f'<p>{show} <button name="{DO}" value="start">Start</button></p></section>{waiting}'
    )
