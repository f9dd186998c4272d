"""A preset becomes a run: the lab builds the parts, drives the method, and consumes its events.

The lab writes each event, saves, samples and stops; methods know of none of it. `train` is itself a generator, so a
command line or a notebook shows the events as it likes. Events of kind `note` and `stop` are for the one who watches
and are not written.

The record is cut back to the position a checkpoint names when a run is resumed from it. All that is written depends on
the step alone, apart from figures under `time`, so a resumed run leaves the record of an uninterrupted one.

Where several ranks train together (`train/parallel/ranks.py`), all of this is rank 0's; the others train along, write
nothing and show nothing.
"""

import hashlib
import platform
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nanogrove.corpora import make_corpus
from nanogrove.data.rng import derived_seed
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.data.splits import SPLITS
from nanogrove.errors import CheckpointError, DataError, DivergedError, PresetError, RunError
from nanogrove.evaluate import calibration
from nanogrove.language_model import LanguageModel
from nanogrove.methods import load_method
from nanogrove.model.gpt import GPT, unstack
from nanogrove.runs.setup import Parts, build
from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset, difference
from nanogrove.record.events import Event, read_events
from nanogrove.reports.report import write_report
from nanogrove.record.folder import RunFolder, read_preset
from nanogrove.record.measures import costs
from nanogrove.record.trackers import Tracker, open_trackers
from nanogrove.train.autotune import Decoding, cores, instructions, keep_freed_memory, processor, unpacked
from nanogrove.train.checkpoint import (
    Checkpoint,
    load_best,
    load_checkpoint,
    load_latest,
    model_of,
    read_checkpoint,
    save_checkpoint,
)
from nanogrove.train.parallel.ranks import joined, restarted
from nanogrove.train.loop import BUDGETS
from nanogrove.train.parallel.members import difference_from_alone
from nanogrove.train.precision import pick_device
from nanogrove.train.signals import stop_signals
from nanogrove.train.state import TrainState

FINAL_TOKENS = 2_000_000  # scored at the end; all of a validation split that holds no more
PLACES = ("start", "resume")  # the events that say on what a run goes on
BIT_DEPENDENCIES = {"versions": ("nanogrove", "torch"), "machine": ("processor", "instructions", "threads")}
RECORDED_STEPS = 10_000  # `step` events in a record, about; a longer run records evenly spaced ones


def train(preset: Preset, out: Path, resume: bool = False, allow_code: bool = False) -> Iterator[Event]:
    """Runs a preset in the folder `out`, yielding every event; with `allow_code` functions it names are run.

    Ctrl-C and SIGTERM end the run behind the current step, saved, with a `stop` event that names the signal; a
    second one ends it at once. Raises RunError when `out` holds a run and `resume` is not set, or is in use.

    Started by torchrun, it is one of the ranks that train together, of which all but rank 0 yield `stop` at most, and
    one that torchrun started again resumes. What fails on one rank before training fails on all.
    """
    keep_freed_memory()
    with joined(preset.train.device) as ranks, ExitStack() as held:
        with ranks.agreement():
            ranks.same_everywhere("preset", preset.model_dump(mode="json"))
            checkpoint, stored, folder = None, None, None
            if ranks.first:
                folder = held.enter_context(RunFolder(out))
                stored = folder.preset()
                if stored is not None:
                    checkpoint = yield from _find_checkpoint(folder, stored, preset, resume or restarted())
            stored = ranks.told(lambda: stored)
            name = ranks.told(lambda: checkpoint and checkpoint.folder.name)
            if name and not ranks.first:
                checkpoint = load_checkpoint(out / "checkpoints" / name)
            ranks.same_everywhere("checkpoint", checkpoint and checkpoint.state["checksum"])
            preset = preset if stored is None else resolve(stored)
            if preset.train.minutes is not None and ranks.first:
                yield _note(f"train.minutes={preset.train.minutes:g} becomes steps: a few are timed first")
            parts = build(preset, checkpoint, allow_code, ranks)
            start = folder.start() if folder is not None and stored is not None else None
            if start is not None:  # its budget in minutes, for a run that begins again from its first step
                parts = replace(parts, budget=start.time)
            told = {"vocabulary": parts.corpus.tokenizer.to_json(), "tokens": parts.corpus.describe()["fingerprint"]}
            digests = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in told.items()}
            ranks.same_everywhere("data", {**digests, "steps": parts.plan.steps})
            state = parts.new_state()
            if checkpoint is not None:
                if checkpoint.config != parts.model:
                    raise CheckpointError(f"{checkpoint.folder}: config.json is not the model of preset.json")
                checkpoint.restore(state)
        # processors of two kinds may begin with other roundings
        ranks.copy_first([p.data for _, p in state.named_parameters()])
        if folder is None:
            with stop_signals() as stopped:
                yield from _follow(parts, state, stopped)
        else:
            yield from _lead(folder, parts, state, checkpoint)
        ranks.say()  # torchrun ends those that are left when one ends


def _lead(folder: RunFolder, parts: Parts, state: TrainState, checkpoint: Checkpoint | None) -> Iterator[Event]:
    """A run from the start or from a checkpoint to its end, with all that is written."""
    run = _Run(folder, replace(parts, plan=replace(parts.plan, made=folder.read_rows)), state)
    settings = parts.preset.model_dump(mode="json")
    changed = {} if checkpoint is None else run.resume(checkpoint)
    if checkpoint is None:
        folder.rewind(0)
    track = parts.preset.track
    run.trackers = open_trackers(track.trackers, folder.path, settings, project=track.project, name=track.name)
    try:
        if checkpoint is None:
            folder.write_preset(settings)
            start = run.write(run.start())
            yield start
            if start.values.get("members_differ"):
                reason = start.values["members_differ"]
                yield _note(f"members are not the same models trained alone, bit for bit: {reason}")
        if changed:
            yield run.write(Event("resume", state.step, {"changed": changed, **run.circumstances()}))
            differences = "; ".join(f"{name} {now}, before {before}" for name, (before, now) in changed.items())
            yield _note(f"resumed with {differences}: from here on it may round otherwise than an uninterrupted run")
        with stop_signals() as stopped:
            yield from run.drive(stopped)
    finally:
        for tracker in run.trackers:
            tracker.close()
    write_report(folder.path)


def _follow(parts: Parts, state: TrainState, stopped: list[int]) -> Iterator[Event]:
    """What every rank but the first does: it trains along, and stops with the others."""
    plan = parts.plan
    config = parts.preset.method
    for event in load_method(config.name).run(state, parts.corpus, plan, config):
        if event.kind == "step":
            if any(_due(parts.preset, event.step).values()):
                state.gather()
            number = plan.ranks.highest(stopped[0] if stopped else 0)
            if number and event.step < plan.steps:
                state.gather()
                yield Event("stop", event.step, {"signal": number})
                return


def _find_checkpoint(
    folder: RunFolder, stored: dict[str, Any], preset: Preset, resume: bool
) -> Generator[Event, None, Checkpoint | None]:
    """The checkpoint to go on from, None when the run ended before it saved one."""
    if not resume:
        raise RunError(f"{folder.path}: holds a run; continue it with --resume, or choose another --out")
    changed = _changed(resolve(stored), preset, folder.start())
    if changed:
        raise RunError(f"{folder.path}: a resumed run keeps its preset, and {changed}; start anew with another --out")
    checkpoint, damaged = load_latest(folder.checkpoints)
    for problem in damaged:
        yield _note(f"{problem}; going on from {checkpoint.folder if checkpoint else 'the start'} instead")
    return checkpoint


def _changed(stored: Preset, asked: Preset, start: Event | None) -> str | None:
    """The first setting in which the preset asked for differs from that of the run, as a clause, or None.

    A budget in minutes has become steps; what it was is in the `start` event. Without that event it counts as the same.
    """
    was, now = stored.model_dump(mode="json"), asked.model_dump(mode="json")
    if asked.train.minutes is not None:
        minutes = asked.train.minutes if start is None else start.time.get("minutes")
        was["train"] |= {**dict.fromkeys(BUDGETS), "minutes": minutes}
    return difference(was, now)


def _due(preset: Preset, step: int) -> dict[str, bool]:
    """What is to be done behind a step, with the whole state."""
    return {
        "sample": bool(preset.sample.tokens) and not preset.model.scalar and step % preset.sample.every == 0,
        "snapshot": preset.save.snapshots and step & (step - 1) == 0,
        "save": step % preset.save.every == 0,
    }


def _note(text: str) -> Event:
    return Event("note", 0, {"text": text})


@dataclass
class _Run:
    """A run under way: consumes what the method yields."""

    folder: RunFolder
    parts: Parts
    state: TrainState
    trackers: list[Tracker] = field(default_factory=list)
    best: dict[str, float] | None = None  # step, score and member of the best evaluation so far
    saved: int = -1

    def start(self) -> Event:
        """The first event: what is about to be trained, on what."""
        preset, plan, heads = self.parts.preset, self.parts.plan, self.state.heads
        values = {
            "name": preset.name,
            "method": preset.method.name,
            "seed": preset.seed,
            "parameters": self.state.model.parameter_count(),
            **({} if heads is None else {"head_parameters": heads.parameter_count()}),
            "vocabulary": self.parts.model.vocab_size,
            "steps": plan.steps,
            "data": self.parts.corpus.describe(),
            "precision": plan.precision,
            "precision_reason": self.parts.precision_reason,
            "decoding": self.sample_precision,
            "decoding_reason": "the format of training" + unpacked(self.sample_precision),
            "micro_batches": plan.accumulation,
            "compile": plan.compile,
            "device": str(plan.shard or self.parts.device),
            **self.circumstances(),
        }
        if self.state.model.population is not None and plan.ranks.world == 1:
            first = self.parts.corpus.batches(0)
            values["members_differ"] = difference_from_alone(self.state, first, plan)
        return Event("start", 0, values, self.parts.budget)

    @property
    def sample_precision(self) -> Decoding:
        """The format in which samples are drawn: that of training, where a model decodes in it."""
        rounded = self.parts.plan.precision == "bfloat16" and self.parts.device.type == "cpu"
        return "bfloat16" if rounded else "float32"

    def circumstances(self) -> dict[str, Any]:
        """Ranks, versions and machine: what bits may depend on beside the preset."""
        ranks = self.parts.plan.ranks.world
        return {
            **({"ranks": ranks} if ranks > 1 else {}),
            "versions": {
                "nanogrove": metadata.version("nanogrove"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "machine": {
                "system": platform.platform(),
                "processor": processor(self.parts.device),
                "instructions": instructions(),
                "cores": cores(),
                "threads": torch.get_num_threads(),
            },
        }

    def resume(self, checkpoint: Checkpoint) -> dict[str, list[Any]]:
        """Goes on from what a checkpoint knows of the run, and cuts the record back to it.

        Returns what bits may depend on and is no longer as it was, by name: what it was, and what it is.
        """
        self.best, self.saved = checkpoint.state["best"], self.state.step
        self.folder.rewind(checkpoint.state["position"])
        before = [event.values for event in read_events(self.folder.path / "events.jsonl") if event.kind in PLACES]
        return _changes(before[-1], self.circumstances()) if before else {}

    def write(self, event: Event) -> Event:
        """Adds an event to the record and to every tracker."""
        self.folder.append(event)
        for tracker in self.trackers:
            tracker.log(event)
        return event

    def save(self, name: str, member: int = 0) -> None:
        """Saves the state under `name`; best and snapshots hold the weights of one model only."""
        extra = {
            "position": self.folder.position(),
            "best": self.best,
            "data": self.parts.corpus.describe()["fingerprint"],
            "nanogrove": metadata.version("nanogrove"),
        }
        alone = None if self.state.model.population is None or name == "current" else member
        save_checkpoint(self.folder.checkpoints, name, self.state, self.parts.corpus.tokenizer, extra, alone)

    def drive(self, stopped: list[int]) -> Iterator[Event]:
        """Consumes the method's events to its end, or to the first step behind a signal in `stopped`."""
        preset = self.parts.preset
        spacing = max(self.parts.plan.steps // RECORDED_STEPS, 1)
        method = load_method(preset.method.name)
        events = method.run(self.state, self.parts.corpus, self.parts.plan, preset.method)
        event: Event | None = None
        try:
            for event in events:
                if event.kind == "data":
                    self.folder.write_rows(event.values["name"], event.values.pop("rows"))
                recorded = event.kind != "step" or event.step % spacing == 0
                yield self.write(event) if recorded else event
                if event.kind == "eval":
                    self.keep_best(event)
                if event.kind == "step":
                    if any(_due(preset, event.step).values()):
                        self.state.gather()
                    yield from self.after_step(event.step)
                    number = self.parts.plan.ranks.highest(stopped[0] if stopped else 0)
                    if number and event.step < self.parts.plan.steps:
                        self.state.gather()
                        self.save("current")
                        yield Event("stop", event.step, {"signal": number})
                        return
        except DivergedError as error:
            write_report(self.folder.path)
            last = f"{self.folder.checkpoints / 'current'} (step {self.saved})" if self.saved >= 0 else "none yet"
            raise DivergedError(f"{error}; last good checkpoint: {last}") from None
        except DataError as error:  # of text that is still being read
            plan, apart = self.parts.plan, self.state.model.population is not None or self.parts.plan.shard is not None
            whole = plan.ranks.world == 1 or not apart  # else it would take all ranks to make it so
            if whole and event is not None and event.kind == "step" and event.step == self.state.step > self.saved:
                self.save("current")
                self.saved = event.step
            last = f"the run is saved at step {self.saved}" if self.saved >= 0 else "nothing is saved yet"
            raise DataError(f"{error}; {last}, go on with --resume") from None
        if self.saved < self.state.step:
            self.save("current")
        yield from self.finish()

    def keep_best(self, event: Event) -> None:
        """Saves the model of an `eval` event, of a population its best member, where none was as good before."""
        scores = costs(event.values)
        member = min(range(len(scores)), key=scores.__getitem__)
        if self.best is None or scores[member] < self.best["score"]:
            self.best = {"step": event.step, "score": scores[member], "member": member}
            self.save("best", member)
        self.best["member"] = member  # whom samples come from: slots change their owners

    def after_step(self, step: int) -> Iterator[Event]:
        """Samples and saves, where step says so; the state is whole here."""
        due = _due(self.parts.preset, step)
        if due["sample"] and step < self.parts.plan.steps:
            yield from self.samples(LanguageModel(self.one_model(), self.parts.corpus.tokenizer), step)
        if due["snapshot"]:
            self.save(f"step-{step}")
        if due["save"]:
            self.save("current")
            self.saved = step

    def one_model(self) -> GPT:
        """The model as it stands; of a population, the member that was best when last scored."""
        model, member = self.state.model, int((self.best or {"member": 0})["member"])
        if model.population is None:
            return model
        alone = GPT(model.config).to(self.parts.device)
        alone.load_state_dict(unstack(model.state_dict(), member))
        return alone

    def samples(self, lm: LanguageModel, step: int) -> Iterator[Event]:
        """A `sample` event for each prompt; its randomness is a function of (seed, step)."""
        settings = self.parts.preset.sample
        sampling = settings.model_dump(exclude={"every", "prompts", "tokens"})
        seed = derived_seed(self.parts.preset.seed, "sample", step)
        texts = lm.generate(settings.prompts, settings.tokens, seed=seed, precision=self.sample_precision, **sampling)
        for prompt, text in zip(settings.prompts, texts, strict=True):
            yield self.write(Event("sample", step, {"prompt": prompt, "text": text}))

    def finish(self) -> Iterator[Event]:
        """The last events, from the best model, which is the one `load` returns: a sample, its score, the end."""
        preset, best = self.parts.preset, load_best(self.folder.checkpoints)
        model = model_of(best, self.parts.device)
        if preset.sample.tokens and not preset.model.scalar:
            yield from self.samples(LanguageModel(model, best.tokenizer), self.state.step)
        method = load_method(preset.method.name)
        score = method.evaluate(model, self.parts.corpus, method.final_split, FINAL_TOKENS)
        values = {
            **score,
            "scored": score["tokens"],
            "tokens": self.state.tokens,
            "best_step": (self.best or {})["step"],
        }
        time = {"seconds": self.state.seconds}
        corpus = self.parts.corpus
        if isinstance(corpus, TextCorpus) and corpus.describe().get("streams"):  # what was read depends on the clock
            counts, places = corpus.left_out()
            time |= {f"left out, {kind}": count for kind, count in counts.items()}
            for kind, count in counts.items():
                yield _note(f"left out: {count:,} times {kind}" + (f", as in {places[kind]}" if kind in places else ""))
        yield self.write(Event("end", self.state.step, values, time))


def _changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, list[Any]]:
    """What differs, by name, of two `circumstances` that bits may depend on; what the older does not know is left."""
    found = {"ranks": [before.get("ranks", 1), now.get("ranks", 1)]}
    for section, names in BIT_DEPENDENCIES.items():
        known = before.get(section, {})
        found |= {name: [known[name], now[section][name]] for name in names if name in known}
    if "instructions" not in before.get("machine", {}):
        found.pop("processor", None)  # such a record names the processor in another way
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


def evaluate(run: Path, split: str | None = None, device: str = "auto", calibrate: bool = False) -> dict[str, Any]:
    """How a run's best model does on the whole of a split: loss, and what else `evaluate_split` tells of such data.

    Left out, the split is validation for text and test for a grammar, whose samples cost nothing to spend. With
    `calibrate` it is test, a temperature is fitted on validation and kept beside the weights, and what it brings on
    test is told under `calibration`; see `nanogrove.evaluate.calibration`.

    Raises RunError for a folder without a run, CheckpointError when the data is no longer that it was trained on, and
    PresetError for a split that is none, or where there is nothing to measure a temperature on.
    """
    if split not in (None, *SPLITS):
        raise PresetError(f"{split!r} is no split; take one of {', '.join(SPLITS)}")
    if calibrate and split not in (None, "test"):
        raise PresetError(f"a temperature is fitted on validation and measured on test; leave split={split} out")
    stored = read_preset(run)
    if stored is None:
        raise RunError(f"{run}: no run here; give a folder such as runs/NAME")
    checkpoint = read_checkpoint(run)
    preset = resolve(stored)
    corpus = make_corpus(preset.data, checkpoint.config.block_size, preset.train.batch_size, preset.seed)
    data = corpus.describe()
    if checkpoint.state.get("data") != data["fingerprint"]:
        raise CheckpointError(f"{run}: the data has changed since; scores on it could include what it was trained on")
    model, method = model_of(checkpoint, pick_device(device)), load_method(preset.method.name)
    chosen = split or ("test" if calibrate else corpus.default_split)
    overlaps = ("overlap", "expected_overlap")
    known: dict[str, Any] = {key: data[key] for key in overlaps if key in data and chosen == "test"}
    if not calibrate:
        return {**method.evaluate(model, corpus, chosen, None), **known, "step": checkpoint.state["step"]}
    if preset.model.scalar:
        raise PresetError(f"{run}: is a reward model; a temperature is for one that predicts tokens")
    if "test" not in corpus.splits:
        raise PresetError(f"{run}: made with data.test=0, so no split is left to measure a temperature on; train anew")
    if checkpoint.model["embed.weight"].dim() == 3:
        raise PresetError(f"{run}: no member of its population was scored yet; a temperature belongs to one model")
    found = calibration.calibrate(model, corpus)
    calibration.save_calibration(checkpoint, found)
    return {**method.evaluate(model, corpus, chosen, None), **known, "step": checkpoint.state["step"], "calibration": found}
