"""Base training and the rounds: what is trained on when, and when a round is kept or undone."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import cast

import numpy as np
import torch
from torch import Tensor

from nanogrove.errors import PresetError
from nanogrove.evaluate import auxiliary, committee
from nanogrove.evaluate.loss import evaluate_split, mean_nll
from nanogrove.methods.contract import Method
from nanogrove.methods.self_improve.config import (
    DIFFICULTIES_AHEAD,
    Config,
    base_span,
    num_steps,
    phases,
    round_span,
    step_depends_on,
)
from nanogrove.methods.self_improve.guard import (
    AcceptedRound,
    CurrentRound,
    Losses,
    Progress,
    alarm,
    base_problem,
    check_kept,
    commit_round,
    inherit,
    kept_as,
    label_problem,
    mean_consensus,
)
from nanogrove.methods.self_improve.labels import Labelled, LabelRow, check_row, label, label_tokens
from nanogrove.methods.warm_start import check_not_ended, saved_members
from nanogrove.model.config import ModelConfig
from nanogrove.record.events import Event, Values, phase
from nanogrove.synthetic.examples import Mixture, Rows, TaskCorpus
from nanogrove.train.parallel.members import fit_members
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState, load_optimizer_tensors, optimizer_tensors

LABELS_REPLAYED = 200  # of each round, at most, on which the guard watches the loss


def check(config: Config, corpus: TaskCorpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError, DataError or CheckpointError for what cannot be trained, before training begins."""
    target = config.target(corpus.base[1])
    if target < corpus.base[1]:
        raise PresetError(f"method.to={target} is easier than data.base, which ends at {corpus.base[1]}")
    if config.si_rounds and config.labels == "committee":
        corpus.check_fits(target)
    if config.base is not None:
        saved_voters(config, corpus, model)


def saved_voters(config: Config, corpus: TaskCorpus, model: ModelConfig) -> dict[str, Tensor]:
    """The weights of all voters from `config.base`, of different models: copies of one agree on errors too."""
    sources = [config.base] if isinstance(config.base, str) else config.base or []
    return saved_members(sources, corpus, model, config.voters)


def run(state: TrainState, corpus: TaskCorpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `step` events and, before the last step of the base and of each round, `exact`, `round` and `eval`.

    A `data` event carries the labels of a round before they are used, and an `alarm` reports a round undone.
    """
    yield from _Rounds(state, corpus, plan, config).events()


def rehearse(state: TrainState, corpus: TaskCorpus, plan: Plan, config: Config, further: bool) -> Iterator[Event]:
    """Yields `step` events of the base, or of a round half way to the hardest difficulty that can be opened.

    Batches of a round are as wide as its longest example, which grows about evenly from round to round.
    """
    width, base = corpus.length, corpus.base[1]
    if further and config.labels == "committee":
        reached = min(config.target(base), config.model_copy(update={"to": None}).target(base))
        width = corpus.task.longest((base + 1 + reached) // 2)
    mixture = Mixture(corpus, config.voters, width, [], None, 0.0)
    return fit_members(state, mixture.batch, plan)


@dataclass
class _Rounds:
    """A run under way. `progress`, which is `state.method_state`, and `state.method_tensors` hold all of its memory."""

    state: TrainState
    corpus: TaskCorpus
    plan: Plan
    config: Config
    progress: Progress = field(init=False)
    begin: int = field(init=False)  # the step at which rounds begin
    labels: dict[str, Rows] = field(default_factory=dict)  # by round, as read from the run folder

    def __post_init__(self) -> None:
        fresh: Progress = {
            "frontier": self.corpus.base[1],
            "accepted": [],
            "agreement": {},
            "firmest": {},
            "least": [],
            "strict": 0,
            "settled": 0,
        }
        for key, value in fresh.items():
            self.state.method_state.setdefault(key, value)
        self.progress = cast(Progress, self.state.method_state)
        self.begin = round_span(self.config, self.plan.steps, 0).start

    def events(self) -> Iterator[Event]:
        state, config = self.state, self.config
        if config.base is not None and state.step == 0:
            state.begin_from(saved_voters(config, self.corpus, state.model.config))
            yield from self.commit(*self.survey(self.progress["frontier"], 0), self.losses([]))
        if state.step == 0 < self.begin:
            yield phase("base", 0, "NLL")
        yield from self.train_base()
        if state.step == self.begin < self.plan.steps:
            yield phase("rounds", self.begin, "NLL of labels and of base data")
        while state.step < self.plan.steps and "ended" not in self.progress:
            yield from self.train_round()

    def train_base(self) -> Iterator[Event]:
        """Trains on true answers of base difficulties; the control does so to the end of the run."""
        base = Mixture(self.corpus, self.config.voters, self.corpus.length, [], None, 0.0)
        base_phase = self.plan.phase(*base_span(self.config, self.plan.steps)[1:])
        for event in fit_members(self.state, base.batch, base_phase):
            past = event.step - self.begin
            if past >= 0 and past % self.config.si_iter == 0:
                hardest = self.config.target(self.corpus.base[1]) if past else self.corpus.base[1]
                self.plan.layout.gather()
                yield from self.commit(*self.survey(hardest, past // self.config.si_iter), self.losses([]))
                yield from self.evaluate_heads(base)
            elif self.plan.evaluates(event.step):
                self.plan.layout.gather()
                yield self.state.eval_event(self.losses([]).base)
                yield from self.evaluate_heads(base)
            yield event

    def train_round(self) -> Iterator[Event]:
        """One round, from wherever in it the state stands."""
        state, config, progress = self.state, self.config, self.progress
        slot, past = divmod(state.step - self.begin, config.si_iter)
        this_round = self.plan.phase(*round_span(config, self.plan.steps, slot)[1:])
        if not past:
            yield from self.begin_round(slot)
            if "ended" in progress:
                return
        current = progress["current"]
        hardest = max([progress["frontier"], *current["difficulties"]])
        width = self.corpus.task.longest(hardest)
        older = [self.read_labels(accepted) for accepted in progress["accepted"]]
        newest = self.read_labels(current) if current["rows"] else None
        mixture = Mixture(self.corpus, config.voters, width, older, newest, config.newest)
        for event in fit_members(state, mixture.batch, this_round):
            if event.step == this_round.steps:
                yield from self.evaluate_heads(mixture)
                yield from self.end_round([*older, newest] if newest else older)
            yield event

    def evaluate_heads(self, mixture: Mixture) -> Iterator[Event]:
        """What auxiliary heads have learned, if there are any."""
        if self.plan.ranks.first:
            yield from auxiliary.evaluate_heads(self.state, self.corpus, mixture.batch, self.plan)

    # The beginning of a round.

    def opened(self) -> list[int]:
        """The difficulties of the next round: new ones where the gate lets them through, else the hardest open one."""
        config, progress, frontier = self.config, self.progress, self.progress["frontier"]
        most = config.lengths if config.gate == "agreement" and not progress["strict"] else 1
        possible = list(range(frontier + 1, min(frontier + most, config.target(self.corpus.base[1])) + 1))
        if config.gate == "agreement":
            known = progress["agreement"]
            possible = list(takewhile(lambda d: known.get(str(d), 0.0) >= config.threshold, possible))
        return possible or ([frontier] if progress["accepted"] else [])

    def label(self, difficulty: int, count: int, slot: int) -> Labelled:
        """Labels of one difficulty, made by rank 0."""
        strict, votes = bool(self.progress["strict"]), self.progress.get("votes")
        inherited = self.progress.get("inherited", 1.0)
        work = partial(label, self.state.scored, self.corpus, self.config, self.plan.seed, slot)
        return self.plan.ranks.broadcast_from_main(partial(work, difficulty, count, strict, votes, inherited))

    def begin_round(self, slot: int) -> Iterator[Event]:
        """Labels prompts, writes the labels to the run folder and saves what an undone round falls back to."""
        state, config, progress, name = self.state, self.config, self.progress, f"round-{slot + 1}"
        began, difficulties = time.perf_counter(), self.opened()
        shares = np.array_split(np.arange(config.examples), max(len(difficulties), 1))
        labelled = [
            self.label(difficulty, len(share), slot) for difficulty, share in zip(difficulties, shares, strict=False)
        ]
        rows = [row for labels in labelled for row in labels["rows"]]
        values: Values = {
            "round": slot + 1,
            "difficulties": difficulties,
            "labels": [labels["figures"] for labels in labelled],
            "rows": len(rows),
            "strict": bool(progress["strict"]),
        }
        seconds = time.perf_counter() - began
        problem = base_problem(config, progress, self.corpus.base[1]) if not slot else None
        problem = problem or label_problem(config, values["labels"])
        if problem is None and difficulties and len(rows) < config.minimum:
            short = f"the filters kept {len(rows)} of {config.examples} labels, and method.minimum is {config.minimum}"
            values |= {"rows": 0, "short": short}
            problem = short if config.empty == "stop" else None
        if problem is not None:
            progress["ended"] = problem
            ended = {"accepted": False, "frontier": progress["frontier"], "ended": problem}
            yield Event("round", state.step, values | ended, {"decode": seconds})
            return
        if values["rows"]:
            self.labels[name] = label_tokens(self.corpus, rows)
            yield Event("data", state.step, {"name": name, "rows": rows, "count": len(rows)})
        current = {**values, "name": name, "decode": seconds, "trained": state.seconds}
        state.method_state["current"] = {**current, "consensus": mean_consensus(values["labels"])}
        state.round = slot + 1
        if config.reset_moments:
            state.optimizer.state.clear()
        if config.guard and values["rows"]:
            self.save_tensors()

    def save_tensors(self) -> None:
        """Copies weights, their averages and moments, which an undone round falls back to."""
        tensors: dict[str, Tensor] = {f"weights/{name}": weight for name, weight in self.state.named_parameters()}
        tensors |= {f"moments/{key}": moment for key, moment in optimizer_tensors(self.state).items()}
        if self.state.average is not None:
            tensors |= {f"average/{name}": average for name, average in self.state.average.parameters.items()}
        self.state.method_tensors = {key: tensor.detach().clone() for key, tensor in tensors.items()}

    def restore_tensors(self) -> None:
        """Sets weights, their averages and moments to those of `save_tensors`."""
        state, tensors = self.state, self.state.method_tensors
        with torch.no_grad():
            for name, parameter in state.named_parameters():
                parameter.copy_(tensors[f"weights/{name}"])
        state.apply_adapter()
        if state.average is not None:
            state.average.take(kept_as("average", tensors), state.average.count)
        load_optimizer_tensors(state, kept_as("moments", tensors))

    def read_labels(self, labelled: AcceptedRound | CurrentRound) -> Rows:
        """The labels of a round, from the run folder where this process did not make them."""
        name = labelled["name"]
        if name not in self.labels:
            check = partial(check_row, self.corpus, labelled["difficulties"])
            read = partial(self.plan.rows.read_rows, name, LabelRow, check, labelled.get("rows"))
            rows = self.plan.ranks.broadcast_from_main(read)
            self.labels[name] = label_tokens(self.corpus, rows)
        return self.labels[name]

    # The end of a round.

    def survey(self, frontier: int, number: int) -> tuple[Event, committee.Survey]:
        """How the committee answers test prompts after round `number`, as an event and as figures."""
        began, config = time.perf_counter(), self.config
        ahead = max(DIFFICULTIES_AHEAD, config.lengths)
        if not number:  # what the base can do without rounds, as far as they are to reach
            ahead = max(ahead, config.target(self.corpus.base[1]) - frontier)
        how = (config.decode_batch, config.support, config.voter_minimum)
        work = partial(committee.survey, self.state.scored, self.corpus, frontier, ahead, *how)
        survey = committee.Survey(*self.plan.ranks.broadcast_from_main(work))
        values: Values = {
            "round": number,
            "frontier": frontier,
            "difficulties": survey.difficulties,
            "agreement": survey.agreement,
            "apart": survey.dissent,
            "exact": survey.exact,
            "vote": survey.vote,
            "effective": survey.effective,
            "votes": survey.votes,
            **self.state.averaged,
        }
        return Event("exact", self.state.step, values, {"survey": time.perf_counter() - began}), survey

    def losses(self, rounds: list[Rows]) -> Losses:
        """The losses on held-out base examples and on the labels of rounds, computed by rank 0."""

        def compute() -> Losses:
            base = evaluate_split(self.state.scored, self.corpus, "validation", self.plan.evaluate_tokens)
            replayed = [rows[:: -(-len(rows) // LABELS_REPLAYED)] for rows in rounds]  # of all their difficulties
            return Losses(base, [mean_nll(self.state.scored, [rows.batch()]).loss.tolist() for rows in replayed])

        return Losses(*self.plan.ranks.broadcast_from_main(compute))

    def commit(self, event: Event, survey: committee.Survey, losses: Losses) -> Iterator[Event]:
        """Keeps the state as it is; later states are compared with its agreement and its losses.

        Once labels were trained on, the best model is one of the newest state: the voter who is most often of the
        majority's opinion.
        """
        rounds = self.progress["settled"]
        commit_round(self.progress, survey, losses)
        yield event
        score = {"score": [share - rounds for share in survey.dissent]} if rounds else {}
        yield self.state.eval_event(losses.base | score)

    def end_round(self, rounds: list[Rows]) -> Iterator[Event]:
        """Keeps the round, or undoes it, to be tried again while retries are left."""
        state, config, progress, current = self.state, self.config, self.progress, self.progress["current"]
        frontier = max([progress["frontier"], *current["difficulties"]]) if current["rows"] else progress["frontier"]
        (event, survey), losses = self.survey(frontier, current["round"]), self.losses(rounds)
        guarded = config.guard and current["rows"]
        reason = alarm(config, progress, self.corpus, survey, losses) if guarded else None
        kept = ("decode", "trained", "name", "consensus")
        values: Values = {key: value for key, value in current.items() if key not in kept}
        seconds = {"decode": current["decode"], "train": state.seconds - current["trained"], **event.time}
        if reason is None:
            if current["rows"]:
                progress["accepted"].append(
                    {"name": current["name"], "difficulties": current["difficulties"], "rows": current["rows"]}
                )
                progress["strict"] = 0
                inherit(progress)
            progress["frontier"] = frontier
            progress["settled"] += 1
            yield from self.commit(event, survey, losses)
        else:
            yield event
            self.restore_tensors()
            progress["strict"] += 1
            retry = progress["strict"] <= config.retries and config.voters > 1 and state.step < self.plan.steps
            if not retry:
                progress["ended"] = values["ended"] = f"{reason}, and no retry is left"
            undone = {"round": current["round"], "difficulties": current["difficulties"], "reason": reason}
            yield Event("alarm", state.step, {**undone, "retry": retry})
        state.method_tensors = {}
        del progress["current"]
        values |= {"accepted": reason is None, "frontier": progress["frontier"]}
        values["loss"] = losses.means()
        yield Event("round", state.step, values, seconds)


METHOD = Method[Config, TaskCorpus](
    Config=Config,
    run=run,
    num_members=lambda config: config.voters,
    trains_heads=lambda config: True,
    num_steps=num_steps,
    counted_by=("si_rounds", "si_iter"),
    phases=phases,
    step_depends_on=step_depends_on,
    check_longer=check_not_ended,
    rehearse=rehearse,
    corpora=(TaskCorpus,),
    needs="asks questions and reads answers; set data.type=task and data.task",
    check=check,
    Kept=Progress,
    check_kept=check_kept,
    ranks_share="members",
)
