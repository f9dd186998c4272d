"""What a run would take, as `nanogrove train --dry-run` says it, in a process of its own."""

import json
import subprocess
import sys
import threading
from typing import NamedTuple

from nanogrove.config.preset import Preset

LONGEST_SECONDS = 120.0  # of a dry run, which may have much data to read


class Figures(NamedTuple):
    """What a dry run printed, or why it failed; one of them is empty."""

    text: str
    problem: str


class DryRuns:
    """Dry runs, one at a time, until `close`."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        """Ends the one under way."""
        process = self._process
        if process is not None:
            process.kill()

    def figures(self, preset: Preset) -> Figures:
        """What a run of a preset would take; functions that it names are not run."""
        if not self._turn.acquire(blocking=False):
            return Figures("", "another dry run is under way; try again when it has ended")
        try:
            return self._run(json.dumps(preset.model_dump(mode="json")))
        finally:
            self._process = None
            self._turn.release()

    def _run(self, preset: str) -> Figures:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nanogrove", "train", "-", "--dry-run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        with self._process as process:
            try:
                printed, problem = process.communicate(preset, LONGEST_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                return Figures(f"not known: a dry run takes more than {LONGEST_SECONDS:.0f} seconds here", "")
        if process.returncode == 0:
            return Figures(printed.strip(), "")
        last = problem.strip().split("\n")[-1].removeprefix("error: ")
        return Figures("", last or f"the dry run ended with code {process.returncode}")
