"""A run folder is opened: what the run left is found and checked, its data are prepared, its state is restored.

Nothing in the folder is changed by that, apart from its lock.
"""

import hashlib
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset, difference
from nanogrove.corpora import MakeCorpus, make_corpus
from nanogrove.errors import CheckpointError, RunError
from nanogrove.methods.contract import check_resumed
from nanogrove.paths import with_absolute_paths
from nanogrove.record.events import Event, note
from nanogrove.record.folder import RunFolder
from nanogrove.runs.setup import Setup, adopt, build
from nanogrove.train.checkpoint import ROTATION, Checkpoint, load_best, load_checkpoint, load_latest
from nanogrove.train.initial import described, read_initial
from nanogrove.train.loop import BUDGETS
from nanogrove.train.parallel.ranks import ALONE, Ranks, restarted
from nanogrove.train.state import TrainState


@dataclass(frozen=True)
class OpenRun:
    """A run that is ready to go on, from its newest checkpoint or from step 0.

    Args:
        folder: held by this process; None on all ranks but the first.
        setup: all that it needs besides.
        state: as the checkpoint has it, or of step 0.
        checkpoint: the newest; None where nothing was saved yet.
        finished: whether nothing is left to train.
    """

    folder: RunFolder | None
    setup: Setup
    state: TrainState
    checkpoint: Checkpoint | None
    finished: bool


def open_run(
    preset: Preset,
    out: Path,
    held: ExitStack,
    resume: bool = False,
    allow_code: bool = False,
    ranks: Ranks = ALONE,
    make: MakeCorpus = make_corpus,
) -> Generator[Event, None, OpenRun]:
    """Opens the run of a preset in the folder `out`, yielding notes.

    Raises RunError when `out` is in use, or holds a run and `resume` is not set, and what `build` does.

    Args:
        preset: of the run; where the folder holds one, that one must be equal, and is taken.
        out: the run folder.
        held: keeps the folder's lock.
        resume: whether a run that the folder holds goes on.
        allow_code: whether functions that the preset names may be run.
        ranks: the processes that train together, all of which call this.
        make: makes the corpus.
    """
    ranks.same_everywhere("preset", preset.model_dump(mode="json"))
    checkpoint, stored, folder = None, None, None
    if ranks.first:
        folder = held.enter_context(RunFolder(out))
        stored = folder.preset()
        if stored is not None:
            checkpoint = yield from _find_checkpoint(folder, stored, preset, resume or restarted())
    stored = ranks.broadcast_from_main(lambda: stored)
    name = ranks.broadcast_from_main(lambda: checkpoint and checkpoint.folder.name)
    if name and not ranks.first:
        checkpoint = load_checkpoint(out / "checkpoints" / name)
    ranks.same_everywhere("checkpoint", checkpoint and checkpoint.state["checksum"])
    minutes = preset.train.minutes
    preset = preset if stored is None else resolve(stored)
    if preset.train.minutes is not None and ranks.first:
        yield note(f"train.minutes={preset.train.minutes:g} becomes steps: a few are timed first")
    setup = build(preset, checkpoint, allow_code, ranks, make)
    if ranks.first:
        for text in described(setup.initial, setup.model_on_data):
            yield note(text)
    if folder is not None:
        budget = setup.budget if stored is None else _stored_budget(folder, checkpoint, minutes)
        setup = replace(setup, plan=replace(setup.plan, rows=folder), budget=budget)
    if ranks.world > 1:
        ranks.same_everywhere("data", {**_data_digests(setup), "steps": setup.plan.steps})
    state = setup.new_state()
    if checkpoint is not None:
        if checkpoint.config != setup.model_on_data:
            raise CheckpointError(f"{checkpoint.folder}: config.json is not the model of preset.json")
        checkpoint.restore(state)
        check_resumed(setup.method, state, setup.corpus, setup.plan, preset.method, checkpoint.folder)
    finished = ranks.broadcast_from_main(lambda: _is_finished(folder, checkpoint))
    return OpenRun(folder, setup, state, checkpoint, finished)


def _find_checkpoint(
    folder: RunFolder, stored: dict[str, Any], preset: Preset, resume: bool
) -> Generator[Event, None, Checkpoint | None]:
    """The checkpoint to resume from; None when the run ended before it saved one."""
    if not resume:
        raise RunError(f"{folder.path}: holds a run; continue it with --resume, or choose another --out")
    kept = resolve(stored)
    changed = _changed(with_absolute_paths(kept), with_absolute_paths(preset), folder.start())
    if changed:
        raise RunError(f"{folder.path}: a resumed run keeps its preset, and {changed}; start anew with another --out")
    checkpoint, damaged = load_latest(folder.checkpoints)
    for problem in damaged:
        yield note(f"{problem}; going on from {checkpoint.folder if checkpoint else 'the start'} instead")
    _check_complete(folder, kept, checkpoint)
    if checkpoint is None and folder.reached():
        yield note(f"{folder.path}: nothing was saved yet, so the run begins again from its first step")
    return checkpoint


def _stored_budget(folder: RunFolder, checkpoint: Checkpoint | None, minutes: float | None) -> dict[str, Any]:
    """The minutes that became the steps of a run, and the times of a step: of its record, else of its checkpoint.

    Where both are lost, the `minutes` of the preset that it is resumed with. A new record, and that of a run that
    begins again from its first step, holds them once more.
    """
    start = folder.start()
    if start is not None:
        return start.time
    budget = None if checkpoint is None else checkpoint.state.get("budget")
    return budget if isinstance(budget, dict) else {} if minutes is None else {"minutes": minutes}


def _check_complete(folder: RunFolder, preset: Preset, checkpoint: Checkpoint | None) -> None:
    """Raises RunError where a run has lost its checkpoints or its best model, and CheckpointError for a damaged one."""
    if checkpoint is None:
        reached = folder.reached()
        gone = not folder.checkpoints.exists() and not folder.is_empty()
        if gone or reached > preset.save.every or folder.end() is not None:
            raise RunError(
                f"{folder.checkpoints}: no checkpoint is left of a run that reached step {reached}; put them back, or "
                "start anew with another --out"
            )
    elif checkpoint.state.get("best") is not None:
        best = folder.checkpoints / "best"
        try:
            if load_best(folder.checkpoints).folder.name in ROTATION:
                raise CheckpointError(f"{best}: missing")
        except CheckpointError as error:
            instead = f"put it back, or go on without it: copy {checkpoint.folder} to {best}"
            raise CheckpointError(f"{error}; {instead}") from None


def _is_finished(folder: RunFolder | None, checkpoint: Checkpoint | None) -> bool:
    """Whether the run in a folder has ended. Raises RunError where its record is not that of its checkpoint."""
    if folder is None or checkpoint is None or folder.is_empty():
        return False
    folder.check(checkpoint.state)
    end = folder.end()
    return end is not None and end.step == checkpoint.state["step"]


def _changed(stored: Preset, requested: Preset, start: Event | None) -> str | None:
    """The first setting in which the requested preset differs from that of the run, as a clause; None where none does.

    A stored budget has become steps; its minutes are in the `start` event. Without that event they count as the same.
    """
    if requested.train.init is not None and requested.train.init == stored.train.init and requested != stored:
        requested = adopt(requested, tuple(map(read_initial, requested.train.sources)))
    was, now = stored.model_dump(mode="json"), requested.model_dump(mode="json")
    if requested.train.minutes is not None:
        minutes = requested.train.minutes if start is None else start.time.get("minutes")
        was["train"] |= {**dict.fromkeys(BUDGETS), "minutes": minutes}
    return difference(was, now)


def _data_digests(setup: Setup) -> dict[str, str]:
    """Digests of what must be equal on all ranks: the vocabulary and the tokens."""
    texts = {"vocabulary": setup.corpus.tokenizer.to_json(), "tokens": setup.corpus.describe()["fingerprint"]}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
