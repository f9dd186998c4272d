"""One job, in whatever process: its runs are trained to their ends, from wherever their folders stand.

A run that diverges gets that as the last event of its record, which a resume would cut off again. A run whose folder
another process holds is waited for: a worker that was cut off may hold it for a moment, or for good.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.errors import DivergedError, RunError
from nanogrove.record.events import Event, note
from nanogrove.record.folder import RunFolder
from nanogrove.record.reading import last_event
from nanogrove.runs.train import train
from nanogrove.studies.results import FINISHED
from nanogrove.studies.stack import train_together

PATIENCE = 60.0  # seconds that a folder is waited for


def run_job(runs: Sequence[tuple[Preset, Path]], allow_code: bool = False) -> Iterator[tuple[int, Event]]:
    """Trains the runs, of presets and folders; yields their events, each with the number of its run.

    A run that diverges ends with an event `diverged`, and one that a signal stops with `stop`. Raises as `train` does.
    """
    left = []
    for number, (_, folder) in enumerate(runs):
        last = last_event(folder / "events.jsonl")
        if last is not None and last.kind in FINISHED:
            yield number, last
        else:
            left.append(number)
    diverged: dict[int, Event] = {}
    for number, event in _train([runs[number] for number in left], allow_code):
        if event.kind == "diverged":
            diverged[left[number]] = event
        else:
            yield left[number], event
    for number, event in diverged.items():
        reason = event.values["text"].partition("; last good checkpoint")[0]
        ended = Event("diverged", event.step, {"reason": reason})
        with RunFolder(runs[number][1]) as held:
            held.append(ended)
        yield number, ended


def run_described(runs: Sequence[Mapping[str, Any]], allow_code: bool) -> Iterator[tuple[int, Event]]:
    """`run_job` of runs that `Job.described` gave as JSON to this process."""
    return run_job([(resolve(run["preset"]), Path(run["folder"])) for run in runs], allow_code)


def _train(runs: Sequence[tuple[Preset, Path]], allow_code: bool) -> Iterator[tuple[int, Event]]:
    """Trains runs as one program, or one alone; waits for folders that are in use."""
    deadline = time.monotonic() + PATIENCE
    while runs:
        try:
            if len(runs) > 1:
                yield from train_together(runs)
            else:
                yield from _train_alone(*runs[0], allow_code)
            return
        except RunError as error:
            if "in use" not in str(error) or time.monotonic() > deadline:
                raise
            yield 0, note(f"{error}; waiting")
            time.sleep(1)


def _train_alone(preset: Preset, folder: Path, allow_code: bool) -> Iterator[tuple[int, Event]]:
    step = 0
    try:
        for event in train(preset, folder, resume=True, allow_code=allow_code, report=False):
            step = event.step or step
            yield 0, event
    except DivergedError as error:
        yield 0, Event("diverged", step, {"text": str(error)})
