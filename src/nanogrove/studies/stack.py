"""Several runs trained as one program: each folder ends as that of the run trained alone, bit for bit, on one thread.

What is stacked are runs of pretraining that differ in what members of a population may differ in: seed, rates, betas,
momentum, schedule, dropout, label smoothing, scale of the first weights. Each run keeps a training state of its own,
whose tensors are views of the population's, so that its record and its checkpoints are written as those of any run.

A member that diverges leaves before the update, and the others take that step again without it. What is left of one
member, and all members of a program whose products would be rounded otherwise than alone, are trained by themselves.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

from nanogrove.config.preset import Preset
from nanogrove.corpora import CORPORA, SharedCorpora
from nanogrove.data.batch import Batch, Batches
from nanogrove.data.corpus import Corpus
from nanogrove.data.text.config import DataConfig
from nanogrove.errors import DataError, DivergedError
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.methods import pretrain
from nanogrove.model.gpt import GPT
from nanogrove.model.members import stack, unstack
from nanogrove.record.events import Event, Values, note
from nanogrove.record.folder import RunFolder
from nanogrove.record.measures import of_member
from nanogrove.runs.checkpointer import Checkpointer, due
from nanogrove.runs.opening import OpenRun, open_run
from nanogrove.runs.recorder import recording
from nanogrove.runs.train import (
    FINAL_TOKENS,
    Written,
    begin,
    best_model,
    drive,
    finish,
    record,
    rewind,
    show_finished,
)
from nanogrove.studies.computation import FREE, FREE_SECTIONS, without
from nanogrove.train.autotune import keep_freed_memory
from nanogrove.train.loop import fit
from nanogrove.train.objective import objective_from_nll, weighted
from nanogrove.train.optim.optimizer import per_member
from nanogrove.train.optim.update_rule import PerMember
from nanogrove.train.parallel.members import compared_members, difference_from_alone
from nanogrove.train.plan import Plan
from nanogrove.train.population.stacking import lend_moments, separate, stack_states
from nanogrove.train.precision import pick_device
from nanogrove.train.signals import stop_signals
from nanogrove.train.state import TrainState

R = TypeVar("R")
Numbered = tuple[int, Event]  # the number of a run, and its event


def why_alone(preset: Preset) -> str | None:
    """Why a run is trained by itself, as a clause; None where it may be one of several in a program."""
    method, train = preset.method, preset.train
    if not isinstance(method, pretrain.Config):
        return f"method {method.name} trains in its own way"
    sources = preset.data.all_sources if isinstance(preset.data, DataConfig) else []
    reasons = {
        "method.follow changes its hyperparameters as it goes": bool(method.follow),
        "method.curriculum chooses rows by its own losses": method.curriculum is not None,
        "its batches mix several sources": len(sources) > 1,
        "auxiliary heads train beside the model": preset.auxiliary.enabled,
        "trackers follow one run of a process": bool(preset.track.trackers),
        "train.minutes have not become steps yet": train.minutes is not None,
        "train.compile is set": train.compile is True,
        "evaluate.patience may end it before others": preset.evaluate.patience is not None,
        "train.precision is bfloat16": train.precision == "bfloat16",
        "it trains on a GPU": pick_device(train.device).type != "cpu",
        "train.shard is set": train.shard,
        "train.lora trains adapters": bool(train.lora.rank),
        "train.average keeps a second set of weights": train.average.enabled,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def stack_key(preset: Preset) -> str | None:
    """What must be equal of runs of one program, besides the step of their checkpoints; None where `why_alone`."""
    if why_alone(preset) is not None:
        return None
    return json.dumps(without(preset.model_dump(mode="json", exclude={*FREE_SECTIONS}), FREE), sort_keys=True)


@dataclass(frozen=True)
class Member:
    """A run that is trained with others, and its number among all."""

    number: int
    run: OpenRun
    written: Written
    checkpointer: Checkpointer

    @property
    def state(self) -> TrainState:
        """Its training state, of views."""
        return self.run.state

    def events(self, events: Iterator[Event]) -> Iterator[Numbered]:
        """Its events, with its number."""
        return ((self.number, event) for event in events)


def train_together(runs: Sequence[tuple[Preset, Path]]) -> Iterator[Numbered]:
    """Trains runs of one `stack_key`, each in its folder, yielding the number of a run and its event.

    Each goes on from its checkpoint where its folder holds a run. Runs whose checkpoints stand at different steps are
    trained in groups of one step, one after the other. The events are those of `train(preset, out, resume=True,
    report=False)`; a run that diverges ends with an event of kind `diverged`, which is not written, whose `text` is the
    message of the DivergedError of `train`. A signal saves all, and ends all with `stop` events.

    Raises what `train` does before training, and nothing has begun then.
    """
    keep_freed_memory()
    corpora, by_step = SharedCorpora(), dict[int, list[tuple[int, OpenRun]]]()
    with ExitStack() as held:
        for number, (preset, path) in enumerate(runs):
            opening = open_run(preset, path, held, resume=True, make=corpora.make)
            run = yield from _numbered(number, opening)
            if run.finished:
                yield from ((number, event) for event in show_finished(_folder(run), report=False))
            else:
                by_step.setdefault(run.state.step, []).append((number, run))
        with stop_signals() as stopped:  # of a signal while a group is set up, or in its last step, too
            for step in sorted(by_step):
                if stopped:
                    yield from ((number, Event("stop", step, {"signal": stopped[0]})) for number, _ in by_step[step])
                    continue
                yield from _train_group(by_step[step], stopped)


def _numbered(number: int, events: Generator[Event, None, R]) -> Generator[Numbered, None, R]:
    """Events with the number of their run; returns what they return."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return cast(R, end.value)
        yield number, event


def _folder(run: OpenRun) -> RunFolder:
    assert run.folder is not None, "the only rank holds the folder"
    return run.folder


def _train_group(runs: Sequence[tuple[int, OpenRun]], stopped: list[int]) -> Iterator[Numbered]:
    """Trains runs that stand at one step, until a signal is in `stopped`."""
    with ExitStack() as records:
        members = []
        for number, run in runs:
            checkpointer = Checkpointer(_folder(run), run.setup, run.state)
            changed = yield from _numbered(number, rewind(_folder(run), run, checkpointer))
            recorder = records.enter_context(recording(_folder(run), run.setup, report=False))
            members.append(Member(number, run, Written(run.setup, run.state, recorder, checkpointer), checkpointer))
            yield from members[-1].events(begin(_folder(run), run, recorder, changed))
        scoring = Scoring()
        trained = yield from _drive_all(members, scoring, stopped)
        if trained:
            yield from _finish_all(trained, scoring)


def _drive_all(
    members: Sequence[Member], scoring: "Scoring", stopped: list[int]
) -> Generator[Numbered, None, Sequence[Member]]:
    """Trains members to the end; returns those that did not diverge, or none where a signal ended it."""
    while len(members) > 1:
        states = [member.state for member in members]
        stacked, plan, batches = stack_states(states), _plan(members), _batches(members)
        reason = difference_from_alone(stacked, batches(stacked.step), plan)
        if reason is not None:
            yield members[0].number, note(f"trained one after the other, to have the bits of each alone: {reason}")
            break
        try:
            ended = yield from _drive_together(members, stacked, plan, batches, scoring, stopped)
            return members if ended else []
        except DivergedError as error:
            lend_moments(stacked, states)
            for place, message in error.members.items():
                yield from _diverged(members[place], f"{message}{members[place].checkpointer.last_good()}")
            members = [member for place, member in enumerate(members) if place not in error.members]
    trained = []
    for member in members:
        separate(member.state)
        try:
            ended = yield from _numbered(member.number, drive(member.written, stopped))
        except DivergedError as error:
            yield from _diverged(member, str(error))
            continue
        if not ended:
            return []
        trained.append(member)
    return trained


def _diverged(member: Member, message: str) -> Iterator[Numbered]:
    yield member.number, Event("diverged", member.state.step, {"text": message})


def _drive_together(
    members: Sequence[Member],
    stacked: TrainState,
    plan: Plan,
    batches: Batches,
    scoring: "Scoring",
    stopped: list[int],
) -> Generator[Numbered, None, bool]:
    """Trains a population and writes what each member's run would write; False where a signal ended it.

    Args:
        members: of the population, with states of views of it.
        stacked: its state.
        plan: with the seeds and rates of all.
        batches: of all.
        scoring: scores them.
        stopped: collects signals.
    """
    states, preset = [member.state for member in members], members[0].run.setup.preset
    smoothing = [cast(pretrain.Config, member.run.setup.preset.method).label_smoothing for member in members]
    objective = objective_from_nll(weighted, smoothing[0] if len(set(smoothing)) == 1 else smoothing)
    event, seconds = None, stacked.seconds
    try:
        for event in fit(stacked, batches, objective, plan):
            for state in states:
                state.step, state.tokens = stacked.step, stacked.tokens
                state.seconds += (stacked.seconds - seconds) / len(members)
            seconds = stacked.seconds
            if plan.evaluates(event.step):
                scores = scoring.score(members, "validation", plan.evaluate_tokens, stacked.model)
                for member, score in zip(members, scores, strict=True):
                    yield from member.events(record(member.written, member.state.eval_event(score)))
            if due(preset, event.step):
                lend_moments(stacked, states)
            for place, member in enumerate(members):
                time = {**event.time, "seconds": member.state.seconds}
                step = Event("step", event.step, of_member(event.values, place), time)
                yield from member.events(record(member.written, step))
            if stopped and event.step < plan.steps:
                break
    except DataError as error:  # of text that is damaged, or still being read
        lend_moments(stacked, states)
        ends = [member.checkpointer.rescue(event) for member in members]
        raise DataError(f"{error}{ends[0]}") from None
    lend_moments(stacked, states)
    for member in members:
        member.checkpointer.save_current()
    if stacked.step == plan.steps:
        return True
    for member in members:
        yield member.number, Event("stop", stacked.step, {"signal": stopped[0]})
    return False


def _plan(members: Sequence[Member]) -> Plan:
    """The plan of the first member, with the seeds and the rates of all."""
    plans = [member.run.setup.plan for member in members]
    factors, device = [plan.lr_factor for plan in plans], members[0].run.setup.device
    factor: Callable[[int], PerMember] = factors[0]
    if len({member.run.setup.preset.schedule.model_dump_json() for member in members}) > 1:

        def factor(step: int) -> PerMember:
            return per_member([float(each(step)) for each in factors], device)

    return replace(plans[0], member_seeds=[plan.seed for plan in plans], lr_factor=factor)


def _batches(members: Sequence[Member]) -> Batches:
    """The batches of all members: one where all read the same corpus, else that of each, made once for each corpus."""
    corpora = [member.run.setup.corpus for member in members]
    different = {id(corpus): corpus for corpus in corpora}
    if len(different) == 1:
        return corpora[0].batch

    def batch(step: int) -> Batch:
        drawn = {key: corpus.batch(step) for key, corpus in different.items()}
        return Batch.stack([drawn[id(corpus)] for corpus in corpora])

    return batch


@dataclass
class Scoring:
    """Scores members at once where held-out data are the same and give each the figures that it has alone.

    Whether they do is tried once for each split and group of members, on the last of them, as a product may be rounded
    in another way where it is one of several; where all members would have to be tried, each is scored alone.
    """

    together: dict[tuple[str, tuple[int, ...]], bool] = field(default_factory=dict)

    def score(self, members: Sequence[Member], split: str, limit: int | None, population: GPT) -> list[Values]:
        """The values of `evaluate_split` of each member of a population, in order."""
        by_data: dict[int, list[int]] = {}
        for place, member in enumerate(members):
            corpus = member.run.setup.corpus
            shared = CORPORA[corpus.config.type].reseeded is not None
            by_data.setdefault(0 if shared else id(corpus), []).append(place)
        scores: dict[int, Values] = {}
        for places in by_data.values():
            corpus = members[places[0]].run.setup.corpus
            model = population if len(places) == len(members) else part(population, places)
            scored = self._score(model, corpus, split, limit, tuple(places))
            scores |= dict(zip(places, scored, strict=True))
        return [scores[place] for place in range(len(members))]

    def _score(
        self, model: GPT, corpus: Corpus, split: str, limit: int | None, places: tuple[int, ...]
    ) -> list[Values]:
        last = len(places) - 1
        if compared_members(model) == [last] and last and self.together.get((split, places), True):
            values = evaluate_split(model, corpus, split, limit)
            scores = [of_member(values, n) for n in range(len(places))]
            if (split, places) not in self.together:
                same = evaluate_split(single(model, last), corpus, split, limit) == scores[last]
                self.together[split, places] = same
            if self.together[split, places]:
                return scores
        return [evaluate_split(single(model, n), corpus, split, limit) for n in range(len(places))]


def part(population: GPT, members: Sequence[int]) -> GPT:
    """A population of copies of some members."""
    state = population.state_dict()
    model = GPT(population.config, len(members))
    model.load_state_dict({name: tensor[list(members)] for name, tensor in state.items()})
    return model


def single(population: GPT, member: int) -> GPT:
    """A copy of one member, aligned as a model alone is."""
    model = GPT(population.config)
    model.load_state_dict(unstack(population.state_dict(), member))
    return model


def _finish_all(members: Sequence[Member], scoring: Scoring) -> Iterator[Numbered]:
    """Writes the last events of members that came to their end: the score of the best model of each."""
    best = [best_model(member.run.setup, member.checkpointer) for member in members]
    setup = members[0].run.setup
    population = GPT(setup.model_on_data, len(members))
    population.load_state_dict(stack([model.state_dict() for _, model in best]))
    scores = scoring.score(members, setup.final_split, FINAL_TOKENS, population)
    for member, (checkpoint, model), score in zip(members, best, scores, strict=True):
        yield from member.events(finish(member.written, member.checkpointer, checkpoint, model, score))
