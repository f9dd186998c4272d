"""A run folder is opened: what the run left is found and checked, its data are prepared, its state is restored.

Nothing in the folder is changed by that, apart from its lock.
"""

import hashlib
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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
from nanogrove.runs.circumstances import Changes
from nanogrove.runs.longer import adjusted, changed_settings, checked, minutes_in_steps
from nanogrove.runs.setup import Setup, adopt, build, with_budget
from nanogrove.train.checkpoint import ROTATION, Checkpoint, load_best, load_checkpoint, load_latest
from nanogrove.train.initial import described, read_initial
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
        amended: whether it goes on under another preset than the folder holds.
        changed: the settings that differ from those of the checkpoint, by key, each with its earlier and present value.
    """

    folder: RunFolder | None
    setup: Setup
    state: TrainState
    checkpoint: Checkpoint | None
    finished: bool
    amended: bool = False
    changed: Changes = field(default_factory=dict)


def open_run(
    preset: Preset,
    out: Path,
    held: ExitStack,
    resume: bool = False,
    allow_code: bool = False,
    ranks: Ranks = ALONE,
    make: MakeCorpus = make_corpus,
    extend: bool = False,
) -> Generator[Event, None, OpenRun]:
    """Opens the run of a preset in the folder `out`, yielding notes.

    Raises RunError when `out` is in use, or holds a run and `resume` is not set, or cannot go on under the preset, and
    what `build` does.

    Args:
        preset: of the run; where the folder holds one, that one is taken, with what may change of this one.
        out: the run folder.
        held: keeps the folder's lock.
        resume: whether a run that the folder holds goes on.
        allow_code: whether functions that the preset names may be run.
        ranks: the processes that train together, all of which call this.
        make: makes the corpus.
        extend: whether the schedule is extended where that of a longer run would have been another until now.
    """
    ranks.same_everywhere("preset", preset.model_dump(mode="json"))
    folder, stored, checkpoint = yield from _take(out, held, preset, resume, ranks)
    asked, kept = preset, preset if stored is None else resolve(stored)
    budget = ranks.broadcast_from_main(lambda: _stored_budget(folder, checkpoint, asked.train.minutes))
    preset = kept if stored is None else _preset_now(kept, asked, checkpoint, budget)
    amended = preset != kept
    if preset.train.minutes is not None and ranks.first:
        yield note(f"train.minutes={preset.train.minutes:g} becomes steps: a few are timed first")
    setup = build(preset, checkpoint, allow_code, ranks, make)
    template = setup.corpus.tokenizer.chat_template
    for text in described(setup.initial, setup.model_on_data, template) if ranks.first else ():
        yield note(text)
    if folder is not None and checkpoint is None:
        _check_begins_alike(folder, setup)
    if checkpoint is not None and amended:
        setup = checked(setup, kept, asked, checkpoint, extend, out)
        if extend and setup.preset.schedule == kept.schedule:
            yield note("--schedule extend changes nothing: the steps taken are those of the longer run")
        setup.method.check_scored(setup.preset.method, setup.corpus, setup.preset.evaluate.tokens)
    if folder is not None:
        # Minutes that were timed just now are those of a new run, or of one that had its preset alone.
        if stored is None or preset.train != kept.train or setup.budget:
            budget = setup.budget if checkpoint is None else _budget_now(asked, checkpoint)
        setup = replace(setup, plan=replace(setup.plan, rows=folder), budget=budget)
    if ranks.world > 1:
        ranks.same_everywhere("data", {**_data_digests(setup), "steps": setup.plan.steps})
    state = setup.new_state()
    if checkpoint is None:
        if state.adapter is not None and ranks.first:
            yield note(state.adapter.described())
        return OpenRun(folder, setup, state, None, finished=False)
    if checkpoint.config != setup.model_on_data:
        raise CheckpointError(f"{checkpoint.folder}: config.json is not the model of preset.json")
    checkpoint.restore(state)
    check_resumed(setup.method, state, setup.corpus, setup.plan, preset.method, checkpoint.folder)
    finished = ranks.broadcast_from_main(lambda: _is_finished(folder, checkpoint))
    if amended:
        _check_goes_on(setup, kept, state, checkpoint if finished else None, out)
    changed = changed_settings(checkpoint, kept, setup.preset)
    return OpenRun(folder, setup, state, checkpoint, finished and not amended, amended, changed)


def _take(
    out: Path, held: ExitStack, preset: Preset, resume: bool, ranks: Ranks
) -> Generator[Event, None, tuple[RunFolder | None, dict[str, Any] | None, Checkpoint | None]]:
    """The folder, on rank 0, and on all ranks the preset that it holds and the checkpoint to go on from, if any."""
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
    return folder, stored, checkpoint


def _find_checkpoint(
    folder: RunFolder, stored: dict[str, Any], preset: Preset, resume: bool
) -> Generator[Event, None, Checkpoint | None]:
    """The checkpoint to resume from; None when the run ended before it saved one."""
    if not resume:
        raise RunError(f"{folder.path}: holds a run; continue it with --resume, or choose another --out")
    kept = resolve(stored)
    changed = _refused_change(with_absolute_paths(kept), with_absolute_paths(preset))
    if changed:
        raise RunError(f"{folder.path}: a resumed run keeps its preset, and {changed}; start anew with another --out")
    checkpoint, damaged = load_latest(folder.checkpoints)
    for problem in damaged:
        yield note(f"{problem}; going on from {checkpoint.folder if checkpoint else 'the start'} instead")
    _check_complete(folder, kept, checkpoint)
    if checkpoint is None and folder.reached():
        yield note(f"{folder.path}: nothing was saved yet, so the run begins again from its first step")
    return checkpoint


def _check_begins_alike(folder: RunFolder, setup: Setup) -> None:
    """Raises RunError where a run of which nothing was saved would begin again with other weights than before."""
    start = folder.start()
    before = start.values.get("init") if start is not None else None
    for each, digest in zip(setup.initial, before if isinstance(before, list) else [], strict=False):
        if digest != each.digest:
            raise RunError(
                f"{folder.path}: {each.source} has other weights than this run began with; bring them back, or start "
                "anew with another --out"
            )


def _stored_budget(folder: RunFolder | None, checkpoint: Checkpoint | None, minutes: float | None) -> dict[str, Any]:
    """The minutes that became the steps of a run, and the times of a step: of its checkpoint, else of its record.

    Where both are lost, the `minutes` of the preset that it is resumed with. A new record, and that of a run that
    begins again from its first step, holds them once more.
    """
    budget = None if checkpoint is None else checkpoint.state.get("budget")
    if isinstance(budget, dict):
        return budget
    start = None if folder is None else folder.start()
    if start is not None:
        return start.time
    return {} if minutes is None else {"minutes": minutes}


def _preset_now(kept: Preset, asked: Preset, checkpoint: Checkpoint | None, budget: dict[str, Any]) -> Preset:
    """The preset under which a run goes on; minutes that the run has already are the steps that they became."""
    preset, minutes = adjusted(kept, asked), asked.train.minutes
    if minutes is not None and minutes == budget.get("minutes"):
        return preset.model_copy(update={"train": kept.train})
    return preset if checkpoint is None else minutes_in_steps(preset, checkpoint.state)


def _budget_now(asked: Preset, checkpoint: Checkpoint) -> dict[str, Any]:
    """The minutes that a run goes on for, and the milliseconds of a step until now, from which its steps follow."""
    state, minutes = checkpoint.state, asked.train.minutes
    return {} if minutes is None else {"minutes": minutes, "step_ms": round(1000 * state["seconds"] / state["step"], 3)}


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


def _check_goes_on(setup: Setup, kept: Preset, state: TrainState, end: Checkpoint | None, out: Path) -> None:
    """Raises RunError where a run cannot go on under another preset than that which was `kept`.

    Args:
        setup: under the preset under which it is to go on.
        kept: the preset that it had.
        state: from which it goes on.
        end: the checkpoint with which it ended; None where it did not.
        out: its folder, for messages.
    """
    steps, stale = with_budget(setup, kept).plan.steps, 0 if end is None else end.state.get("stale", 0)
    if end is not None and _out_of_patience(setup.preset, stale):
        raise RunError(
            f"{out}: the run ended after {stale} evaluations without a better score; set evaluate.patience={stale + 1} "
            "or more too, or null"
        )
    if setup.plan.steps != steps:
        try:
            setup.method.check_longer(state, kept.method, steps)
        except ValueError as error:
            raise RunError(f"{out}: the run cannot go on for longer, {error}; start anew with another --out") from None
    elif end is not None and not _out_of_patience(kept, stale):
        raise RunError(
            f"{out}: the run is finished, and other settings alone change nothing; give a larger budget too, such as "
            "train.steps, or leave them out"
        )


def _out_of_patience(preset: Preset, stale: int) -> bool:
    """Whether a run ends after so many evaluations without a better score."""
    return preset.evaluate.patience is not None and stale >= preset.evaluate.patience


def _refused_change(kept: Preset, asked: Preset) -> str | None:
    """The first setting in which a preset differs from that of the run and may not, as a clause; None where none does.

    The joints of the schedule are the run's, which a preset from elsewhere does not name. What a run began with has
    given it its model and its tokenizer.
    """
    if asked.train.init is not None and asked.train.init == kept.train.init and asked.model != kept.model:
        asked = adopt(asked, tuple(map(read_initial, asked.train.sources)))
    now = asked.model_dump(mode="json")
    now["schedule"]["joints"] = now["schedule"]["joints"] or kept.schedule.model_dump(mode="json")["joints"]
    return difference(adjusted(kept, asked).model_dump(mode="json"), now)


def _data_digests(setup: Setup) -> dict[str, str]:
    """Digests of what must be equal on all ranks: the vocabulary and the tokens."""
    texts = {"vocabulary": setup.corpus.tokenizer.to_json(), "tokens": setup.corpus.describe()["fingerprint"]}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
