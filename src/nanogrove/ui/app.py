"""The pages, as a Starlette application."""

import asyncio
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from nanogrove.errors import NanogroveError, RunError
from nanogrove.ui.compare_page import choice_of, compare_page
from nanogrove.ui.door import Door
from nanogrove.ui.forms import save_notes
from nanogrove.ui.frame import ASSETS, alert, asset, html_page, link, to_page
from nanogrove.ui.index import Index
from nanogrove.ui.live import LiveRun, LiveRuns
from nanogrove.ui.new_run import NewRuns
from nanogrove.ui.notes import Notes, read_notes
from nanogrove.ui.play import Playground
from nanogrove.ui.processes import Processes
from nanogrove.ui.run_list import asked_of, list_page
from nanogrove.ui.run_page import notes_form, run_page
from nanogrove.ui.study_page import StudyPages, compared_keys, verdicts_of

DAY_SECONDS = 86_400
MISSING = ("no run is here", "no study is here", "no dropped file is here")  # ends of errors


def application(index: Index, secret: str) -> tuple[Starlette, "Pages"]:
    """The pages of the runs of an index, within a door that takes a secret."""
    pages = Pages(index)
    return Starlette(
        routes=[
            Route("/", pages.list_runs),
            Route("/compare", pages.compare_runs),
            Route("/run", pages.show_run),
            Route("/run/events", pages.stream),
            Route("/run/notes", pages.save_notes, methods=["POST"]),
            Route("/run/stop", pages.stop_run, methods=["POST"]),
            Route("/run/continue", pages.continue_run, methods=["POST"]),
            Route("/assets/{name}", pages.send_asset),
            *pages.new_runs.routes(),
            *pages.studies.routes(),
            *pages.playground.routes(),
        ],
        middleware=[Middleware(Door, secret=secret)],
        exception_handlers={HTTPException: _no_such_page, NanogroveError: _refused},
    ), pages


class Pages:
    """Answers requests for the pages of the runs of an index, until `close`."""

    def __init__(self, index: Index) -> None:
        self.index, self.processes, self.over = index, Processes(), False
        self.live = LiveRuns(self.processes)
        self.new_runs, self.playground = NewRuns(index, self.processes), Playground(index)
        self.studies = StudyPages(index)

    def close(self) -> None:
        """Ends the streams, dry runs and exploring."""
        self.over = self.playground.over = True
        self.new_runs.close()

    async def list_runs(self, request: Request) -> Response:
        """`GET /`: all runs and studies."""
        asked = asked_of(request.query_params)

        def body() -> str:
            return list_page(self.index.read(), asked, str(self.index.root), time.time())

        return html_page("Runs", await asyncio.to_thread(body), ("list.js",))

    async def compare_runs(self, request: Request) -> Response:
        """`GET /compare?run=…&run=…`: several runs in one figure."""
        choice = choice_of(request.query_params)

        def body() -> str:
            paths, problems, keys = dict[str, Path](), list[str](), list(choice.runs)
            look = bool(choice.studies) or not self.index.lists(keys)
            runs = self.index.read().runs if look else {}  # once, however many names are wrong
            for study in choice.studies:
                try:
                    keys += compared_keys(study, self.index.study(study, look=False)[0], runs)
                except NanogroveError as error:
                    problems.append(str(error))
            for key in keys:
                try:
                    paths[key] = self.index.folder(key, look=False)
                except RunError as error:
                    problems.append(str(error))
            studies = {key: self.index.study(key)[0] for key in self.index.studies_of(paths)}
            return compare_page(choice, paths, problems, verdicts_of(studies))

        return html_page("Compare", await asyncio.to_thread(body), ("plotly.js", "figures.js", "run.js"))

    async def show_run(self, request: Request) -> Response:
        """`GET /run?name=…`: a run."""
        key, path = await self._run(request)
        action = link("/run/notes", name=key)

        def form() -> str:
            try:
                notes = read_notes(path)
            except RunError as error:
                return notes_form(action, Notes(), Notes().digest(), str(error))
            return notes_form(action, notes, notes.digest())

        return await self._page(key, path, await asyncio.to_thread(form))

    async def stream(self, request: Request) -> Response:
        """`GET /run/events?name=…&seen=…`: what changes in the page of a run."""
        key, path = await self._run(request)
        events = self._live(key, path).changes(request.query_params.get("seen", ""), lambda: self.over)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def save_notes(self, request: Request) -> Response:
        """`POST /run/notes?name=…`: what a person wrote; where it cannot be saved, it is in the form again."""
        key, run = await self._run(request)
        unsaved = await save_notes(request, run)
        if unsaved is not None:
            return await self._page(key, run, notes_form(link("/run/notes", name=key), *unsaved), 409)
        return to_page("/run", key, "#notes")

    async def stop_run(self, request: Request) -> Response:
        """`POST /run/stop?name=…`."""
        key, run = await self._run(request)
        await asyncio.to_thread(self.processes.stop, run)
        return to_page("/run", key)

    async def continue_run(self, request: Request) -> Response:
        """`POST /run/continue?name=…`."""
        key, run = await self._run(request)
        await asyncio.to_thread(self.processes.resume, run)
        return to_page("/run", key)

    async def send_asset(self, request: Request) -> Response:
        """`GET /assets/NAME`: a script or the style."""
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404, "no such file")
        headers = {"Cache-Control": f"private, max-age={DAY_SECONDS}"}
        return Response(await asyncio.to_thread(asset, name), media_type=ASSETS[name][0], headers=headers)

    async def _page(self, key: str, run: Path, form: str, code: int = 200) -> Response:
        stamp, sections = await self._live(key, run).page()
        return html_page(key, run_page(key, stamp, sections, form), ("plotly.js", "figures.js", "run.js"), code)

    def _live(self, key: str, run: Path) -> LiveRun:
        name = str(run.relative_to(self.index.root))
        return self.live.of(key, lambda: self.index.path_of(name))

    async def _run(self, request: Request) -> tuple[str, Path]:
        """The run that an address names: its name there and its folder. Raises RunError."""
        key = request.query_params.get("name", "")
        return key, await asyncio.to_thread(self.index.folder, key)


async def _refused(request: Request, error: Exception) -> Response:
    missing = isinstance(error, RunError) and str(error).endswith(MISSING)
    return html_page("Not done", f"<h1>Not done</h1>{alert(str(error))}", status=404 if missing else 409)


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return html_page(error.detail, f"<h1>{error.status_code}</h1>{alert(error.detail)}", status=error.status_code)
