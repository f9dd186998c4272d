"""A run folder: its preset, its record, its lock.

preset.json   events.jsonl   checkpoints/   data/   trackers/   report.html   .lock

A folder may be a stranger's, so nothing is written through what is not a plain file or folder. What a run left is cut
back only where a checkpoint says so, which names the position in the record and the digest of what comes before it.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from typing import Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from nanogrove.atomic import (
    flush_folder,
    leftovers,
    make_folder,
    no_links,
    not_plain,
    read_file,
    refusal,
    write_file,
)
from nanogrove.errors import DataError, RunError
from nanogrove.json_reading import BadJsonError, parse_json
from nanogrove.record.events import Event, Values, event_of, lines_that_fit
from nanogrove.record.lock import FolderLock
from nanogrove.settings import cut, reason

Row = TypeVar("Row")

FILES = (".lock", "preset.json", "events.jsonl")
FOLDERS = ("checkpoints", "data", "trackers")
PRESET_BYTES = 1 << 24  # of preset.json, at most
LINE_BYTES = 1 << 26  # of an event, at most
HALVES = "backslashreplace"  # half of a character, as a name of a file may hold, becomes its escape in JSON


class RunFolder:
    """A run folder held by this process: the only one that may write in it until `close`."""

    def __init__(self, path: Path) -> None:
        """Makes the folder where it is missing, and takes its lock, which the system drops when the process ends.

        Raises RunError when another process holds it, when it cannot be made, and when a part of it is not a plain file
        or folder.
        """
        self.path, self._hash = path, hashlib.sha256()
        refuse_link(path)
        for name in (*FILES, *FOLDERS):
            if reason := not_plain(path / name, folder=name in FOLDERS):
                kind = "folder" if name in FOLDERS else "file"
                raise RunError(f"{path / name}: {reason}, and is not written through; put a {kind} in its place")
        try:
            with ExitStack() as held:
                self._lock = FolderLock(path)
                held.callback(self._lock.release)
                self._events = FileIO(path / "events.jsonl", "a", opener=no_links)
                flush_folder(path)
                held.pop_all()
        except OSError as error:
            raise RunError(f"{path}: no run folder can be made here {refusal(error)} or choose another --out") from None

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of this run."""
        return self.path / "checkpoints"

    def preset(self) -> Values | None:
        """The resolved preset of the run, or None before it was written. Raises RunError when it is damaged."""
        return read_preset(self.path)

    def write_preset(self, preset: Values) -> None:
        """Writes `preset.json`, whole or not at all; with it, a run has its folder of checkpoints, of which none may be
        saved yet. Raises RunError when the disk refuses.
        """
        try:
            make_folder(self.checkpoints)
            _write(
                self.path / "preset.json",
                (json.dumps(preset, indent=1, ensure_ascii=False) + "\n").encode(errors=HALVES),
            )
        except OSError as error:
            raise RunError(f"{self.path}: the preset cannot be written {refusal(error)}") from None

    def start(self) -> Event | None:
        """The first event of the record; None where there is none, or it is damaged."""
        event = next(self._events_of_record(), None)
        return event if event and event.kind == "start" and isinstance(event.time, dict) else None

    def reached(self) -> int:
        """The last step that the record knows of, however damaged it is."""
        return max((event.step for event in self._events_of_record() if isinstance(event.step, int)), default=0)

    def end(self) -> Event | None:
        """The last event of the record where that is the end of the run; else None."""
        last = deque(self._events_of_record(), maxlen=1)
        return last[0] if last and last[0].kind == "end" else None

    def _events_of_record(self) -> Iterator[Event]:
        """The events of the record in order, less the lines that are none."""
        with suppress(OSError), open(self.path / "events.jsonl", "rb", opener=no_links) as file:
            for line in iter(lambda: file.readline(LINE_BYTES), b""):
                with suppress(ValueError):
                    yield event_of(line.decode(errors="replace"))

    def append(self, event: Event) -> None:
        """Adds an event to the record. Raises RunError when the disk refuses."""
        try:
            line = event.line().encode(errors=HALVES)
            self._hash.update(line)
            while line:
                line = line[self._events.write(line) :]
        except OSError as error:
            raise RunError(f"{self.path}: the record cannot be written {refusal(error)}") from None

    def write_rows(self, name: str, rows: Sequence[object]) -> None:
        """Writes `data/NAME.jsonl`, a row per line, whole or not at all. Raises RunError when the disk refuses."""
        folder = self.path / "data"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            make_folder(folder)
            _write(folder / f"{name}.jsonl", lines.encode(errors=HALVES))
        except OSError as error:
            raise RunError(f"{folder}: data cannot be written {refusal(error)}") from None

    def read_rows(self, name: str, kind: type[Row], check: Callable[[Row], None], count: int | None) -> list[Row]:
        """The rows of `data/NAME.jsonl`, each of which is a `kind`, a TypedDict of typing_extensions.

        Raises RunError when the file is missing or damaged, where `check` raises ValueError or DataError for a row, and
        where there are not `count` of them.
        """
        path = self.path / "data" / f"{name}.jsonl"
        adapter, rows = TypeAdapter(kind), list[Row]()
        try:
            for line in lines_that_fit(path, whole=True):
                rows.append(adapter.validate_python(parse_json(line), strict=True))
                check(rows[-1])
            if rows and count in (None, len(rows)):
                return rows
            why = f"is damaged, with {len(rows)} rows of {count or 'one or more'}"
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
        except BadJsonError as error:
            why = f"is damaged, {error}"
        except ValidationError as error:
            problem = error.errors()[0]
            why = f"is damaged, line {len(rows) + 1}: {cut('.'.join(map(str, problem['loc'])))} {reason([problem])}"
        except (ValueError, DataError) as error:
            why = f"is damaged, line {len(rows)}: {error}"
        raise RunError(f"{path}: {why}; put back what the run wrote there, or train anew in another folder")

    def mark(self) -> Values:
        """Where the record ends now, all of it on disk when this returns: its `position` in bytes and its `record`.

        The latter is a digest of all before the position. Raises RunError when the disk refuses.
        """
        try:
            os.fsync(self._events.fileno())
        except OSError as error:
            raise RunError(f"{self.path}: the record cannot be written {refusal(error)}") from None
        return {"position": os.fstat(self._events.fileno()).st_size, "record": self._hash.hexdigest()}

    def check(self, mark: Values) -> None:
        """Raises RunError where this is not the record that ended, or went on, at a `mark`."""
        record = self.path / "events.jsonl"
        self._hash, left = hashlib.sha256(), mark.get("position", 0)
        with open(record, "rb", opener=no_links) as file:
            while part := file.read(min(left, LINE_BYTES)):
                self._hash.update(part)
                left -= len(part)
        # A checkpoint of an earlier version has no digest.
        if left or mark.get("record", self._hash.hexdigest()) != self._hash.hexdigest():
            raise RunError(
                f"{record}: is not the record that its checkpoint was saved with; put that back, or move this one "
                "away, and --resume begins a new one"
            )

    def rewind(self, mark: Values) -> None:
        """Cuts the record back to a `mark`, so that it holds one history. Raises RunError as `check` does, uncut."""
        self.check(mark)
        os.truncate(self._events.fileno(), mark.get("position", 0))

    def is_empty(self) -> bool:
        """Whether the record holds nothing."""
        return os.fstat(self._events.fileno()).st_size == 0

    def close(self) -> None:
        """Gives the folder back, and takes away one in which nothing has begun."""
        self._events.close()
        begun = (self.path / "preset.json").exists()
        if not begun:
            with suppress(OSError):
                if not (self.path / "events.jsonl").stat().st_size:
                    (self.path / "events.jsonl").unlink()
                for aside in leftovers(self.path / "preset.json"):
                    aside.unlink()
            with suppress(OSError):  # it holds something
                self.checkpoints.rmdir()
        self._lock.release(remove=not begun)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _write(path: Path, data: bytes) -> None:
    """`write_file` in a folder whose lock this process holds, so that no other file aside is still being written."""
    write_file(path, data)
    for aside in leftovers(path):
        with suppress(OSError):
            aside.unlink()


def refuse_link(run: Path) -> None:
    """Raises RunError for a run folder that is a link, so that what is written is written where one sees it."""
    if run.is_symlink():
        raise RunError(f"{run}: is a link; give the folder that it leads to, {run.resolve()}")


def parts_of_run(run: Path) -> list[str]:
    """The record and the checkpoints of a folder, by name, as far as they hold anything."""
    parts = []
    with suppress(OSError):
        if (run / "events.jsonl").stat().st_size:
            parts.append("events.jsonl")
    with suppress(OSError):
        if os.listdir(run / "checkpoints"):
            parts.append("checkpoints")
    return parts


def read_preset(run: Path) -> Values | None:
    """The resolved preset of a run folder, None where there is none and no other part of a run.

    Raises RunError when it is not a JSON object, and when it is missing while other parts are there.
    """
    path = run / "preset.json"
    if path.is_symlink():
        raise RunError(f"{path}: is a link; put the file itself in its place")
    try:
        preset = parse_json(read_file(path, PRESET_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        if parts := parts_of_run(run):
            raise RunError(
                f"{path}: missing, and {' and '.join(parts)} of a run are here; put it back, or train in another folder"
            ) from None
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); put back what the run wrote there") from None
    except BadJsonError as error:
        raise RunError(f"{path}: cannot be read ({error}); put back what the run wrote there") from None
    if not isinstance(preset, dict):
        raise RunError(f"{path}: damaged, not a preset; put back what the run wrote there")
    return preset
