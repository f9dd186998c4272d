"""The contract of an engine: it trains jobs somewhere, and says what happens.

A job is some runs that are trained as one program. An engine gives each to `nanogrove.studies.work.run_job`, in as many
processes as it likes, and again where one of them dies: all that a run has reached lies in its folder.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nanogrove.studies.plan import Run

LEAST_SECONDS = 0.3  # between two messages about steps


@dataclass(frozen=True)
class Job:
    """Runs that are trained as one program; of one run, as any other."""

    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The job in words, for a message."""
        further = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        return self.runs[0].label + further

    def described(self, study: Path) -> list[dict[str, Any]]:
        """Its runs as JSON, for `work.run_described` in another process; their folders lie in that of the study."""
        return [{"preset": run.preset.model_dump(mode="json"), "folder": str(study / run.folder)} for run in self.runs]


class Happened(NamedTuple):
    """An event of a run: its kind and step, and the text of a note."""

    run: Run
    kind: str
    step: int
    text: str = ""


@dataclass(frozen=True)
class Place:
    """Where jobs are trained.

    Args:
        study: the folder that holds all run folders.
        workers: jobs at a time.
        allow_code: whether functions that presets name may be imported and run.
        address: of a cluster; empty for a cluster of this machine alone.
    """

    study: Path
    workers: int
    allow_code: bool = False
    address: str = ""


Engine = Callable[[Sequence[Job], Place], Iterator[Happened]]
"""Trains all jobs, yielding what happens. Raises StudyError for a run that cannot be trained; the others are saved."""
