"""A command of nanogrove in a process of its own, whose output a page shows."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REFUSED = 2  # the exit code of an error that a user can mend


class Output(NamedTuple):
    """What a command printed, and its error, as a line; empty where it succeeded."""

    text: str
    problem: str
    refused: bool = False  # whether what it was given is wrong


class Commands:
    """Commands of one kind, one at a time, until `close`.

    Args:
        name: what one is called in messages, as in `dry run`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        """Ends the one under way."""
        process = self._process
        if process is not None:
            process.kill()

    def run(self, arguments: Sequence[str], seconds: float, given: str = "", folder: Path | None = None) -> Output:
        """What `nanogrove ARGUMENTS` prints.

        Args:
            arguments: of the command line.
            seconds: after which it is ended. Raises TimeoutError then.
            given: its standard input.
            folder: where it works; that of this process when left out.
        """
        if not self._turn.acquire(blocking=False):
            return Output("", f"another {self.name} is under way; try again when it has ended")
        try:
            return self._run(arguments, seconds, given, folder)
        finally:
            self._process = None
            self._turn.release()

    def _run(self, arguments: Sequence[str], seconds: float, given: str, folder: Path | None) -> Output:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nanogrove", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            cwd=folder,
        )
        with self._process as process:
            try:
                printed, problem = process.communicate(given, seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise TimeoutError(f"a {self.name} takes more than {seconds:.0f} seconds here") from None
        if process.returncode == 0:
            return Output(printed.strip("\n"), "")
        last = problem.strip().split("\n")[-1].removeprefix("error: ")
        problem = last or f"the {self.name} ended with code {process.returncode}"
        return Output(printed.strip("\n"), problem, refused=process.returncode == REFUSED)
