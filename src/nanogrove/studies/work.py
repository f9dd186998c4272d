"""One job, in whatever process: its runs are trained to their ends, from wherever their folders stand.

Runs of one job are one program where they stand at the same step, and else as few programs as there are steps. A run
whose folder another process holds is waited for: a worker that was cut off may hold it for a moment, or for good.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanogrove.config.preset import Preset
from nanogrove.errors import RunError
from nanogrove.record.events import Event, note
from nanogrove.runs.train import train
from nanogrove.studies.results import FINISHED, last_event
from nanogrove.studies.stack import train_together
from nanogrove.train.checkpoint import load_latest

PATIENCE = 60.0  # seconds that a folder is waited for


def run_job(runs: Sequence[tuple[Preset, Path]], allow_code: bool = False) -> Iterator[tuple[int, Event]]:
    """Trains the runs, of presets and folders; yields their events, each with the number of its run.

    A run that diverges ends with an event `diverged`, and one that a signal stops with `stop`. Raises as `train` does.
    """
    by_step: dict[int, list[int]] = defaultdict(list)
    for number, (_, folder) in enumerate(runs):
        last = last_event(folder / "events.jsonl")
        if last is not None and last.kind in FINISHED:
            yield number, last
        else:
            by_step[_step(folder)].append(number)
    for numbers in by_step.values():
        for number, event in _train([runs[number] for number in numbers], allow_code):
            yield numbers[number], event
            if event.kind == "stop":
                return


def _step(folder: Path) -> int:
    """The step that a run would be resumed from."""
    checkpoint, _ = load_latest(folder / "checkpoints")
    return 0 if checkpoint is None else int(checkpoint.state["step"])


def _train(runs: Sequence[tuple[Preset, Path]], allow_code: bool) -> Iterator[tuple[int, Event]]:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if len(runs) > 1:
                yield from train_together(runs)
            else:
                yield from ((0, event) for event in train(*runs[0], resume=True, allow_code=allow_code))
            return
        except RunError as error:
            if "in use" not in str(error) or time.monotonic() > deadline:
                raise
            yield 0, note(f"{error}; waiting")
            time.sleep(1)
