"""A run is read and drawn once for all pages, seldom enough, and shown as it is: grown, cut back, replaced or gone."""

import asyncio
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.ui.conftest import evaluation, step, write_run

from nanogrove.errors import RunError
from nanogrove.record.events import Event
from nanogrove.record.lock import FolderLock
from nanogrove.ui import live
from nanogrove.ui.index import Index
from nanogrove.ui.live import LiveRun, LiveRuns, stamp_of
from nanogrove.ui.processes import Processes

ONLY = ["overview", "status", "curves", "preset", "machine"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once, and each may draw."""
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(live, "SHARE", 0.0)


def live_run(run: Path) -> LiveRun:
    index = Index(run.parent)
    return LiveRun(run.name, lambda: index.path_of(run.name), Processes())


def streamed(
    shown: LiveRun, seen: str, count: int, between: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """The first messages of the stream of a run."""

    async def collect() -> list[Any]:
        messages, stream = list[Any](), shown.changes(seen, lambda: False)
        async for event in stream:
            messages.append(json.loads(event.partition(b"data: ")[2]))
            if len(messages) == count:
                break
            between()
        await stream.aclose()  # type: ignore[attr-defined]
        return messages

    return asyncio.run(asyncio.wait_for(collect(), 20))


def append(run: Path, *events: Event) -> None:
    with (run / "events.jsonl").open("a") as record:
        record.writelines(event.line() for event in events)


@pytest.mark.usefixtures("quick")
def test_a_record_that_grows_or_is_cut_back_is_drawn_as_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", step(1), step(2))
    record, contents = run / "events.jsonl", iter([[step(n) for n in (1, 2, 3)], [step(1)]])
    start = record.read_bytes().partition(b"\n")[0] + b"\n"

    def change() -> None:
        record.write_bytes(start + "".join(event.line() for event in next(contents)).encode())

    first, grown, cut = streamed(live_run(run), stamp_of(run), 3, change)
    assert first["order"] is None
    assert list(first["sections"]) == ["status"]
    assert "2 of 10 steps" in first["sections"]["status"]
    assert "3 steps" in grown["sections"]["overview"]
    assert "1 of 10 steps" in cut["sections"]["status"]
    assert "1 steps" in cut["sections"]["overview"]
    assert "preset" not in cut["sections"]  # which is the same


@pytest.mark.usefixtures("quick")
def test_a_page_of_an_earlier_server_gets_all_in_its_order(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", step(1))
    (whole,) = streamed(live_run(run), "of another time", 1)
    assert whole["order"] == [name for name in ONLY if name in whole["sections"]]
    assert whole["order"][:3] == ONLY[:3]


@pytest.mark.usefixtures("quick")
def test_a_run_that_goes_is_said_and_one_in_its_place_is_shown(tmp_path: Path) -> None:
    run, elsewhere = write_run(tmp_path / "a", step(1)), write_run(tmp_path / "outside", step(7))

    def replaced() -> None:
        shutil.rmtree(run)
        write_run(run, step(5))

    changes: Any = iter([lambda: shutil.rmtree(run), lambda: write_run(run, step(3)), replaced])
    first, gone, new, other = streamed(live_run(run), "", 4, lambda: next(changes)())
    assert "1 of 10 steps" in first["sections"]["status"]
    assert "a: no run is here" in gone["sections"]["overview"]
    assert "damaged" in gone["sections"]["status"]
    assert gone["order"] == ["overview", "status"]
    assert "3 of 10 steps" in new["sections"]["status"]
    assert new["order"] == first["order"]
    assert "5 of 10 steps" in other["sections"]["status"]
    changes = iter([lambda: (shutil.rmtree(run), run.symlink_to(elsewhere))])
    _, linked = streamed(live_run(run), "", 2, lambda: next(changes)())
    assert "a: no run is here" in linked["sections"]["overview"]


@pytest.mark.usefixtures("quick")
def test_half_a_line_waits_and_a_damaged_line_is_said(tmp_path: Path) -> None:
    run, line = write_run(tmp_path / "a", step(1)), step(2).line()

    def write(text: str) -> None:
        with (run / "events.jsonl").open("a") as record:
            record.write(text)

    shown = live_run(run)
    asyncio.run(shown.page())
    write(line[:20])
    assert "1 of 10 steps" in asyncio.run(shown.page())[1]["status"]
    write(line[20:])
    assert "2 of 10 steps" in asyncio.run(shown.page())[1]["status"]
    write("nonsense\n")
    _, sections = asyncio.run(shown.page())
    assert "line 4 is not an event; the record is damaged" in sections["overview"]
    assert "events.jsonl is damaged" in sections["status"]


class Clock:
    """Stands in for the clocks of `time`."""

    def __init__(self) -> None:
        self.now, self.work = 1000.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.work


def test_pages_take_a_share_of_the_time_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pages of a run that grows at each second, with drawings of 0.1 s and looks of 0.001 s."""
    run, clock, drawn = write_run(tmp_path / "a", step(1)), Clock(), list[float]()
    listed_of = live.listed_of

    def draw(*given: Any) -> dict[str, str]:
        drawn.append(clock.now)
        clock.work += 0.1
        return {"overview": str(len(drawn))}

    def look(*given: Any) -> Any:
        clock.work += 0.001
        return listed_of(*given)

    monkeypatch.setattr(live, "sections_of", draw)
    monkeypatch.setattr(live, "listed_of", look)
    monkeypatch.setattr(live, "time", clock)
    seconds, pages, messages = 80, 3, list[bytes]()
    shown = live_run(run)

    async def sleep(asked: float) -> None:
        """The last of the pages that wait moves the clock."""
        waiting.append(asked)
        if len(waiting) % pages == 0:
            clock.now += asked
            append(run, step(2 + len(waiting)))
        await asyncio.tasks.sleep(0)

    async def watch() -> None:
        async for message in shown.changes("", lambda: len(waiting) >= 2 * pages * seconds):
            messages.append(message)

    async def watch_together() -> None:
        await asyncio.gather(*(watch() for _ in range(pages)))

    waiting = list[float]()
    monkeypatch.setattr(live, "asyncio", SimpleNamespace(sleep=sleep, to_thread=asyncio.to_thread, Lock=asyncio.Lock))
    asyncio.run(watch_together())
    assert len(drawn) >= 8
    assert min(after - before for before, after in pairwise(drawn)) >= 0.1 * live.SHARE
    assert clock.work - 0.2 <= seconds / live.SHARE
    assert sum(b"overview" in message for message in messages) == pages * len(drawn)


def test_the_end_of_a_run_is_drawn_without_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.01)
    run, shown = write_run(tmp_path / "a", step(1)), live_run(tmp_path / "a")

    def end() -> None:
        shown._free_at, shown._next_look = 1e12, 0.0
        append(run, Event("end", 2, {"loss": 1.25}, {"seconds": 1.0}))

    _, last = streamed(shown, "", 2, end)
    assert "1.2500" in last["sections"]["overview"]
    assert "finished" in last["sections"]["status"]


def test_runs_are_kept_while_a_page_is_open_and_a_few_after_that(tmp_path: Path) -> None:
    def find() -> Path:
        raise RunError("no run is here")

    runs = LiveRuns(Processes())
    first = runs.of("0", find)
    first.pages = 1
    for n in range(1, 20):
        runs.of(str(n), find)
    assert runs.of("0", find) is first
    assert len(runs._runs) <= live.KEPT_RUNS + 2


def test_a_page_says_of_which_events_it_shows_some(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", *(step(n, loss=1.0) for n in range(1, 2102)), evaluation(1, 2.0), steps=9000)
    _, sections = asyncio.run(live_run(run).page())
    assert "Drawn from 1 in 2 of 2,101 step events; <code>nanogrove report</code> has all." in sections["thinned"]
    assert "2,101 steps" in sections["overview"]


@pytest.mark.parametrize("steps", [10**400, 2**63, -1, "10", None, [10], {"a": 1}])
@pytest.mark.parametrize("seconds", [1e299, 10**400, -1.0])
def test_a_budget_that_no_run_has_is_not_believed(tmp_path: Path, steps: object, seconds: float) -> None:
    run = write_run(tmp_path / "a")
    (run / "events.jsonl").unlink()
    append(run, Event("start", 0, {"steps": steps}), Event("step", 1, {"loss": 1.0}, {"seconds": seconds}))
    lock = FolderLock(run)
    html = asyncio.run(live_run(run).page())[1]["status"]
    lock.release()
    assert "running</span> 1" in html
    assert "left" not in html
    assert "progress" not in html
