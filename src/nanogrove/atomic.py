"""The one writer of files: what is read under a name is an old file or a new one, and always a whole one.

A file is written aside in the same folder, under a name that no other process can know, created exclusively; it is
flushed to the disk, renamed into place, and the folder is flushed. So a kill, a full disk, or a second process that
writes the same file costs the new content at most, and a link that a stranger put in the way is replaced, never
followed. `write_folder` does the same for a folder that its caller then renames.

Logs that grow in place, `events.jsonl` and shards of tokens, are opened with `open(path, "ab", opener=no_links)`.
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
KEPT_BYTES = 200  # of a name, in that of its aside file: file systems allow 255
STALE_SECONDS = 3600.0  # no write takes as long: the aside file of a process that was killed


def no_links(path: str, flags: int) -> int:
    """Opens a file as `open` does, as its `opener`. Raises OSError for a link."""
    return os.open(path, flags | NO_LINKS, 0o666)


def write_file(path: Path, data: bytes) -> None:
    """Replaces the file at `path`, or the link, by one that holds `data`, whole or not at all, and on disk.

    Raises OSError, which names `path`, when the disk refuses; the old file is whole then.
    """
    aside = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}.part")
    try:
        _create(aside, data)
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(aside)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    flush_folder(path.parent)
    for stale in leftovers(path):
        with suppress(OSError):
            if time.time() - stale.lstat().st_mtime > STALE_SECONDS:
                stale.unlink()


def leftovers(path: Path) -> Iterator[Path]:
    """The aside files of `path`, which only killed processes leave for long."""
    aside = re.compile(rf"{re.escape(_prefix(path))}[0-9a-f]{{8}}\.part")
    with suppress(PermissionError):  # a folder that may be written to and not listed
        yield from (path.parent / name for name in os.listdir(path.parent) if aside.fullmatch(name))


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Makes a folder of files, all on disk when this returns, for the caller to rename into place.

    What a killed process left at `path` is removed first, so its caller must be the only one to write there. Raises
    OSError when the disk refuses; nothing is left then.
    """
    try:
        remove(path)
        path.mkdir(parents=True)
        for name, data in files.items():
            _create(path / name, data)
        flush_folder(path)
    except BaseException:
        with suppress(OSError):
            remove(path)
        raise


def remove(folder: Path) -> None:
    """Removes a folder with all that it holds; of a link only the link. Nothing where it is missing."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def flush_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where the system offers that."""
    if os.name == "nt":  # Windows opens no folder, and needs no such thing
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to and not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems flush no folders
            raise
    finally:
        os.close(descriptor)


def _prefix(path: Path) -> str:
    """What the name of each aside file of `path` begins with."""
    return f".{os.fsdecode(os.fsencode(path.name)[:KEPT_BYTES])}."


def _create(path: Path, data: bytes) -> None:
    """Writes a new file, on disk when this returns. Raises FileExistsError where something is there, even a link."""
    with open(path, "xb", opener=no_links) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
