"""A new run: a preset or a run to begin from, a form of its settings, what it would take, and its start."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from nanogrove.config.catalog import GROUPS, list_presets, packaged_text, parse_preset, unknown_preset
from nanogrove.config.overrides import replaced, resolve
from nanogrove.config.preset import Preset
from nanogrove.errors import RunError
from nanogrove.record.events import Values
from nanogrove.record.folder import read_preset
from nanogrove.reports.values import escaped
from nanogrove.ui.dry_run import LONGEST_SECONDS, DryRuns
from nanogrove.ui.fields import fieldsets, key_of_problem, resolve_form, settings_of, texts_of, typed_overrides
from nanogrove.ui.forms import read_form
from nanogrove.ui.frame import alert, html_page, link, to_run
from nanogrove.ui.index import Index, Lab
from nanogrove.ui.processes import Processes

FOLDER, DO, SEEN = "folder", "do", "seen"  # fields of the form that are not settings


class Beginning(NamedTuple):
    """What a new run begins from.

    Args:
        kind: `preset` or `run`.
        name: its name in the address.
        values: the JSON of its preset.
    """

    kind: str
    name: str
    values: Values


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
        self.index, self.processes, self.dry_runs = index, processes, DryRuns()

    def close(self) -> None:
        """Ends the dry run under way."""
        self.dry_runs.close()

    async def show(self, request: Request) -> Response:
        """`GET /new`: what there is to begin from; with `?preset=…` or `?run=…` the form."""
        words = request.query_params
        if not ("preset" in words or "run" in words):
            return html_page("New run", await asyncio.to_thread(lambda: choices_page(self.index.read())))

        def body() -> str:
            begin = self._beginning(words)
            return form_page(begin, Answer(self.index.free_name(begin.name.rpartition("/")[2])))

        return html_page("New run", await asyncio.to_thread(body), ("new.js",))

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
            return to_run(self.index.key_of_path(path))
        figures, problem = self.dry_runs.figures(preset)
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


def choices_page(lab: Lab) -> str:
    """The body of the page that asks for a preset, or a run to begin from."""
    descriptions = list_presets()
    groups = "".join(
        f"<h2>{escaped(group.title)}</h2><ul>"
        + "".join(
            f'<li><a href="{link("/new", preset=name)}">{name}</a>: {escaped(descriptions[name])}</li>'
            for name in group.names
        )
        + "</ul>"
        for group in reversed(GROUPS)
    )
    options = "".join(f'<option value="{escaped(key)}">{escaped(key)}</option>' for key in lab.runs)
    runs = (
        '<form class="search"><label for="run">Begin from the settings of a run</label>'
        f'<select id="run" name="run">{options}</select><button>Show its form</button></form>'
    )
    return f"<h1>New run</h1>{runs if lab.runs else ''}<p>Or choose a preset:</p>{groups}"


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
        f'<form class="settings" method="post" action="{action}">'
        f'{_figures(answer)}<div class="setting"><label for="{FOLDER}">Folder of the run</label>'
        f'<input id="{FOLDER}" name="{FOLDER}" value="{escaped(answer.folder)}" maxlength="100" required '
        f'spellcheck="false">{alert(answer.problems.get(FOLDER, ""))}</div>'
        f"{fieldsets(settings, typed, texts, answer.problems)}"
        f'<p><button name="{DO}" value="show">Show what it takes</button></p></form>'
    )


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
