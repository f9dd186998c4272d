"""A preset becomes a run: everything is set up, the method trains, and its events are recorded.

A run writes each event, saves, samples and stops; methods know of none of it. `train` is itself a generator, so a
command line or a notebook shows the events as it likes. Events of kind `note` and `stop` are shown and not written.

When a run is resumed from a checkpoint, its record is first cut back to the position that the checkpoint names; where
the record is lost, a new one begins. What a run folder has lost besides is refused, and nothing in it is touched. All
that is written depends on the step alone, apart from figures under `time`, so a resumed run leaves the record of an
uninterrupted one.

Where several ranks train together (`train/parallel/ranks.py`), all run the same loop; rank 0 alone writes and shows.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nanogrove.config.preset import Preset
from nanogrove.errors import DataError, DivergedError
from nanogrove.language_model import LanguageModel
from nanogrove.methods.contract import Trained
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Event, Values, note, read_events
from nanogrove.record.folder import RunFolder
from nanogrove.reports.report import write_report
from nanogrove.runs.checkpointer import Checkpointer, NullCheckpointer, due
from nanogrove.runs.circumstances import CIRCUMSTANCES, Changes, changes, circumstances, start_event
from nanogrove.runs.opening import OpenRun, open_run
from nanogrove.runs.recorder import NullRecorder, Recorder, recording
from nanogrove.runs.sampler import samples, samples_of_state
from nanogrove.runs.setup import Setup
from nanogrove.settings import cut
from nanogrove.train.autotune import keep_freed_memory
from nanogrove.train.checkpoint import Checkpoint, load_best, load_student, predictor_of
from nanogrove.train.parallel.ranks import joined
from nanogrove.train.signals import stop_signals
from nanogrove.train.state import TrainState

FINAL_TOKENS = 2_000_000  # scored at the end, at most


def train(
    preset: Preset,
    out: Path,
    resume: bool = False,
    allow_code: bool = False,
    report: bool = True,
    extend: bool = False,
) -> Iterator[Event]:
    """Runs a preset in the folder `out`, yielding every event.

    On Ctrl-C or SIGTERM the run finishes the current step, saves a checkpoint, and ends with a `stop` event that names
    the signal; a second signal ends it at once. Raises RunError when `out` is in use, or holds a run and `resume` is
    not set, and DivergedError, which names the last good checkpoint, when training diverges.

    Started by torchrun, this process is one of the ranks that train together: all but rank 0 yield `stop` at most, and
    a rank that torchrun started again resumes. What fails on one rank before training fails on all.

    Args:
        preset: everything about the run.
        out: its folder.
        resume: whether a run that the folder holds goes on, with the budget of the preset and what else may change.
        allow_code: whether functions that the preset names are run.
        report: whether `report.html` is drawn when the run ends.
        extend: whether the schedule is extended where that of a longer run would have been another until now.
    """
    keep_freed_memory()
    with joined(preset.train.device) as ranks, ExitStack() as held:
        with ranks.fail_together():
            run = yield from open_run(preset, out, held, resume, allow_code, ranks, extend=extend)
        # CPUs of two kinds may round the first weights in different ways.
        ranks.broadcast(run.state.all_parameters())
        if run.folder is None:
            if not run.finished:
                with stop_signals() as stopped:
                    yield from drive(Written(run.setup, run.state, NullRecorder(), NullCheckpointer()), stopped)
        elif run.finished:
            yield from show_finished(run.folder, report)
        else:
            yield from lead(run.folder, run, report)
        ranks.barrier()  # once one rank ends, torchrun ends all others


@dataclass(frozen=True)
class Written:
    """A run that is being trained, and what is written of it."""

    setup: Setup
    state: TrainState
    recorder: Recorder | NullRecorder
    checkpointer: Checkpointer | NullCheckpointer


def show_finished(folder: RunFolder, report: bool) -> Iterator[Event]:
    """Says that a run is finished and how it ended; with `report`, writes that where it is missing."""
    end = folder.end()
    if end is not None:
        yield note(f"{folder.path}: the run is finished, all of its {end.step} steps; nothing is left to train")
        yield end
    if report and not (folder.path / "report.html").exists():
        write_report(folder.path)


def lead(folder: RunFolder, run: OpenRun, report: bool) -> Iterator[Event]:
    """Trains a run to its end on rank 0, which writes; with `report`, draws that at the end."""
    checkpointer = Checkpointer(folder, run.setup, run.state)
    changed = yield from rewind(folder, run, checkpointer)
    with recording(folder, run.setup, report) as recorder:
        written = Written(run.setup, run.state, recorder, checkpointer)
        yield from begin(folder, run, recorder, changed)
        with stop_signals() as stopped:
            finished = yield from drive(written, stopped)
        if finished:  # and saved, so that a signal may end this at once
            best, model = best_model(run.setup, checkpointer)
            yield from finish(written, checkpointer, best, model, final_score(run, model))


def rewind(folder: RunFolder, run: OpenRun, checkpointer: Checkpointer) -> Generator[Event, None, Changes]:
    """Cuts the record back to the checkpoint from which a run goes on; how its circumstances changed since."""
    checkpoint = run.checkpoint
    if checkpoint is None:
        folder.rewind({"position": 0})
        return {}
    checkpointer.resume(checkpoint)
    if folder.is_empty() and checkpoint.state.get("position"):
        yield note(f"{folder.path / 'events.jsonl'}: is lost; a new record begins at step {run.state.step}")
        checkpointer.save("current")  # whose position is in the new record
        return {}
    folder.rewind(checkpoint.state)
    before = [e.values for e in read_events(folder.path / "events.jsonl") if e.kind in CIRCUMSTANCES]
    return changes(before[-1], circumstances(run.setup)) if before else {}


def begin(folder: RunFolder, run: OpenRun, recorder: Recorder, changed: Changes) -> Iterator[Event]:
    """Writes what comes before the first step: the preset and the `start` event, or what changed before a resume."""
    setup, state = run.setup, run.state
    if run.checkpoint is None or run.amended:  # once the record no longer ends, or the run would count as finished
        folder.write_preset(setup.preset.model_dump(mode="json"))
    if folder.is_empty():
        start = start_event(setup, state)
        yield from recorder.write(start)
        if reason := start.values.get("members_differ"):
            yield note(f"members are not the same models trained alone, bit for bit: {reason}")
    if changed or run.changed:
        steps = {"steps": setup.plan.steps} if run.changed else {}
        values = {"changed": {**run.changed, **changed}, **steps, **circumstances(setup)}
        yield from recorder.write(Event("resume", state.step, values, setup.budget if run.changed else {}))
    if run.changed:
        yield note(f"goes on from step {state.step:,} with {_described(run.changed)}")
    if changed:
        rounding = "from here on it may round otherwise than an uninterrupted run"
        yield note(f"resumed with {_described(changed)}: {rounding}")


def _described(changes: Changes) -> str:
    return "; ".join(f"{name} {cut(str(now))}, before {cut(str(before))}" for name, (before, now) in changes.items())


def drive(run: Written, stopped: list[int]) -> Generator[Event, None, bool]:
    """Trains by consuming the method's events, on every rank; samples, saves and stops where these are due.

    Returns whether training came to its end; False where a signal in `stopped` ended it.
    """
    setup, checkpointer, plan, event = run.setup, run.checkpointer, run.setup.plan, None
    if out_of_patience(run):  # as a run that was killed before it wrote its end
        return True
    try:
        for event in setup.method.run(run.state, setup.corpus, plan, setup.preset.method):
            yield from record(run, event)
            if event.kind != "step":
                continue
            signal = plan.ranks.all_reduce_max(stopped[0] if stopped else 0)
            if signal and event.step < plan.steps:
                plan.layout.gather()
                checkpointer.save_current()
                yield Event("stop", event.step, {"signal": signal})
                return False
            if out_of_patience(run):
                plan.layout.gather()
                break
    except DivergedError as error:
        run.recorder.write_report()
        raise DivergedError(f"{error}{checkpointer.last_good()}") from None
    except DataError as error:  # of text that is still being read
        raise DataError(f"{error}{checkpointer.rescue(event)}") from None
    checkpointer.save_current()
    return True


def out_of_patience(run: Written) -> bool:
    """Whether a run ends before its last step, since its evaluations found nothing better; the same on all ranks."""
    if run.setup.preset.evaluate.patience is None:
        return False
    return bool(run.setup.plan.ranks.all_reduce_max(int(run.checkpointer.out_of_patience)))


def record(run: Written, event: Event) -> Iterator[Event]:
    """Writes and yields an event of the method; keeps the best model, samples and saves where that is due after it."""
    setup, state, checkpointer = run.setup, run.state, run.checkpointer
    yield from run.recorder.write(event)
    if event.kind == "eval":
        checkpointer.keep_best(event)
    if event.kind == "student":
        checkpointer.keep_student(event)
    if event.kind != "step":
        return
    now = due(setup.preset, event.step)
    if now:
        setup.plan.layout.gather()
    if now.sample and event.step < setup.plan.steps:
        yield from run.recorder.write_each(samples_of_state(setup, state, checkpointer.best_member, event.step))
    checkpointer.save_due(now)


def best_model(setup: Setup, checkpointer: Checkpointer) -> tuple[Checkpoint, GPT]:
    """The best model of a run, or its ensemble, which is what `load` returns."""
    best = load_best(checkpointer.folder.checkpoints)
    return best, predictor_of(best, setup.whole_device)


def final_score(run: OpenRun, model: GPT) -> Values:
    """The score of a run's best model."""
    setup, state, folder = run.setup, run.state, run.folder
    assert folder is not None, "the first rank holds the folder"
    trained = Trained(
        model=model,
        config=setup.preset.method,
        seed=setup.plan.seed,
        kept=lambda: state.method_tensors,
        student=lambda: load_student(folder.checkpoints, setup.whole_device),
        allow_code=setup.plan.allow_code,
    )
    return setup.method.evaluate(trained, setup.corpus, setup.final_split, FINAL_TOKENS)


def finish(run: Written, checkpointer: Checkpointer, best: Checkpoint, model: GPT, score: Values) -> Iterator[Event]:
    """Writes the last events: samples of the best model, and its score."""
    setup, state = run.setup, run.state
    if setup.preset.sample.tokens and not setup.preset.model.scalar:
        yield from run.recorder.write_each(samples(setup, LanguageModel(model, best.tokenizer), state.step))
    best_step = None if checkpointer.best is None else checkpointer.best["step"]
    values = {**score, "scored": score["tokens"], "tokens": state.tokens, "best_step": best_step}
    time = {"seconds": state.seconds}
    if checkpointer.out_of_patience and state.step < setup.plan.steps:
        values["ended"] = f"{checkpointer.stale} evaluations brought no better score than that of step {best_step}"
        yield note(f"training ended at step {state.step:,}: {values['ended']} (evaluate.patience)")
    if setup.corpus.describe().get("streams"):  # what was read depends on the clock
        counts, locations = setup.corpus.left_out()
        time |= {f"left out, {kind}": count for kind, count in counts.items()}
        for kind, count in counts.items():
            example = f", as in {locations[kind]}" if kind in locations else ""
            yield note(f"left out: {count:,} times {kind}{example}")
    yield from run.recorder.write(Event("end", state.step, values, time))
