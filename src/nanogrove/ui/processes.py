"""Stops a run as Ctrl-C does; starts and continues one in a process of its own, which outlives page and server."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from nanogrove.atomic import make_folder, no_links, read_file, refusal, remove
from nanogrove.config.preset import Preset
from nanogrove.errors import RunError
from nanogrove.paths import with_absolute_paths
from nanogrove.record.folder import RunFolder
from nanogrove.record.listing import is_held, listed

LOG = "continued.log"  # what the process of a run that was started or continued from the page says
LOG_BYTES = 1 << 20  # of it, at most, in which its last line is looked for


class Signalled(NamedTuple):
    """A process that was asked to stop; a process that is started later may have its number."""

    pid: int
    started: float


class Processes:
    """The processes that train runs, as far as the page has to do with them."""

    def __init__(self) -> None:
        self._stopping = set[Signalled]()
        self._continued = dict[Path, subprocess.Popen[bytes]]()

    def stop(self, run: Path) -> None:
        """Asks the process that trains a run to finish its step, save and end.

        Raises RunError where there is none, or none that may be asked, and for a second time, which would end it at
        once, unsaved.
        """
        process = _trainer(run)
        signalled = Signalled(process.pid, process.create_time())
        if signalled in self._stopping:
            raise RunError("it is stopping already: it finishes its step and saves a checkpoint first")
        self._stopping.add(signalled)
        process.send_signal(signal.SIGINT)

    def resume(self, run: Path) -> None:
        """Continues a stopped run from its checkpoint. Raises RunError where it is not one, and when that fails."""
        state = listed(run, run).state
        if state != "stopped" or self.is_starting(run):
            raise RunError(
                f"it is {'starting' if state == 'stopped' else state}; a run that is stopped can be continued"
            )
        command = [sys.executable, "-P", "-m", "nanogrove", "train", str(run), "--resume"]
        try:
            with open(run / LOG, "wb", opener=no_links) as log:
                self._continued[run] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # so that Ctrl-C ends the server alone
                )
        except OSError as error:
            raise RunError(f"{run / LOG}: cannot be written {refusal(error)} and continue again") from None

    def start(self, run: Path, preset: Preset) -> None:
        """Begins a run in a folder that it makes. Raises RunError where that exists already, and when that fails.

        The folder gets its preset, as that of a run of which nothing was saved yet, and the run is continued. Nothing
        is left of it where that fails.
        """
        try:
            make_folder(run.parent)
            run.mkdir()
        except FileExistsError:
            raise RunError(f"folder: {run.name} exists already; choose another name") from None
        except OSError as error:
            raise RunError(f"{run}: cannot be made {refusal(error)} and start again") from None
        try:
            with RunFolder(run) as folder:
                folder.write_preset(with_absolute_paths(preset).model_dump(mode="json"))
            self.resume(run)
        except BaseException:
            with suppress(OSError):
                remove(run)
            raise

    def is_starting(self, run: Path) -> bool:
        """Whether a process that is to continue a run has not begun to train."""
        process = self._continued.get(run)
        return process is not None and process.poll() is None and not is_held(run)

    def failure(self, run: Path) -> str:
        """Why the process that was to continue a run ended; empty where it trains, or ended well or by a signal."""
        process = self._continued.get(run)
        if process is None or process.poll() in (None, 0, 128 + signal.SIGINT, 128 + signal.SIGTERM):
            return ""
        with suppress(OSError):
            lines = read_file(run / LOG, LOG_BYTES).decode(errors="replace").split("\n")
            return next((line for line in reversed(lines) if line.strip()), "")
        return f"its process ended with code {process.returncode}"


def _trainer(run: Path) -> psutil.Process:
    """The process that holds the lock of a run. Raises RunError where there is none, or none that may be asked."""
    if not is_held(run):
        raise RunError("no process trains this run now")
    if sys.platform == "win32":  # where a process cannot be interrupted from another terminal
        raise RunError("press Ctrl-C where it trains; on Windows a page cannot do that")
    with suppress(OSError, ValueError, psutil.Error):
        number = re.fullmatch(rb"process ([0-9]{1,9})", read_file(run / ".lock", 100).strip())
        process = psutil.Process(int(number[1]) if number else -1)
        # The file alone proves nothing: whoever wrote it might name any process.
        if process.pid != os.getpid() and any(file.path == str(run / ".lock") for file in process.open_files()):
            return process
    raise RunError("the process that trains it is not one of this user on this machine; press Ctrl-C where it trains")
