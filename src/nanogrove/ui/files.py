"""Files that are dropped on a page: kept whole in a folder of their own, and looked at as `nanogrove explore` does.

A file is written to the disk as it comes, and gets its name once all of it is there: no other file is replaced, and a
file that was dropped before is taken again. Exploring runs in a process of its own, since the file may be of any kind.
"""

import asyncio
import filecmp
import itertools
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from typing import NamedTuple

from starlette.requests import ClientDisconnect, Request

from nanogrove.atomic import file_aside, not_plain, place, refusal
from nanogrove.config.catalog import parse_preset
from nanogrove.data.sources.packing import ending_of
from nanogrove.errors import NanogroveError, RunError
from nanogrove.record.events import Values
from nanogrove.settings import shown
from nanogrove.ui.command import Commands

FOLDER = "files"  # below the folder of the lab
MAX_FILE_BYTES = 1 << 31
PART_SECONDS = 30.0  # between two parts of a file, at most
LONGEST_SECONDS = 120.0  # of exploring
KEPT = 8  # explored files, in memory
STEM_CHARACTERS = 80
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
PRESET = "preset.json"  # that `explore` writes, in a folder that goes
RECORD = ("events.jsonl", "preset.json", "study.json")  # names by which a folder is taken for a run or a study


class Explored(NamedTuple):
    """What a file holds.

    Args:
        text: as `nanogrove explore` prints it.
        values: the JSON of the preset that it proposes.
        problem: why there is none, as a line; empty where there is one.
    """

    text: str
    values: Values
    problem: str


class Files:
    """The files that were dropped on the page of a lab, whose first folder is `root`."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self._commands = Commands("file")
        self._explored = OrderedDict[tuple[object, ...], Explored]()
        self._unseen = set[str]()  # names of files that came since this began, and were not explored yet

    def close(self) -> None:
        """Ends the exploring under way."""
        self._commands.close()

    def names(self) -> list[str]:
        """The files that are there, the newest first."""
        try:
            with os.scandir(self.folder) as entries:
                files = [each for each in entries if NAME.fullmatch(each.name) and each.is_file(follow_symlinks=False)]
            return [each.name for each in sorted(files, key=lambda each: -each.stat().st_mtime_ns)]
        except OSError:  # also where one of them went meanwhile
            return []

    async def receive(self, request: Request, name: str) -> str:
        """Keeps the body of a request as a file of about this name, whole or not at all; returns the name that it has.

        Raises RunError for one that is too large or does not come whole, and when the disk refuses.
        """
        too_large = (
            f"{shown(name)}: larger than {MAX_FILE_BYTES >> 30} GiB, which a page takes at most; give its path to "
            "`nanogrove explore`"
        )
        if int(request.headers.get("content-length", 0)) > MAX_FILE_BYTES:
            raise RunError(too_large)
        for folder in (self.folder.parent, self.folder):
            if why := not_plain(folder, folder=True):
                raise RunError(f"{folder}: {why}, and files are not kept there; move it away")
        try:
            with file_aside(self.folder / "dropped") as file:
                parts, size = aiter(request.stream()), 0
                while True:
                    async with asyncio.timeout(PART_SECONDS):
                        part = await anext(parts, None)
                    if part is None:
                        break
                    size += len(part)
                    if size > MAX_FILE_BYTES:
                        raise RunError(too_large)
                    await asyncio.to_thread(file.write, part)
                return await asyncio.to_thread(self._place, file, name)
        except (TimeoutError, ClientDisconnect):
            raise RunError(f"{shown(name)}: did not come whole; drop it again") from None
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be written {refusal(error)} and drop the file again") from None

    def _place(self, file: BufferedWriter, name: str) -> str:
        """Gives a file aside the first of its names that is free, or is that of the same file."""
        file.flush()
        for each in _names(name):
            path = self.folder / each
            if not not_plain(path) and path.is_file() and filecmp.cmp(path, file.name, shallow=False):
                return each
            try:
                place(file, path)
            except FileExistsError:
                continue
            self._unseen.add(each)
            return each
        raise AssertionError("names do not end")

    def explored(self, name: str) -> Explored:
        """What a file holds, and the preset that it proposes. Raises RunError where there is no such file.

        One that was just dropped and cannot be used is removed; one that was explored before may be the data of a run.
        """
        path = self.folder / name
        folders = (not_plain(each, folder=True) for each in (self.folder.parent, self.folder))
        if not NAME.fullmatch(name) or any(folders) or not_plain(path) or not path.is_file():
            raise RunError(f"{shown(name)}: no dropped file is here")
        status = path.stat()
        stamp = name, status.st_mtime_ns, status.st_size
        if stamp not in self._explored:
            explored, refused = self._explore(path)
            if refused and name in self._unseen:
                with suppress(OSError):
                    path.unlink()
                self._unseen.discard(name)
                return explored._replace(problem=f"{explored.problem}; the file was not kept")
            if explored.problem and not explored.text:
                return explored
            self._unseen.discard(name)
            self._explored[stamp] = explored
            while len(self._explored) > KEPT:
                self._explored.popitem(last=False)
        return self._explored[stamp]

    def _explore(self, path: Path) -> tuple[Explored, bool]:
        """What a file holds, and whether it is refused for what it is."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                text, problem, refused = self._commands.run(
                    ("explore", str(path), "--out", PRESET), LONGEST_SECONDS, folder=Path(folder)
                )
            except TimeoutError as error:
                return Explored("", {}, f"{path}: {error}; give its path to `nanogrove explore`"), False
            if problem:
                return Explored(text, {}, problem), refused
            try:
                values = parse_preset((Path(folder) / PRESET).read_text("utf-8"), path.name)
            except (OSError, NanogroveError) as error:
                return Explored(text, {}, str(error)), False
        lines = [line for line in text.split("\n") if not _is_of_preset(line)]
        return Explored("\n".join(lines), values, ""), False


def _is_of_preset(line: str) -> bool:
    """Whether a line says where the preset was written, which is gone."""
    return line.split() == ["preset", PRESET] or line == f"train it with `nanogrove train {PRESET}`"


def _names(name: str) -> Iterator[str]:
    """Plain names for a file, with its ending, by which its kind is known: the first one, and then with numbers."""
    name = name.replace("\\", "/").rpartition("/")[2]
    ending = ending_of(Path(name)) if name else ""
    parts = name[: len(name) - len(ending)], ending
    stem, ending = (re.sub("[^A-Za-z0-9._-]+", "-", part) for part in parts)
    stem = stem.strip("-._")[:STEM_CHARACTERS].rstrip("-._") or "file"
    ending = ending[:20].rstrip("-._")
    for number in itertools.count(1):
        each = f"{stem}{f'-{number}' if number > 1 else ''}{ending}"
        if each not in RECORD:
            yield each
