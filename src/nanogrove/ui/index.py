"""All runs and studies below a folder, listed quickly: what was read of a run is kept until one of its files changes.

It is kept in memory, and in `.nanogrove-index.json` in the folder for the next start. That file may be a stranger's or
lost: of it no path is taken, only what is listed of a run that is there, of the very files that are there.
"""

import itertools
import json
import os
import re
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from nanogrove.atomic import read_file, refusal, write_file
from nanogrove.errors import RunError
from nanogrove.record.listing import Listed, folders_of_record, is_held, listed
from nanogrove.settings import shown
from nanogrove.ui.notes import FILE as NOTES_FILE
from nanogrove.ui.notes import Notes, read_notes
from nanogrove.ui.studies import Study, is_within, read_study

FILE = ".nanogrove-index.json"
FILE_BYTES = 1 << 28  # at most
STAMPED = ("preset.json", "events.jsonl", NOTES_FILE)  # what a line of the list is made from
WRITE_SECONDS = 30.0  # between two writes of the file, at least
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of the folder of a new run
ENDED = ("finished", "diverged", "damaged")  # states that hold until a file changes


@dataclass(frozen=True)
class Entry:
    """A run as it is listed.

    Args:
        stamp: of its files, which changes with them.
        run: what is listed of it.
        notes: what a person wrote.
        problem: why its notes cannot be read; empty where they can.
    """

    stamp: tuple[int, ...]
    run: Listed
    notes: Notes
    problem: str = ""


class Lab(NamedTuple):
    """What lies below a folder: its runs and studies by the names that addresses have, and what is wrong with it."""

    runs: dict[str, Entry]
    studies: dict[str, Study]
    problem: str = ""


FILE_VALUES: TypeAdapter[dict[str, Entry]] = TypeAdapter(dict[str, Entry])


class Index:
    """Lists the runs and studies below a folder, or below some of its folders; for any number of threads."""

    def __init__(self, root: Path, below: tuple[str, ...] = ("",)) -> None:
        """Reads what was kept. Raises RunError where the folder is missing."""
        if not root.is_dir():
            raise RunError(f"{root}: is not a folder; name one that holds runs, as `nanogrove train` makes in runs")
        self.root = root.resolve()
        self._folders = [self.root / name for name in below]
        self._kept = {folder: _read(folder / FILE) for folder in self._folders}
        self._written = dict.fromkeys(self._folders, 0.0)
        self._paths, self._studies = dict[str, str](), dict[str, str]()  # listed ones, by their names in addresses
        self._lock = threading.Lock()

    def read(self) -> Lab:
        """What lies there now, in the order of paths."""
        with self._lock:
            runs, studies, problems = dict[str, Entry](), dict[str, Study](), list[str]()
            for folder in self._folders:
                entries = dict[str, Entry]()
                for path, kind in sorted(folders_of_record(folder)):
                    name = str(path.relative_to(self.root))
                    if kind == "study":
                        studies[key_of(name)] = read_study(path, name)
                    else:
                        entries[name] = _entry(path, name, self._kept[folder].get(name))
                runs |= {key_of(name): entry for name, entry in entries.items()}
                problems += self._keep(folder, entries)
            self._paths = {key: entry.run.name for key, entry in runs.items()}
            self._studies = {key: study.name for key, study in studies.items()}
        return Lab(runs, studies, "; ".join(problems))

    def run(self, key: str) -> tuple[Path, Entry]:
        """The folder of a run, and what is listed of it now. Raises RunError where none is listed under this name."""
        path = self.folder(key)
        return path, _entry(path, str(path.relative_to(self.root)), None)

    def lists(self, runs: Iterable[str]) -> bool:
        """Whether all these runs, by their names in addresses, were there at the last look."""
        return self._paths.keys() >= set(runs)

    def folder(self, key: str, look: bool = True) -> Path:
        """The folder of a run. Raises RunError where none is listed under this name; a new `look` comes first."""
        if look and key not in self._paths:
            self.read()
        name = self._paths.get(key)
        if name is None:
            raise RunError(f"{key}: no run is here")
        return self.path_of(name)

    def study(self, key: str, look: bool = True) -> tuple[Path, Study]:
        """The folder of a study, and what is listed of it now. Raises RunError as `folder` does."""
        if look and key not in self._studies:
            self.read()
        name = self._studies.get(key)
        if name is None:
            raise RunError(f"{key}: no study is here")
        path = self.path_of(name)
        return path, read_study(path, name)

    def studies_of(self, runs: Iterable[str]) -> list[str]:
        """The studies that runs were trained for, by the names of both in addresses."""
        keys = list(runs)
        return [study for study in self._studies if any(is_within(run, study) for run in keys)]

    def path_of(self, name: str) -> Path:
        """The folder of a name below the root. Raises RunError where a part of its path is a link, or leads away."""
        path = self.root / name
        chain = [path, *path.parents]
        within = chain[: chain.index(self.root)] if self.root in chain else None
        if ".." in path.parts or not path.is_dir() or within is None or any(part.is_symlink() for part in within):
            raise RunError(f"{name}: no run is here")
        return path

    @property
    def first(self) -> Path:
        """The folder in which new runs, and files that are dropped, are put: the first of those shown."""
        return self._folders[0]

    def new_path(self, name: str) -> Path:
        """The folder of a new run, in the first of the folders shown. Raises RunError for a name that is not plain, is
        taken, or would lie within a link.
        """
        folder = self.first
        if not NAME.fullmatch(name):
            raise RunError(f"folder: {shown(name)} is not plain; use letters, digits, - _ and ., 100 at most")
        if folder.is_symlink():
            raise RunError(f"{folder}: is a link; start `nanogrove ui` with the folder that it leads to")
        if os.path.lexists(folder / name):
            raise RunError(f"folder: {name} exists already; choose another name")
        return folder / name

    def free_name(self, name: str) -> str:
        """A name for a new run that no folder has: this one, made plain, or this one with a number."""
        plain = re.sub("[^A-Za-z0-9._-]+", "-", name).strip("-._")[:90] or "run"
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        names = itertools.chain([plain], numbered)
        return next(each for each in names if not os.path.lexists(self._folders[0] / each))

    def key_of_path(self, path: Path) -> str:
        """The name in addresses of a run at a path below the root."""
        return key_of(str(path.relative_to(self.root)))

    def _keep(self, folder: Path, entries: dict[str, Entry]) -> list[str]:
        """Keeps what was read, and writes it where it changed; what is wrong where that fails."""
        changed = _ended(entries) != _ended(self._kept[folder])
        self._kept[folder] = entries
        if not changed or (time.monotonic() - self._written[folder] < WRITE_SECONDS and self._written[folder]):
            return []
        self._written[folder] = time.monotonic()
        values = {name: {**asdict(each), "notes": each.notes.model_dump()} for name, each in entries.items()}
        try:
            write_file(folder / FILE, json.dumps(values).encode())
        except OSError as error:
            return [f"{folder / FILE}: cannot be written {refusal(error)}; until then each start reads all runs anew"]
        return []


def key_of(name: str) -> str:
    """The name of a run in addresses and pages: its path, in which bytes that are not UTF-8 are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _ended(entries: dict[str, Entry]) -> dict[str, Entry]:
    return {name: entry for name, entry in entries.items() if entry.run.state in ENDED}


def _entry(path: Path, name: str, kept: Entry | None) -> Entry:
    """A run as it is listed, read anew where its files changed."""
    stamp = _stamp(path)
    if kept is None or kept.stamp != stamp:
        run = replace(listed(path, path), name=name)
        try:
            return Entry(stamp, run, read_notes(path))
        except RunError as error:
            return Entry(stamp, run, Notes(), str(error))
    if kept.run.state in ENDED:
        return kept
    return replace(kept, run=replace(kept.run, state="running" if is_held(path) else "stopped"))


def _stamp(path: Path) -> tuple[int, ...]:
    """Times and sizes of the files of a run."""
    numbers = list[int]()
    for name in STAMPED:
        try:
            status = (path / name).lstat()
            numbers += [status.st_mtime_ns, status.st_ctime_ns, status.st_size]
        except FileNotFoundError:
            numbers += [0, 0, -1]
        except OSError as error:
            numbers += [0, error.errno or 0, -2]
    return tuple(numbers)


def _read(path: Path) -> dict[str, Entry]:
    """What was kept; nothing where it is lost, damaged or of another version."""
    with suppress(OSError, ValueError):
        return FILE_VALUES.validate_json(read_file(path, FILE_BYTES))
    return {}
