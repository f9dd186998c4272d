"""The page on which runs write: what it is asked for, and texts as they come.

All models compute in one thread, one step at a time, and one text, or two side by side, at a time: others wait. A page
that goes, or is asked to stop, ends its text after the step under way.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from nanogrove.errors import NanogroveError, PresetError
from nanogrove.ui.asked import Asked, asked_of
from nanogrove.ui.bodies import body_of
from nanogrove.ui.frame import html_page
from nanogrove.ui.index import Index
from nanogrove.ui.models import Models
from nanogrove.ui.play_page import play_page
from nanogrove.ui.writing import Event, Writer, write
from nanogrove.waits import current_progress

LINES_TYPE = "application/x-ndjson"
LOOK_SECONDS = 0.5  # between two looks at how far a long step is


class Playground:
    """Answers requests for the page of runs that write, until it is `over`."""

    def __init__(self, index: Index) -> None:
        self.index, self.models, self.over = index, Models(), False
        self._thread, self._turn = ThreadPoolExecutor(1, "models"), asyncio.Lock()

    def routes(self) -> list[Route]:
        """Its addresses."""
        return [Route("/try", self.show), Route("/try/write", self.write, methods=["POST"])]

    async def show(self, request: Request) -> Response:
        """`GET /try?name=…`: the page of a run that writes. Raises RunError where there is none."""
        key = request.query_params.get("name", "")

        def body() -> str:
            run, _ = self.index.run(key)
            rewards, others = list[str](), list[str]()
            for name, entry in self.index.read().runs.items():
                (rewards if entry.run.method == "reward_model" else others).append(name)
            return play_page(key, run, [other for other in others if other != key], rewards)

        return html_page(f"Try {key}", await asyncio.to_thread(body), ("tokens.js", "play.js"))

    async def write(self, request: Request) -> Response:
        """`POST /try/write`: texts as lines of JSON, each a list of events of `writing`."""
        body = await body_of(request)
        headers = {"Cache-Control": "no-store"}
        try:
            asked = await asyncio.to_thread(asked_of, body)
            paths = [(await asyncio.to_thread(self.index.run, side.run))[0] for side in asked.sides]
            if len(set(paths)) < len(paths):
                raise PresetError("a run cannot stand beside itself; choose another one")
            reward = None
            if asked.steering is not None and asked.steering.kind == "run":
                reward = (await asyncio.to_thread(self.index.run, asked.steering.of))[0]
        except NanogroveError as error:
            refusal = _line([{"side": side, "problem": str(error)} for side in (0, 1)])
            return Response(refusal, 409, headers, LINES_TYPE)
        writers = [Writer(side, path) for side, path in zip(asked.sides, paths, strict=True)]
        return StreamingResponse(self._lines(writers, asked, reward), media_type=LINES_TYPE, headers=headers)

    async def _lines(self, writers: list[Writer], asked: Asked, reward: Path | None = None) -> AsyncIterator[bytes]:
        """Lines of events, until the texts end or the page is gone."""
        if self._turn.locked():
            yield _line([{"side": 0, "state": "Waiting for another text to end."}])
        async with self._turn:
            work = write(self.models, writers, asked, reward)
            try:
                while not self.over:
                    step = self._thread.submit(next, work, None)
                    async for line in _until(step):
                        yield line
                    events = step.result()
                    if events is None:
                        return
                    yield _line(events)
            finally:
                self._thread.submit(_closed, work)  # after a step under way


def _closed(work: Generator[list[Event], None, None]) -> None:
    work.close()


async def _until(step: "Future[list[Event] | None]") -> AsyncIterator[bytes]:
    """Ends with a step; meanwhile says how far a long one is, where that is known."""
    ended = asyncio.wrap_future(step)
    while True:
        await asyncio.wait({ended}, timeout=LOOK_SECONDS)
        if ended.done():
            return
        progress = current_progress()
        share = None if progress is None else progress.share()
        yield _line([] if share is None else [{"side": 0, "share": share}])


def _line(events: list[Event]) -> bytes:
    return json.dumps(events).encode() + b"\n"
