"""What changes in the page of a run, as server-sent events.

The record is read whole each time it changed, so that a run that was killed and resumed, whose record was cut back, is
drawn as it is now. Drawing takes a fiftieth of the time at most, so that training beside it loses 2 % of a CPU.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from nanogrove.record.listing import ENDS, listed
from nanogrove.ui.processes import Processes
from nanogrove.ui.run_page import sections_of, status

LOOK_SECONDS = 1.0  # between two looks at a record
SHARE = 50.0  # of the time that a drawing may take: one part of so many


def stamp_of(run: Path) -> str:
    """What changes with the record of a run and its preset."""
    parts = []
    for name in ("preset.json", "events.jsonl"):
        try:
            status = (run / name).lstat()
            parts += [status.st_mtime_ns, status.st_size]
        except OSError:
            parts += [0, 0]
    return "-".join(map(str, parts))


async def changes(
    run: Path, key: str, seen: str, processes: Processes, is_over: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Sections of the page of a run, each time some have changed.

    Args:
        run: its folder.
        key: its name in addresses.
        seen: the stamp of what the page has.
        processes: what stops and continues it.
        is_over: whether to end.
    """
    sent = dict[str, str]()
    next_drawing = 0.0
    while not is_over():
        sections = {"status": await asyncio.to_thread(status, run, key, processes)}
        order = None
        stamp = stamp_of(run)
        if stamp != seen and (time.monotonic() >= next_drawing or _has_ended(run)):
            drawn, seconds = await asyncio.to_thread(_drawn, run, key)
            next_drawing, seen = time.monotonic() + SHARE * seconds, stamp
            order = ["overview", "status", *(name for name in drawn if name != "overview")]
            sections |= drawn
        fresh = {name: html for name, html in sections.items() if sent.get(name) != _digest(html)}
        sent |= {name: _digest(html) for name, html in fresh.items()}
        if fresh or order:
            yield b"event: sections\ndata: " + json.dumps({"order": order, "sections": fresh}).encode() + b"\n\n"
        else:
            yield b": \n\n"  # which fails where the page is gone
        await asyncio.sleep(LOOK_SECONDS)


def _has_ended(run: Path) -> bool:
    """Whether a run has come to its end, so that its record grows no more and is drawn once, without delay."""
    return listed(run, run).state in ENDS.values()


def _drawn(run: Path, key: str) -> tuple[dict[str, str], float]:
    """The sections of a run, and the seconds of CPU that they took."""
    begin = time.thread_time()
    return sections_of(run, key), time.thread_time() - begin


def _digest(html: str) -> str:
    return hashlib.sha256(html.encode(errors="replace")).hexdigest()
