"""What pages show of a run while it trains: it is read and drawn once for all pages that are open, and what changes is
sent to them as server-sent events.

Of a record only what was appended is read, and evenly spaced events are kept (`record/growing.py`), so that a drawing
takes as long for a record of any length. Work of c seconds of CPU is followed by `SHARE` · c seconds without a drawing,
so that training beside it loses 2 % of a CPU, however many pages are open; a look at the record is paced in the same
way.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

from nanogrove.errors import RunError
from nanogrove.record.events import Event
from nanogrove.record.growing import GrowingRecord
from nanogrove.record.listing import ENDS, Listed, is_held, listed, listed_of
from nanogrove.record.reading import Run
from nanogrove.reports.values import escaped
from nanogrove.ui.frame import alert
from nanogrove.ui.processes import Processes
from nanogrove.ui.run_page import sections_of, status

LOOK_SECONDS = 1.0  # between two looks at a record, at least
SHARE = 80.0  # of the time that work may take: one part of so many; the server around it takes the rest of 2 %
ALIVE_SECONDS = 15.0  # between two messages, at most, so that a connection that is gone fails
KEPT_RUNS = 4  # of which no page is open


class Facts(NamedTuple):
    """What changes where there is something to read: nothing else is looked at before it does."""

    stamp: str
    held: bool
    starting: bool
    failure: str


def stamp_of(run: Path) -> str:
    """What changes with the record of a run and its preset."""
    parts = []
    for name in ("preset.json", "events.jsonl"):
        try:
            status = (run / name).lstat()
            parts += [status.st_mtime_ns, status.st_ino, status.st_size]
        except OSError:
            parts += [0, 0, 0]
    return "-".join(map(str, parts))


class LiveRuns:
    """The runs of which pages are open or were open lately, each once."""

    def __init__(self, processes: Processes) -> None:
        self._processes, self._runs = processes, dict[str, LiveRun]()

    def of(self, key: str, find: Callable[[], Path]) -> "LiveRun":
        """The run of a name in addresses, whose folder `find` gives, or raises RunError where it is gone."""
        run = self._runs.pop(key, None) or LiveRun(key, find, self._processes)
        unseen = [name for name, each in self._runs.items() if not each.pages]
        for name in unseen[: len(unseen) - KEPT_RUNS + 1]:
            del self._runs[name]
        self._runs[key] = run
        return run


class LiveRun:
    """A run that pages show.

    Args:
        key: its name in addresses.
        find: gives its folder, or raises RunError where none is there any more.
        processes: what stops and continues it.
    """

    def __init__(self, key: str, find: Callable[[], Path], processes: Processes) -> None:
        self.pages = 0  # that are open
        self.stamp = ""  # of what is drawn
        self.sections = dict[str, str]()  # HTML by name, in the order of the page
        self._key, self._find, self._processes = key, find, processes
        self._lock = asyncio.Lock()
        self._record: GrowingRecord | None = None
        self._run: Run | RunError | None = None  # as last read
        self._facts: Facts | None = None
        self._status, self._ended = "", False
        self._next_look, self._free_at = 0.0, 0.0  # of the monotonic clock
        self._version, self._message = 0, b""  # of the sections, and how they became that from the version before

    async def page(self) -> tuple[str, dict[str, str]]:
        """The sections of the page as the run is now, and the stamp of what they show."""
        async with self._lock:
            await asyncio.to_thread(self._look, True)
        return self.stamp, self.sections

    async def changes(self, seen: str, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Messages for one page, each with the sections that changed.

        Args:
            seen: the stamp of what the page has.
            is_over: whether to end.
        """
        self.pages += 1
        try:
            version, sent = 0, time.monotonic()
            while not is_over():
                await self._look_where_due()
                message = b""
                if not version:
                    message = _message({"status": self._status}) if seen == self.stamp else self._whole()
                elif version < self._version:
                    message = self._message if version == self._version - 1 else self._whole()
                elif time.monotonic() - sent > ALIVE_SECONDS:
                    message = b": \n\n"
                version = self._version
                if message:
                    yield message
                    sent = time.monotonic()
                await asyncio.sleep(LOOK_SECONDS / 2)  # so that the end of the server is seen in time
        finally:
            self.pages -= 1

    async def _look_where_due(self) -> None:
        async with self._lock:
            if time.monotonic() >= self._next_look:
                await asyncio.to_thread(self._look, False)

    def _look(self, at_once: bool) -> None:
        """Reads what was appended, and draws where that is due, or `at_once`."""
        begin, now = time.thread_time(), time.monotonic()
        self._read()
        read = time.thread_time() - begin
        stamp = self._facts.stamp if self._facts else ""
        if stamp != self.stamp and (at_once or self._ended or now >= self._free_at):
            drawn = self._drawn()
            self._publish({"overview": drawn.pop("overview", ""), "status": self._status, **drawn})
            self.stamp = stamp
        else:
            self._publish(self.sections | {"status": self._status})
        taken = time.thread_time() - begin
        self._free_at = max(now, self._free_at) + SHARE * taken
        self._next_look = now + max(LOOK_SECONDS, SHARE * read)

    def _read(self) -> None:
        """Reads what there is to read, where something has changed."""
        try:
            path = self._find()
        except RunError as error:
            self._facts, self._run, self._record, self._ended = None, error, None, False
            self._status = status(Listed(self._key, damage="it is gone"), None, self._key)
            return
        processes = self._processes
        facts = Facts(stamp_of(path), is_held(path), processes.is_starting(path), processes.failure(path))
        if facts == self._facts:
            return
        if self._record is None:
            self._record = GrowingRecord(path)
        last: Event | None = None
        try:
            self._run = self._record.read()
            last = self._record.newest()
            row = listed_of(self._run, last, facts.held)
        except RunError as error:
            self._run, row = error, listed(path, path)
        self._facts, self._ended = facts, row.state in ENDS.values()
        self._status = status(row, last, self._key, facts.starting, facts.failure)

    def _drawn(self) -> dict[str, str]:
        """The sections that follow from what was read."""
        if isinstance(self._run, Run) and self._record is not None:
            return sections_of(self._run, self._record.thinned())
        return {"overview": f"<h1><bdi>{escaped(self._key)}</bdi></h1>{alert(str(self._run))}"}

    def _publish(self, sections: dict[str, str]) -> None:
        """Keeps sections, and what a page that has the ones before needs to become this."""
        fresh = {name: html for name, html in sections.items() if self.sections.get(name) != html}
        order = list(sections) if list(sections) != list(self.sections) else None
        if fresh or order:
            self.sections, self._message = sections, _message(fresh, order)
            self._version += 1

    def _whole(self) -> bytes:
        """The message for a page that has something else than the version before."""
        return _message(self.sections, list(self.sections))


def _message(sections: dict[str, str], order: list[str] | None = None) -> bytes:
    """An event: HTML of sections by name and, where that may have changed, all names in the order of the page."""
    return b"event: sections\ndata: " + json.dumps({"order": order, "sections": sections}).encode() + b"\n\n"
