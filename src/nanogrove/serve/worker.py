"""The thread that steps the engines, and the mailboxes in which the event loop reads what it did.

The thread computes and delivers; all else, the figures included, belongs to the event loop.
"""

import asyncio
import threading
import time
from collections.abc import Sequence

from nanogrove.errors import NanogroveError
from nanogrove.serve.engine import BusyError, Engine, Request, Ticket, Update
from nanogrove.serve.metrics import Metrics

ENDING = "the server is ending; send this request again later"
FAILED = "the model failed within a step, and all requests of it with it; send this one again"


class Mailbox:
    """What was done for one request, in the order in which it was done."""

    def __init__(self, engine: Engine, ticket: Ticket, name: str) -> None:
        self.engine, self.ticket, self.name = engine, ticket, name
        self.began = time.perf_counter()
        self.ended = asyncio.Event()
        self._updates: list[Update] = []
        self._some = asyncio.Event()

    def put(self, update: Update) -> None:
        """Adds an update."""
        self._updates.append(update)
        self._some.set()
        if update.end is not None:
            self.ended.set()

    async def take(self) -> list[Update]:
        """All updates since the last call, one or more."""
        await self._some.wait()
        self._some.clear()
        updates, self._updates = self._updates, []
        return updates


class Worker:
    """Steps engines in turn, in a thread of its own, for as long as there is something to do.

    `engines` have the names of their models. Made, entered and left on the event loop.
    """

    def __init__(self, engines: dict[str, Engine], metrics: Metrics) -> None:
        self.engines, self.metrics = engines, metrics
        self._mailboxes: dict[Ticket, Mailbox] = {}
        self._wake, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    async def __aenter__(self) -> "Worker":
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await asyncio.to_thread(self._thread.join)

    def stop(self) -> None:
        """Ends all requests as failed, and the thread; none is taken any more."""
        self._closing = True
        self._wake.set()

    def submit(self, name: str, request: Request) -> Mailbox:
        """Hands a request to an engine. Raises BusyError where too many wait, and where the server is ending."""
        if self._closing:
            raise BusyError(ENDING)
        ticket = self.engines[name].submit(request)
        mailbox = self._mailboxes[ticket] = Mailbox(self.engines[name], ticket, name)
        self.metrics.add("nanogrove_prompt_tokens", len(request.prompt), model=name)
        self._wake.set()
        return mailbox

    def cancel(self, mailbox: Mailbox) -> None:
        """Frees the place of a request whose client is gone, at the next step; one that has ended stays as it is."""
        mailbox.ticket.cancelled = True
        self._wake.set()

    def _run(self) -> None:
        while not self._closing:
            busy = [name for name, engine in self.engines.items() if engine.waiting or engine.active]
            if not busy:
                self._wake.wait()
                self._wake.clear()
            for name in busy:
                began = time.perf_counter()
                updates = self._stepped(self.engines[name])
                self._loop.call_soon_threadsafe(self._deliver, name, updates, time.perf_counter() - began)
        for name, engine in self.engines.items():
            self._loop.call_soon_threadsafe(self._deliver, name, engine.abandon(ENDING), 0.0)

    def _stepped(self, engine: Engine) -> list[Update]:
        """The updates of a step; an error ends the requests of its engine, and not the server."""
        try:
            return engine.step()
        except Exception as error:
            return engine.abandon(str(error) if isinstance(error, NanogroveError) else FAILED)

    def _deliver(self, name: str, updates: Sequence[Update], seconds: float) -> None:
        """Puts updates into their mailboxes, and counts."""
        self.metrics.observe("nanogrove_step_seconds", seconds, model=name)
        written, now = 0, time.perf_counter()
        for update in updates:
            mailbox = self._mailboxes[update.ticket]
            written += update.end in (None, "stop", "length")
            if update.tokens == 1 and update.end != "cancelled":
                self.metrics.observe("nanogrove_first_token_seconds", now - mailbox.began, model=name)
            if update.end is not None:
                del self._mailboxes[update.ticket]
                self.metrics.add("nanogrove_requests", model=name, end=update.end)
                self.metrics.observe("nanogrove_request_seconds", now - mailbox.began, model=name)
            mailbox.put(update)
        self.metrics.add("nanogrove_new_tokens", written, model=name)
