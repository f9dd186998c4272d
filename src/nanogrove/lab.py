"""A preset becomes a run: the lab builds the parts, drives the method, and consumes its events.

The lab writes each event, saves, samples and stops; methods know of none of it. `train` is itself a generator, so a
command line or a notebook shows the events as it likes. Events of kind `note` and `stop` are for the one who watches
and are not written.

The record is cut back to the position a checkpoint names when a run is resumed from it. All that is written depends on
the step alone, apart from figures under `time`, so a resumed run leaves the record of an uninterrupted one.
"""

import platform
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch

from nanogrove.data.batch import random
from nanogrove.data.shards import SPLITS, TextCorpus
from nanogrove.errors import CheckpointError, DivergedError, PresetError, RunError
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.language_model import LanguageModel, from_checkpoint, read_checkpoint
from nanogrove.methods import load_method
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.preset import Preset, difference, resolve
from nanogrove.record.events import Event
from nanogrove.record.report import write_report
from nanogrove.record.run import RunFolder, read_preset
from nanogrove.record.trackers import Tracker, open_trackers
from nanogrove.train.auto import AUTO, activation_bytes, cores, machine, settle
from nanogrove.train.checkpoint import Checkpoint, load_best, load_latest, save_checkpoint
from nanogrove.train.fit import Plan
from nanogrove.train.optim import make_optimizer
from nanogrove.train.precision import Precision, pick_device
from nanogrove.train.schedule import schedule
from nanogrove.train.state import TrainState

FINAL_TOKENS = 2_000_000  # scored at the end; all of a validation split that holds no more
RECORDED_STEPS = 10_000  # `step` events in a record, about; a longer run records evenly spaced ones


@dataclass(frozen=True)
class Parts:
    """What a preset describes, built: nothing random, nothing trained."""

    preset: Preset  # resolved, no `auto` left that would change a result
    corpus: TextCorpus
    model: ModelConfig
    plan: Plan
    device: torch.device
    timings: dict[str, float]


def build(preset: Preset, checkpoint: Checkpoint | None = None) -> Parts:
    """Prepares the data and settles what the preset leaves open: vocabulary, steps, precision.

    Raises PresetError and DataError for what cannot be, CheckpointError when the data or its vocabulary is not what
    `checkpoint` was trained on.
    """
    device = pick_device(preset.train.device)
    train = preset.train
    corpus = TextCorpus(preset.data, preset.model.block_size, train.batch_size, preset.seed)
    if checkpoint is not None:
        if checkpoint.tokenizer.to_json() != corpus.tokenizer.to_json():
            raise CheckpointError(
                f"{checkpoint.folder}: has another vocabulary than the data; use the data of this run"
            )
        if checkpoint.state.get("data") != corpus.describe()["fingerprint"]:
            raise CheckpointError(f"{checkpoint.folder}: the text has changed since; bring it back, or start anew")
    vocabulary = preset.model.vocab_size or corpus.tokenizer.vocab_size
    if vocabulary < corpus.tokenizer.vocab_size:
        raise PresetError(
            f"model.vocab_size={vocabulary} is smaller than the tokenizer's {corpus.tokenizer.vocab_size}; leave it out"
        )
    model = preset.model.model_copy(update={"vocab_size": vocabulary})
    tokens_a_step = train.batch_size * model.block_size
    if train.epochs:
        steps = max(round(train.epochs * corpus.windows_per_epoch / train.batch_size), 1)
    else:
        steps = train.steps or -(-(train.tokens or 0) // tokens_a_step)
    timings: dict[str, float] = {}
    if any(getattr(train, key) == "auto" for key in AUTO):
        found = settle(model, train.batch_size, steps, device)
        chosen = {key: getattr(found, key) for key in AUTO if getattr(train, key) == "auto"}
        train, timings = train.model_copy(update=chosen), found.times
    if train.threads != "auto":
        torch.set_num_threads(train.threads)
    plan = Plan(
        seed=preset.seed,
        steps=steps,
        rate=schedule(preset.schedule, steps),
        accumulation=cast(int, train.accumulation),
        clip=train.clip,
        precision=cast(Precision, train.precision),
        compile=train.compile is True,
        divergence=torch.tensor(float(vocabulary)).log().item() + train.divergence,
        evaluate_every=preset.evaluate.every,
        evaluate_tokens=preset.evaluate.tokens,
    )
    resolved = preset.model_copy(update={"model": model, "train": train})
    return Parts(resolved, corpus, model, plan, device, timings)


def estimate(preset: Preset) -> dict[str, Any]:
    """What a run would take: parameters, tokens, floating-point operations and bytes of memory.

    Memory counts weights, gradients, moments and, roughly, what one micro-batch keeps for its backward pass.
    """
    parts = build(preset)
    c, plan, train = parts.model, parts.plan, parts.preset.train
    with torch.device("meta"):
        model = GPT(c)
    parameters = model.parameter_count()
    tokens = plan.steps * train.batch_size * c.block_size
    moments = {"adamw": 2, "muon": 2, "sgd": 1}[preset.optimizer.name]
    activations = activation_bytes(c, -(-train.batch_size // plan.accumulation))
    return {
        "parameters": parameters,
        "steps": plan.steps,
        "tokens": tokens,
        "epochs": tokens / (parts.corpus.windows_per_epoch * c.block_size),
        "flops": tokens * model.flops_per_token(c.block_size),
        "memory_bytes": 4 * parameters * (2 + moments) + activations,
        "precision": plan.precision,
        "device": str(parts.device),
        "data": parts.corpus.describe(),
    }


def train(preset: Preset, out: Path, resume: bool = False) -> Iterator[Event]:
    """Runs a preset in the folder `out`, yielding every event.

    Ctrl-C and SIGTERM end the run behind the current step, saved, with a `stop` event that names the signal; a
    second one ends it at once. Raises RunError when `out` holds a run and `resume` is not set, or is in use.
    """
    with RunFolder(out) as folder:
        checkpoint = None
        stored = folder.preset()
        if stored is not None:
            checkpoint = yield from _find_checkpoint(folder, stored, preset, resume)
            preset = resolve(stored)
        parts = build(preset, checkpoint)
        model = GPT(parts.model).initialize(preset.seed)
        precision = torch.bfloat16 if parts.plan.precision == "bfloat16" else torch.float32
        state = TrainState(model.to(parts.device), make_optimizer(model, preset.optimizer, precision))
        run = _Run(folder, parts, state)
        settings = parts.preset.model_dump(mode="json")
        if checkpoint is None:
            folder.rewind(0)
        else:
            run.restore(checkpoint)
        track = preset.track
        run.trackers = open_trackers(track.trackers, out, settings, project=track.project, name=track.name)
        try:
            if checkpoint is None:
                folder.write_preset(settings)
                yield run.write(run.start())
            with _stop_signals() as stopped:
                yield from run.drive(stopped)
        finally:
            for tracker in run.trackers:
                tracker.close()
        write_report(out)


def _find_checkpoint(
    folder: RunFolder, stored: dict[str, Any], preset: Preset, resume: bool
) -> Generator[Event, None, Checkpoint | None]:
    """The checkpoint to go on from, None when the run ended before it saved one."""
    if not resume:
        raise RunError(f"{folder.path}: holds a run; continue it with --resume, or choose another --out")
    changed = difference(stored, preset.model_dump(mode="json"))
    if changed:
        raise RunError(f"{folder.path}: a resumed run keeps its preset, and {changed}; start anew with another --out")
    checkpoint, damaged = load_latest(folder.checkpoints)
    for problem in damaged:
        yield _note(f"{problem}; going on from {checkpoint.folder if checkpoint else 'the start'} instead")
    return checkpoint


def _note(text: str) -> Event:
    return Event("note", 0, {"text": text})


@dataclass
class _Run:
    """A run under way: consumes what the method yields."""

    folder: RunFolder
    parts: Parts
    state: TrainState
    trackers: list[Tracker] = field(default_factory=list)
    best: dict[str, float] | None = None  # step and loss of the best evaluation so far
    saved: int = -1

    def start(self) -> Event:
        """The first event: what is about to be trained, on what."""
        preset, plan = self.parts.preset, self.parts.plan
        values = {
            "name": preset.name,
            "method": preset.method["name"],
            "seed": preset.seed,
            "parameters": self.state.model.parameter_count(),
            "vocabulary": self.parts.model.vocab_size,
            "steps": plan.steps,
            "data": self.parts.corpus.describe(),
            "precision": plan.precision,
            "micro_batches": plan.accumulation,
            "compile": plan.compile,
            "device": str(self.parts.device),
            "versions": {
                "nanogrove": metadata.version("nanogrove"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "machine": {
                "system": platform.platform(),
                "processor": machine(self.parts.device),
                "cores": cores(),
                "threads": torch.get_num_threads(),
            },
        }
        return Event("start", 0, values, self.parts.timings)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes the state a checkpoint holds, and cuts the record back to it. Raises CheckpointError for a misfit."""
        if checkpoint.config != self.parts.model:
            raise CheckpointError(f"{checkpoint.folder}: config.json is not the model of preset.json")
        checkpoint.restore(self.state)
        self.best, self.saved = checkpoint.state["best"], self.state.step
        self.folder.rewind(checkpoint.state["position"])

    def write(self, event: Event) -> Event:
        """Adds an event to the record and to every tracker."""
        self.folder.append(event)
        for tracker in self.trackers:
            tracker.log(event)
        return event

    def save(self, name: str) -> None:
        """Saves the state under `name`; best and snapshots hold weights only."""
        extra = {
            "position": self.folder.position(),
            "best": self.best,
            "data": self.parts.corpus.describe()["fingerprint"],
            "nanogrove": metadata.version("nanogrove"),
        }
        moments = name == "current"
        save_checkpoint(self.folder.checkpoints, name, self.state, self.parts.corpus.tokenizer, extra, moments)

    def drive(self, stopped: list[int]) -> Iterator[Event]:
        """Consumes the method's events to its end, or to the first step behind a signal in `stopped`."""
        preset = self.parts.preset
        method = load_method(preset.method["name"])
        spacing = max(self.parts.plan.steps // RECORDED_STEPS, 1)
        events = method.run(self.state, self.parts.corpus, self.parts.plan, preset.method_config())
        try:
            for event in events:
                recorded = event.kind != "step" or event.step % spacing == 0
                yield self.write(event) if recorded else event
                if event.kind == "eval" and (self.best is None or event.values["loss"] < self.best["loss"]):
                    self.best = {"step": event.step, "loss": event.values["loss"]}
                    self.save("best")
                if event.kind == "step":
                    yield from self.after_step(event.step)
                    if stopped and event.step < self.parts.plan.steps:
                        self.save("current")
                        yield Event("stop", event.step, {"signal": stopped[0]})
                        return
        except DivergedError as error:
            write_report(self.folder.path)
            last = f"{self.folder.checkpoints / 'current'} (step {self.saved})" if self.saved >= 0 else "none yet"
            raise DivergedError(f"{error}; last good checkpoint: {last}") from None
        if self.saved < self.state.step:
            self.save("current")
        yield from self.finish()

    def after_step(self, step: int) -> Iterator[Event]:
        """Samples and saves, where step says so; the state is whole here."""
        preset = self.parts.preset
        if step % preset.sample.every == 0 and preset.sample.tokens and step < self.parts.plan.steps:
            yield from self.samples(LanguageModel(self.state.model, self.parts.corpus.tokenizer), step)
        if preset.save.snapshots and step & (step - 1) == 0:
            self.save(f"step-{step}")
        if step % preset.save.every == 0:
            self.save("current")
            self.saved = step

    def samples(self, lm: LanguageModel, step: int) -> Iterator[Event]:
        """A `sample` event for each prompt; its randomness is a function of (seed, step)."""
        settings = self.parts.preset.sample
        sampling = settings.model_dump(exclude={"every", "prompts", "tokens"})
        seed = int(random(self.parts.preset.seed, "sample", step).integers(1 << 62))
        texts = lm.generate(settings.prompts, settings.tokens, seed=seed, **sampling)
        for prompt, text in zip(settings.prompts, texts, strict=True):
            yield self.write(Event("sample", step, {"prompt": prompt, "text": text}))

    def finish(self) -> Iterator[Event]:
        """The last events, from the best model, which is the one `load` returns: a sample, its score, the end."""
        best = from_checkpoint(load_best(self.folder.checkpoints), self.parts.device)
        if self.parts.preset.sample.tokens:
            yield from self.samples(best, self.state.step)
        score = evaluate_split(best.model, self.parts.corpus, "validation", FINAL_TOKENS)
        values = {
            **score,
            "scored": score["tokens"],
            "tokens": self.state.tokens,
            "best_step": (self.best or {})["step"],
        }
        yield self.write(Event("end", self.state.step, values, {"seconds": self.state.seconds}))


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; the second ends the process as it always would."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def receive(number: int, frame: object) -> None:
        received.append(number)
        for name in names:
            signal.signal(name, before[name])

    for name in names:
        signal.signal(name, receive)
    try:
        yield received
    finally:
        for name in names:
            signal.signal(name, before[name])


def evaluate(run: Path, split: str = "validation", device: str = "auto") -> dict[str, Any]:
    """Loss and bits per byte of a run's best model on the whole of a split.

    Raises RunError for a folder without a run, CheckpointError when the text is no longer the one it was trained on.
    """
    if split not in SPLITS:
        raise PresetError(f"{split!r} is no split; take one of {', '.join(SPLITS)}")
    stored = read_preset(run)
    if stored is None:
        raise RunError(f"{run}: no run here; give a folder such as runs/NAME")
    checkpoint = read_checkpoint(run)
    preset = resolve(stored)
    corpus = TextCorpus(preset.data, checkpoint.config.block_size, preset.train.batch_size, preset.seed)
    if checkpoint.state.get("data") != corpus.describe()["fingerprint"]:
        raise CheckpointError(f"{run}: the text has changed since; scores on it could include what it was trained on")
    lm = from_checkpoint(checkpoint, pick_device(device))
    return {**evaluate_split(lm.model, corpus, split), "step": checkpoint.state["step"]}
