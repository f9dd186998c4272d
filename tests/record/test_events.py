"""Records are read line by line, within limits; what is wrong with one is said in one line."""

from pathlib import Path

import pytest

from nanogrove import json_reading
from nanogrove.errors import RunError
from nanogrove.record import events
from nanogrove.record.events import Event, read_events
from nanogrove.record.folder import RunFolder

LINES = [Event("start", 0, {"name": "a\u2028b"}).line(), Event("step", 1, {"loss": 2.5}).line()]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


def test_a_last_line_cut_short_is_left_out(record: Path) -> None:
    assert "".join(event.line() for event in read_events(record)) == "".join(LINES)
    record.write_bytes(record.read_bytes()[:-1])
    assert [event.kind for event in read_events(record)] == ["start"]


@pytest.mark.parametrize("line", ["5", "{", "[" * 100_000, '{"kind": "step", "step": -1, "time": {}}', "\ufeff"])
def test_a_line_that_is_no_event_is_named(record: Path, line: str) -> None:
    record.write_text(f"{LINES[0]}{line}\n{LINES[1]}", encoding="utf-8")
    with pytest.raises(RunError, match=r"line 2 is not an event; the record is damaged$"):
        read_events(record)


def test_a_line_without_end_is_not_read_to_its_end(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_reading, "MAX_BYTES", 200)
    record.write_text(LINES[0] + '"' + "x" * 1000, encoding="utf-8")
    with pytest.raises(RunError, match=r"line 2 has more than 200 bytes; the record is damaged$"):
        read_events(record)


def test_a_record_that_does_not_fit_in_memory_is_not_read(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "free_bytes", lambda: 100)
    with pytest.raises(RunError, match=r"takes about .* of memory, and 100 bytes are free"):
        read_events(record)


def test_rows_come_back_whatever_their_texts_hold(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\x85\r\n"}, {"text": "é"}]
    with RunFolder(tmp_path / "run") as folder:
        folder.write_rows("round-1", rows)
        assert folder.read_rows("round-1", dict, print, 2) == rows
