"""What a recorder writes, passes on and leaves out; and that the one of other ranks does nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanogrove.record.events import Event, read_events
from nanogrove.record.folder import RunFolder
from nanogrove.runs.recorder import RECORDED_STEPS, NullRecorder, Recorder


class Listener:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def log(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run") as folder:
        yield folder


def test_an_event_is_written_logged_and_passed_on(folder: RunFolder) -> None:
    tracker, event = Listener(), Event("step", 3, {"loss": 1.5})
    recorder = Recorder(folder, 10, [tracker])
    assert list(recorder.write(event)) == [event]
    assert list(recorder.write_each(iter([Event("sample", 3)]))) == [Event("sample", 3)]
    assert read_events(folder.path / "events.jsonl") == tracker.events == [event, Event("sample", 3)]


def test_rows_go_to_a_file_of_their_own(folder: RunFolder) -> None:
    list(Recorder(folder, 10).write(Event("data", 1, {"name": "labels", "count": 2, "rows": [1, {"a": 2}]})))
    assert read_events(folder.path / "events.jsonl") == [Event("data", 1, {"name": "labels", "count": 2})]
    assert [json.loads(line) for line in (folder.path / "data/labels.jsonl").read_text().splitlines()] == [1, {"a": 2}]


def test_a_long_run_records_evenly_spaced_steps_and_shows_all(folder: RunFolder) -> None:
    recorder = Recorder(folder, 3 * RECORDED_STEPS)
    shown = [event for step in range(1, 8) for event in recorder.write(Event("step", step))]
    assert [event.step for event in shown] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.step for event in read_events(folder.path / "events.jsonl")] == [3, 6]
    list(recorder.write(Event("eval", 7)))
    assert read_events(folder.path / "events.jsonl")[-1] == Event("eval", 7)


def test_other_ranks_write_nothing_and_make_no_samples() -> None:
    def samples() -> Iterator[Event]:
        raise AssertionError("a sample was drawn")
        yield Event("sample", 1)

    recorder = NullRecorder()
    assert list(recorder.write(Event("step", 1))) == list(recorder.write_each(samples())) == []
