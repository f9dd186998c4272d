"""A preset becomes a run: everything is set up, the method trains, and its events are recorded.

A run writes each event, saves, samples and stops; methods know of none of it. `train` is itself a generator, so a
command line or a notebook shows the events as it likes. Events of kind `note` and `stop` are shown and not written.

When a run is resumed from a checkpoint, its record is first cut back to the position that the checkpoint names; where
the record is lost, a new one begins. What a run folder has lost besides is refused, and nothing in it is touched. All
that is written depends on the step alone, apart from figures under `time`, so a resumed run leaves the record of an
uninterrupted one.

Where several ranks train together (`train/parallel/ranks.py`), all run the same loop; rank 0 alone writes and shows.
"""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset, difference
from nanogrove.errors import CheckpointError, DataError, DivergedError, RunError
from nanogrove.language_model import LanguageModel
from nanogrove.methods.contract import Trained, check_resumed
from nanogrove.paths import with_absolute_paths
from nanogrove.record.events import Event, note, read_events
from nanogrove.record.folder import RunFolder
from nanogrove.reports.report import write_report
from nanogrove.runs.checkpointer import Checkpointer, NullCheckpointer, due
from nanogrove.runs.circumstances import CIRCUMSTANCES, changes, circumstances, start_event
from nanogrove.runs.recorder import NullRecorder, Recorder, recording
from nanogrove.runs.sampler import samples, samples_of_state
from nanogrove.runs.setup import Setup, build
from nanogrove.train.autotune import keep_freed_memory
from nanogrove.train.checkpoint import ROTATION, Checkpoint, load_best, load_checkpoint, load_latest, model_of
from nanogrove.train.loop import BUDGETS
from nanogrove.train.parallel.ranks import joined, restarted
from nanogrove.train.signals import stop_signals
from nanogrove.train.state import TrainState

FINAL_TOKENS = 2_000_000  # scored at the end, at most


def train(preset: Preset, out: Path, resume: bool = False, allow_code: bool = False) -> Iterator[Event]:
    """Runs a preset in the folder `out`, yielding every event; with `allow_code` functions it names are run.

    On Ctrl-C or SIGTERM the run finishes the current step, saves a checkpoint, and ends with a `stop` event that names
    the signal; a second signal ends it at once. Raises RunError when `out` is in use, or holds a run and `resume` is
    not set.

    Started by torchrun, this process is one of the ranks that train together: all but rank 0 yield `stop` at most, and
    a rank that torchrun started again resumes. What fails on one rank before training fails on all.
    """
    keep_freed_memory()
    with joined(preset.train.device) as ranks, ExitStack() as open_folder:
        with ranks.fail_together():
            ranks.same_everywhere("preset", preset.model_dump(mode="json"))
            checkpoint, stored, folder = None, None, None
            if ranks.first:
                folder = open_folder.enter_context(RunFolder(out))
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
            setup = build(preset, checkpoint, allow_code, ranks)
            if folder is not None:
                budget = setup.budget if stored is None else _stored_budget(folder, checkpoint, minutes)
                setup = replace(setup, plan=replace(setup.plan, rows=folder), budget=budget)
            ranks.same_everywhere("data", {**_data_digests(setup), "steps": setup.plan.steps})
            state = setup.new_state()
            if checkpoint is not None:
                if checkpoint.config != setup.model_on_data:
                    raise CheckpointError(f"{checkpoint.folder}: config.json is not the model of preset.json")
                checkpoint.restore(state)
                check_resumed(setup.method, state, setup.corpus, setup.plan, preset.method, checkpoint.folder)
            finished = ranks.broadcast_from_main(lambda: _is_finished(folder, checkpoint))
        # CPUs of two kinds may round the first weights in different ways.
        ranks.broadcast([p.data for _, p in state.named_parameters()])
        if finished:
            yield from () if folder is None else _show_finished(folder)
        elif folder is None:
            with stop_signals() as stopped:
                yield from _drive(setup, state, NullRecorder(), NullCheckpointer(), stopped)
        else:
            yield from _lead(folder, setup, state, checkpoint)
        ranks.barrier()  # once one rank ends, torchrun ends all others


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


def _show_finished(folder: RunFolder) -> Iterator[Event]:
    """Says that a run is finished and how it ended; writes its report where that is missing."""
    end = folder.end()
    if end is not None:
        yield note(f"{folder.path}: the run is finished, all of its {end.step} steps; nothing is left to train")
        yield end
    if not (folder.path / "report.html").exists():
        write_report(folder.path)


def _changed(stored: Preset, requested: Preset, start: Event | None) -> str | None:
    """The first setting in which the requested preset differs from that of the run, as a clause; None where none does.

    A stored budget has become steps; its minutes are in the `start` event. Without that event they count as the same.
    """
    was, now = stored.model_dump(mode="json"), requested.model_dump(mode="json")
    if requested.train.minutes is not None:
        minutes = requested.train.minutes if start is None else start.time.get("minutes")
        was["train"] |= {**dict.fromkeys(BUDGETS), "minutes": minutes}
    return difference(was, now)


def _data_digests(setup: Setup) -> dict[str, str]:
    """Digests of what must be equal on all ranks: the vocabulary and the tokens."""
    texts = {"vocabulary": setup.corpus.tokenizer.to_json(), "tokens": setup.corpus.describe()["fingerprint"]}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}


def _lead(folder: RunFolder, setup: Setup, state: TrainState, checkpoint: Checkpoint | None) -> Iterator[Event]:
    """Drives the run on rank 0, which writes: begins the record, or cuts it back, and trains to the end."""
    checkpointer, changed = Checkpointer(folder, setup, state), {}
    if checkpoint is None:
        folder.rewind({"position": 0})
    elif folder.is_empty() and checkpoint.state.get("position"):
        yield note(f"{folder.path / 'events.jsonl'}: is lost; a new record begins at step {state.step}")
        checkpointer.resume(checkpoint)
        checkpointer.save("current")  # whose position is in the new record
    else:
        checkpointer.resume(checkpoint)
        folder.rewind(checkpoint.state)
        before = [e.values for e in read_events(folder.path / "events.jsonl") if e.kind in CIRCUMSTANCES]
        changed = changes(before[-1], circumstances(setup)) if before else {}
    with recording(folder, setup) as recorder:
        if checkpoint is None:
            folder.write_preset(setup.preset.model_dump(mode="json"))
        if folder.is_empty():
            start = start_event(setup, state)
            yield from recorder.write(start)
            if reason := start.values.get("members_differ"):
                yield note(f"members are not the same models trained alone, bit for bit: {reason}")
        if changed:
            yield from recorder.write(Event("resume", state.step, {"changed": changed, **circumstances(setup)}))
            differences = "; ".join(f"{name} {now}, before {before}" for name, (before, now) in changed.items())
            yield note(f"resumed with {differences}: from here on it may round otherwise than an uninterrupted run")
        with stop_signals() as stopped:
            finished = yield from _drive(setup, state, recorder, checkpointer, stopped)
        if finished:  # and saved, so that a signal may end this at once
            yield from _finish(setup, state, recorder, checkpointer)


def _drive(
    setup: Setup,
    state: TrainState,
    recorder: Recorder | NullRecorder,
    checkpointer: Checkpointer | NullCheckpointer,
    stopped: list[int],
) -> Generator[Event, None, bool]:
    """Trains by consuming the method's events, on every rank; samples, saves and stops where these are due.

    Returns whether training came to its end; False where a signal in `stopped` ended it.
    """
    preset, plan, event = setup.preset, setup.plan, None
    try:
        for event in setup.method.run(state, setup.corpus, plan, preset.method):
            yield from recorder.write(event)
            if event.kind == "eval":
                checkpointer.keep_best(event)
            if event.kind != "step":
                continue
            now = due(preset, event.step)
            if now:
                plan.layout.gather()
            if now.sample and event.step < plan.steps:
                yield from recorder.write_each(samples_of_state(setup, state, checkpointer.best_member, event.step))
            checkpointer.save_due(now)
            signal = plan.ranks.all_reduce_max(stopped[0] if stopped else 0)
            if signal and event.step < plan.steps:
                plan.layout.gather()
                checkpointer.save_current()
                yield Event("stop", event.step, {"signal": signal})
                return False
    except DivergedError as error:
        recorder.write_report()
        raise DivergedError(f"{error}{checkpointer.last_good()}") from None
    except DataError as error:  # of text that is still being read
        raise DataError(f"{error}{checkpointer.rescue(event)}") from None
    checkpointer.save_current()
    return True


def _finish(setup: Setup, state: TrainState, recorder: Recorder, checkpointer: Checkpointer) -> Iterator[Event]:
    """Yields the last events: samples of the best model, which is the one that `load` returns, and its score."""
    preset, corpus, method = setup.preset, setup.corpus, setup.method
    best = load_best(checkpointer.folder.checkpoints)
    model = model_of(best, setup.whole_device)
    if preset.sample.tokens and not preset.model.scalar:
        yield from recorder.write_each(samples(setup, LanguageModel(model, best.tokenizer), state.step))
    trained = Trained(
        model=model,
        config=preset.method,
        seed=setup.plan.seed,
        kept=lambda: state.method_tensors,
        allow_code=setup.plan.allow_code,
    )
    score = method.evaluate(trained, corpus, setup.final_split, FINAL_TOKENS)
    best_step = None if checkpointer.best is None else checkpointer.best["step"]
    values = {**score, "scored": score["tokens"], "tokens": state.tokens, "best_step": best_step}
    time = {"seconds": state.seconds}
    if corpus.describe().get("streams"):  # what was read depends on the clock
        counts, locations = corpus.left_out()
        time |= {f"left out, {kind}": count for kind, count in counts.items()}
        for kind, count in counts.items():
            example = f", as in {locations[kind]}" if kind in locations else ""
            yield note(f"left out: {count:,} times {kind}{example}")
    yield from recorder.write(Event("end", state.step, values, time))
