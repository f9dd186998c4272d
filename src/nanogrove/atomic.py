"""The one writer of files: what is read under a name is an old file or a new one, and always a whole one.

A file is written aside in the same folder, under a name that no other process can know, created exclusively; it is
flushed to the disk, renamed into place, and the folder is flushed. So a kill, a power cut, a full disk, or a second
process that writes the same file costs the new content at most, and a link that a stranger put in the way is replaced,
never followed. `write_folder` does the same for a folder that its caller then renames, and `new_folder` for one that
others fill. `file_aside` is a file that comes in parts, which `place` gives a name that nothing has.

Logs that grow in place, `events.jsonl` and shards of tokens, are opened with `open(path, "ab", opener=no_links)`.
Small files of a folder that may be a stranger's are read with `read_file`.
"""

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path

# Windows has neither. Without the second, opening a pipe would wait for whoever is at its other end.
SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
KEPT_BYTES = 200  # of a name, in that of its aside file: file systems allow 255
STALE_SECONDS = 3600.0  # no write takes as long: the aside file of a process that was killed
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what only a write meets
REMEDIES = {
    **dict.fromkeys(FULL, "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow this user to write there"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENXIO), "move away what is there"),
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "see whether the name is right and its folder is there",
    errno.EMFILE: "raise the limit of open files, as `ulimit -n 4096` does,",
    **dict.fromkeys((errno.ENFILE, errno.ENOMEM, errno.EAGAIN), "close other programs"),
}
GENERAL_REMEDIES = REMEDIES | {  # where it may have been a read that failed
    **dict.fromkeys((errno.EACCES, errno.EPERM), "allow this user to read and write there"),
    errno.EISDIR: "name a file, or move away the folder",
    errno.ENOTDIR: "name a path that does not lead through a file",
    errno.EINVAL: "name a file",
}


def no_links(path: str, flags: int) -> int:
    """Opens a file to write as `open` does, as its `opener`.

    Raises OSError for a link, a pipe, a device, a folder, and for a file that has another name somewhere: a hard link.
    """
    descriptor = os.open(path, (flags & ~os.O_TRUNC) | SAFELY, 0o666)
    try:
        if reason := _not_ours(os.fstat(descriptor)):
            raise OSError(errno.EEXIST, reason, path)
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def not_plain(path: Path, folder: bool = False) -> str | None:
    """Why nothing should be written to the file or the `folder` at `path`, as in `is a link`; None where all is well.

    A link leads elsewhere, and so does a hard link; a pipe or a device is somebody else's. Nothing at all is well.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return "is a link"
        if folder:
            return None if stat.S_ISDIR(status.st_mode) else "is not a folder"
        return _not_ours(status)
    return None


def first_not_plain(folder: Path, ignored: str) -> tuple[Path, str] | None:
    """The first entry of a folder tree through which a write would leave the tree, and why; None where there is none.

    Links that stay within the tree are well, and files of the name `ignored` are not looked at.
    """
    for entry in (folder, *sorted(folder.rglob("*"))):
        if entry.name == ignored and not entry.is_dir():
            continue
        if entry.is_symlink():
            if entry == folder or not entry.resolve().is_relative_to(folder.resolve()):
                return entry, "is a link"
        elif not entry.is_dir() and (reason := not_plain(entry)):
            return entry, reason
    return None


def open_to_read(path: Path) -> BufferedReader:
    """A file that is opened to be read.

    Raises OSError for what is not a plain file, so that no pipe is waited for and no device read, and for a link.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | SAFELY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return open(descriptor, "rb")


def read_file(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes, none of which is read where it is larger.

    Raises OSError as `open_to_read` does.
    """
    with open_to_read(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
        return file.read(most)


def refusal(error: OSError) -> str:
    """Why a write failed and what to do about it, as the end of a message: `(No space left …); free some space`."""
    return f"({error.strerror or error}); {REMEDIES.get(error.errno or 0, 'see whether the disk is well')}"


def described(error: OSError, where: str | None = None) -> str:
    """What the system refused, in one line: where, what, and what to do; `where` if the error names no file."""
    named = [os.fsdecode(name) for name in (error.filename,) if isinstance(name, (str, bytes))] or filter(None, [where])
    remedy = GENERAL_REMEDIES.get(error.errno or 0, "--debug shows what was under way")
    reason = error.strerror or str(error)
    return f"{': '.join([*named, f'{reason[:1].lower()}{reason[1:]}'])}; {remedy.rstrip(',')}"


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where they are missing; all durable when this returns. Raises OSError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    flush_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replaces the file at `path`, or the link, by one that holds `data`, whole or not at all, and on disk.

    Raises OSError, which names `path`, when the disk refuses; the old file is whole then.
    """
    aside = path.with_name(f"{_prefix(path)}{_unguessable()}.part")
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
    _remove_stale(path)


@contextmanager
def file_aside(path: Path) -> Iterator[BufferedWriter]:
    """A new file aside of `path`, for the block to fill and to give a name with `place`; it is removed if it has none.

    Raises OSError when the disk refuses.
    """
    make_folder(path.parent)
    aside = path.with_name(f"{_prefix(path)}{_unguessable()}.part")
    with open(aside, "xb", opener=no_links) as file:
        try:
            yield file
        finally:
            with suppress(FileNotFoundError):
                os.unlink(aside)
    _remove_stale(path)


def place(aside: BufferedWriter, path: Path) -> None:
    """Gives a file aside its name, once it is on disk; its folder is flushed.

    Raises FileExistsError where something has that name already, even a link, and OSError when the disk refuses; then
    nothing is there under the name.
    """
    if not aside.closed:
        aside.flush()
        os.fsync(aside.fileno())
        aside.close()
    with open(path, "xb", opener=no_links):  # an empty one, which nobody else can take
        pass
    try:
        os.replace(aside.name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    flush_folder(path.parent)


def leftovers(path: Path) -> Iterator[Path]:
    """The aside files and folders of `path`, which only killed processes leave for long."""
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
        make_folder(path.parent)
        path.mkdir()
        for name, data in files.items():
            _create(path / name, data)
        flush_folder(path)
    except BaseException:
        with suppress(OSError):
            remove(path)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder aside, for the block to fill, that becomes `path` once all in it is on disk.

    A folder at `path` is moved away and removed after that. Where the block fails, or the disk refuses, which raises
    OSError, nothing is left of the new folder and the old one is as it was.
    """
    make_folder(path.parent)
    aside, old = (path.with_name(f"{_prefix(path)}{_unguessable()}.{ending}") for ending in ("part", "old"))
    aside.mkdir()
    try:
        yield aside
        _flush_tree(aside)
        with suppress(FileNotFoundError):
            path.rename(old)
        try:
            aside.rename(path)
        except BaseException:
            with suppress(FileNotFoundError):
                old.rename(path)
            raise
    except BaseException:
        with suppress(OSError):
            remove(aside)
        raise
    flush_folder(path.parent)
    with suppress(OSError):  # the new folder is in its place
        remove(old)
    _remove_stale(path)


def _remove_stale(path: Path) -> None:
    """Removes what processes that were killed left aside of `path`."""
    for stale in leftovers(path):
        with suppress(OSError):
            if time.time() - stale.lstat().st_mtime > STALE_SECONDS:
                remove(stale)


def _flush_tree(folder: Path) -> None:
    """Makes durable all that a folder holds."""
    for entry in folder.rglob("*"):
        if entry.is_dir():
            flush_folder(entry)
        else:
            with open(entry, "rb+", opener=no_links) as file:
                os.fsync(file.fileno())
    flush_folder(folder)


def remove(path: Path) -> None:
    """Removes a folder with all that it holds, or a file; of a link only the link. Nothing where it is missing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


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


def _not_ours(status: os.stat_result) -> str | None:
    """Why a file of this status should not be written to; None where it is plain and has one name."""
    if stat.S_ISDIR(status.st_mode):
        return "is a folder"
    if not stat.S_ISREG(status.st_mode):
        return "is a pipe or a device"
    return "is a hard link" if status.st_nlink > 1 else None


def _prefix(path: Path) -> str:
    """What the name of each aside file of `path` begins with."""
    return f".{os.fsdecode(os.fsencode(path.name)[:KEPT_BYTES])}."


def _unguessable() -> str:
    """What no other process can know; `secrets` says it too, and imports all hashes to do so."""
    return os.urandom(4).hex()


def _create(path: Path, data: bytes) -> None:
    """Writes a new file, on disk when this returns. Raises FileExistsError where something is there, even a link."""
    with open(path, "xb", opener=no_links) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
