"""One job, in whatever process: its runs are trained to their ends, from wherever their folders stand.

A run that diverges gets that as the last event of its record, which a resume would cut off again. A run whose folder
another process holds is waited for as long as that adds to the record: a worker that was cut off may hold it for a
moment, and `--index` for all of the run.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.errors import DivergedError, NanogroveError, StudyError
from nanogrove.record.events import Event, note
from nanogrove.record.folder import RunFolder
from nanogrove.record.lock import InUseError
from nanogrove.record.reading import last_event
from nanogrove.runs.train import train
from nanogrove.studies.results import FINISHED
from nanogrove.studies.stack import train_together

PATIENCE = 600.0  # seconds that a folder is waited for while its record does not grow, as while a large model is scored


def run_job(runs: Sequence[tuple[Preset, Path]], allow_code: bool = False) -> Iterator[tuple[int, Event]]:
    """Trains the runs, of presets and folders; yields their events, each with the number of its run.

    A run that diverges ends with an event `diverged`, and one that a signal stops with `stop`. Raises StudyError with
    what `train` raises.
    """
    try:
        yield from _run_job(runs, allow_code)
    except StudyError:
        raise
    except NanogroveError as error:
        raise StudyError(f"{error}; then compare again, which resumes all runs") from None


def _run_job(runs: Sequence[tuple[Preset, Path]], allow_code: bool) -> Iterator[tuple[int, Event]]:
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
    seen, since = (Path(), 0), 0.0
    while runs:
        try:
            if len(runs) > 1:
                yield from train_together(runs)
            else:
                yield from _train_alone(*runs[0], allow_code)
            return
        except InUseError as error:
            now = error.folder, _bytes_of_record(error.folder)
            if now[0] != seen[0]:
                number = [folder for _, folder in runs].index(error.folder)
                yield number, note(f"{error.folder}: in use by {error.owner}; waiting for it")
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise StudyError(
                    f"{error.folder}: in use by {error.owner}, which has added nothing to its record for "
                    f"{PATIENCE:.0f} s; stop that, and compare again"
                ) from None
            time.sleep(1)


def _bytes_of_record(folder: Path) -> int:
    try:
        return (folder / "events.jsonl").stat().st_size
    except OSError:
        return 0


def _train_alone(preset: Preset, folder: Path, allow_code: bool) -> Iterator[tuple[int, Event]]:
    step = 0
    try:
        for event in train(preset, folder, resume=True, allow_code=allow_code, report=False):
            step = event.step or step
            yield 0, event
    except DivergedError as error:
        yield 0, Event("diverged", step, {"text": str(error)})
