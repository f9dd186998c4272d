"""The folder of prepared data: where it lies, how its parts are named, and who may write to one."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from nanogrove.atomic import make_folder, not_plain, refusal
from nanogrove.errors import DataError
from nanogrove.waits import waiting

CACHE_FORMAT = 2
# The settings that the shards of a source depend on, besides the source and the tokenizer.
SOURCE_OPTIONS = ("split", "validation", "test", "min_text_length", "drop_duplicates", "bad_rows")


def cache_folder() -> Path:
    """Where prepared data lies: `NANOGROVE_CACHE`, or `nanogrove` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NANOGROVE_CACHE") or Path(base) / "nanogrove")


def key_of(parts: object) -> str:
    """The name of a folder for what depends on `parts`, which are JSON."""
    return hashlib.sha256(json.dumps([CACHE_FORMAT, parts], sort_keys=True).encode()).hexdigest()[:24]


def change_times(identity: Mapping[str, object]) -> list[int]:
    """When each file of a source was changed last, in nanoseconds: the time of the system, which no program can set.

    `identity` is that of the source. Raises DataError for a file that is gone.
    """
    times = []
    for path, *_ in cast(list[list[str]], identity.get("files", [])):
        try:
            times.append(os.stat(path).st_ctime_ns)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return times


@contextmanager
def write_lock(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Locks a folder for writing, after a wait where `wait` is set; yields whether the lock was acquired.

    Raises DataError where writing fails. The lock is a file beside the folder, since its owner may delete the folder.
    """
    try:
        make_folder(folder.parent)
        with ExitStack() as lock:
            file = FileLock(folder.with_suffix(".lock"))
            try:
                with waiting("waiting for another process that prepares this data"):
                    lock.enter_context(file.acquire(timeout=-1 if wait else 0))
            except Timeout:
                yield False
                return
            if reason := not_plain(folder, folder=True):
                raise DataError(f"{folder}: {reason}, and prepared data is not written through it; remove it")
            make_folder(folder)
            yield True
    except OSError as error:
        raise DataError(
            f"{folder}: cannot write prepared data {refusal(error)} or set NANOGROVE_CACHE to another folder"
        ) from None


@contextmanager
def remove_on_error(folder: Path) -> Iterator[None]:
    """Deletes a folder where an error ends the context."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
