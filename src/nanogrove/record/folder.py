"""A run folder: its preset, its record, its lock.

preset.json   events.jsonl   checkpoints/   report.html   .lock
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from nanogrove.atomic import leftovers, no_links, write_file
from nanogrove.errors import RunError
from nanogrove.json_reading import BadJsonError, read_json
from nanogrove.record.events import Event, Values, event_of


class RunFolder:
    """A run folder held by this process: the only one that may write in it until `close`."""

    def __init__(self, path: Path) -> None:
        """Makes the folder where it is missing, and takes its lock, which the system drops when the process ends.

        Raises RunError when another process holds it, or it cannot be made.
        """
        self.path = path
        for name in (".lock", "preset.json", "events.jsonl", "checkpoints", "data"):
            if (path / name).is_symlink():
                raise RunError(f"{path / name}: is a link, and would be written through; put a plain one in its place")
        self._lock = FileLock(path / ".lock", thread_local=False)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._events = FileIO(path / "events.jsonl", "a", opener=no_links)
        except Timeout:
            raise RunError(
                f"{path}: in use by {self._owner()}; wait for it, stop it, or choose another --out"
            ) from None
        except OSError as error:
            self._lock.release()
            raise RunError(f"{path}: no run folder can be made here ({error.strerror}); choose another --out") from None
        with suppress(OSError), FileIO(path / ".lock", "w", opener=no_links) as lock:
            lock.write(f"process {os.getpid()}".encode())  # on a full disk it is held all the same

    def _owner(self) -> str:
        """What the lock says of the process that holds it; Windows lets nobody read it meanwhile."""
        try:
            return (self.path / ".lock").read_text(encoding="utf-8", errors="replace").strip() or "another process"
        except OSError:
            return "another process"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of this run."""
        return self.path / "checkpoints"

    def preset(self) -> Values | None:
        """The resolved preset of the run, or None before it was written. Raises RunError when it is damaged."""
        return read_preset(self.path)

    def write_preset(self, preset: Values) -> None:
        """Writes `preset.json`, whole or not at all. Raises RunError when the disk refuses."""
        try:
            write_file(self.path / "preset.json", (json.dumps(preset, indent=1, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise RunError(f"{self.path}: the preset cannot be written ({error.strerror}); free some space") from None

    def start(self) -> Event | None:
        """The first event of the record; None where there is none, or it is damaged."""
        try:
            with (self.path / "events.jsonl").open(encoding="utf-8", errors="replace") as file:
                event = event_of(file.readline())
        except (OSError, ValueError):
            return None
        return event if event.kind == "start" else None

    def append(self, event: Event) -> None:
        """Adds an event to the record. Raises RunError when the disk refuses."""
        try:
            line = event.line().encode()
            while line:
                line = line[self._events.write(line) :]
        except OSError as error:
            raise RunError(f"{self.path}: the record cannot be written ({error.strerror}); free some space") from None

    def write_rows(self, name: str, rows: Sequence[object]) -> None:
        """Writes `data/NAME.jsonl`, a row per line, whole or not at all. Raises RunError when the disk refuses."""
        folder = self.path / "data"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            folder.mkdir(exist_ok=True)
            write_file(folder / f"{name}.jsonl", lines.encode())
        except OSError as error:
            raise RunError(f"{folder}: data cannot be written ({error.strerror}); free some space") from None

    def read_rows(self, name: str) -> list[Any]:
        """The rows of `data/NAME.jsonl`. Raises RunError when they are missing or damaged."""
        path = self.path / "data" / f"{name}.jsonl"
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: data that this run made cannot be read ({error}); start anew") from None

    def position(self) -> int:
        """Bytes in the record, all of them on disk when this returns. Raises RunError when the disk refuses."""
        try:
            os.fsync(self._events.fileno())
        except OSError as error:
            raise RunError(f"{self.path}: the record cannot be written ({error.strerror}); free some space") from None
        return os.fstat(self._events.fileno()).st_size

    def rewind(self, position: int) -> None:
        """Cuts the record back to `position`, so that it holds one history. Raises RunError when it is shorter."""
        size = os.fstat(self._events.fileno()).st_size
        if size < position:
            raise RunError(f"{self.path / 'events.jsonl'}: shorter than its checkpoint says; the record is damaged")
        os.truncate(self._events.fileno(), position)

    def close(self) -> None:
        """Gives the folder back, and takes away one in which nothing has begun.

        The lock's file goes while the lock is held: a process that has opened it sees that it is gone, and
        tries again.
        """
        self._events.close()
        begun = (self.path / "preset.json").exists()
        if not begun:
            with suppress(OSError):
                if not (self.path / "events.jsonl").stat().st_size:
                    (self.path / "events.jsonl").unlink()
                for aside in leftovers(self.path / "preset.json"):
                    aside.unlink()
                (self.path / ".lock").unlink()
        self._lock.release()
        if not begun:
            with suppress(OSError):  # it holds something that is not ours
                self.path.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_preset(run: Path) -> Values | None:
    """The resolved preset of a run folder, None where there is none. Raises RunError when it is not a JSON object."""
    try:
        preset = read_json(run / "preset.json")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{run / 'preset.json'}: cannot be read ({error.strerror})") from None
    except BadJsonError as error:
        raise RunError(f"{run / 'preset.json'}: cannot be read ({error})") from None
    if not isinstance(preset, dict):
        raise RunError(f"{run / 'preset.json'}: damaged, not a preset")
    return preset
