"""The lock of a folder, which one process holds at a time, and which the system drops when that process ends.

Its file may go while the lock is held, never after that: a process that has opened it by then sees that it is gone, and
does not take its lock for that of the folder.
"""

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout

from nanogrove.atomic import make_folder, no_links, read_file
from nanogrove.errors import RunError


class InUseError(RunError):
    """A folder that another process holds.

    Args:
        folder: which.
        owner: that process in words, as in `process 123`.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        super().__init__(f"{folder}: in use by {owner}; wait for it, stop it, or choose another --out")
        self.folder, self.owner = folder, owner


class FolderLock:
    """The lock of a folder, held by this process until `release`."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder where it is missing, and takes its lock.

        Raises InUseError when another process holds it, and OSError when it cannot be made.
        """
        self._path = folder / ".lock"
        self._lock = FileLock(self._path, thread_local=False)
        make_folder(folder)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InUseError(folder, self._owner()) from None
        with suppress(OSError), FileIO(self._path, "w", opener=no_links) as lock:
            lock.write(f"process {os.getpid()}".encode())  # on a full disk it is held all the same

    def _owner(self) -> str:
        """What the file says of the process that holds it; Windows lets nobody read it meanwhile."""
        try:
            return read_file(self._path, most=100).decode(errors="replace").strip() or "another process"
        except OSError:
            return "another process"

    def release(self, remove: bool = False) -> None:
        """Gives the folder back; with `remove` it goes, where it holds nothing but the file of the lock."""
        if remove:
            with suppress(OSError):
                self._path.unlink()
        self._lock.release()
        if remove:
            with suppress(OSError):  # it holds something
                self._path.parent.rmdir()
