"""Self-improvement: a committee labels questions harder than any it was taught, and learns from its own labels.

1. The voters, a population from different seeds, learn base difficulties from true answers, each from batches of its
   own.
2. Each round: every voter answers prompts of the next difficulty; filters and a vote choose which answers to keep;
   all voters train on these and on everything older, in batches of their own, so that they stay different.
3. After it the committee answers test prompts. Where it has come apart, or forgets what it knew, the round is undone
   and tried again with a stricter vote.

No true answer beyond the base difficulties is used to choose, filter, open, stop or keep: those decide by what the
voters agree on. True answers stand in the record, beside these.

After Lee et al. 2025, "Self-Improving Transformers Overcome Easy-to-Hard and Length Generalization Challenges", arXiv
2502.01612. Theirs are the mixture, the vote and, nearly, the length filter; the gate by agreement and the guard are
ours.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from nanogrove.data.rng import derived_seed, random
from nanogrove.errors import PresetError
from nanogrove.evaluate import auxiliary, committee
from nanogrove.evaluate.loss import evaluate_split, mean_nll
from nanogrove.methods.contract import Method, MethodConfig
from nanogrove.model.gpt import ModelConfig
from nanogrove.record.events import Event
from nanogrove.synthetic.examples import Mixture, Rows, TaskCorpus
from nanogrove.train.checkpoint import load_population
from nanogrove.train.parallel.members import fit_members
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState, load_optimizer_tensors, optimizer_tensors

AHEAD = 2  # difficulties past the hardest opened one that are measured too
FEW = 5  # validation prompts of a difficulty, on which agreement may fall by one prompt alone
REPLAYED = 200  # labels of each round, at most, on which the guard watches the loss
Pairs = list[tuple[str, str]]


class Config(MethodConfig):
    """`train.steps` are base steps; each of `si_rounds` rounds adds `si_iter`, also one that is undone."""

    name: Literal["self_improve"] = "self_improve"
    voters: int = Field(3, ge=1, description="models trained at once, each from a seed of its own")
    si_rounds: int = Field(7, ge=0, description="rounds, retries included; 0 trains the base only")
    si_iter: int = Field(100, ge=1, description="steps of a round")
    si_rate: float = Field(1.0, gt=0, allow_inf_nan=False, description="rates of a round over those of the base")
    reset_moments: bool = Field(True, description="begin each round with an optimizer that remembers nothing")
    to: int | None = Field(None, description="hardest difficulty to open; as far as the rounds reach when left out")
    base: str | list[str] | None = Field(
        None, description="a saved run to begin the rounds from, or one checkpoint a voter, instead of base training"
    )
    labels: Literal["committee", "none"] = Field(
        "committee", description="none, the control: as many steps, all of them on base data"
    )
    examples: int = Field(2000, ge=1, description="prompts labelled a round")
    newest: float = Field(0.5, gt=0, le=1, description="share of a batch from the newest round")
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False, description="of the labels; 0 is greedy")
    vote: float | None = Field(None, gt=0, le=1, description="share of the voters that must agree; null asks none")
    length_margin: int | None = Field(None, ge=1, description="drop labels this far from the usual length")
    self_consistency: int | None = Field(None, ge=2, description="samples a voter; more than half must agree")
    confidence: float | None = Field(None, le=0, description="least mean log-probability of a label's token, nats")
    gate: Literal["schedule", "agreement"] = Field("schedule", description="what opens the next difficulty")
    threshold: float = Field(0.8, ge=0, le=1, description="gate agreement: prompts on which all voters agree")
    lengths: int = Field(1, ge=1, description="gate agreement: most difficulties opened at once")
    guard: bool = Field(True, description="undo a round after which the committee comes apart or forgets")
    guard_agreement: float = Field(0.5, ge=0, le=1, description="least agreement on what the round opened")
    guard_drop: float = Field(0.2, ge=0, le=1, description="largest fall of agreement on what was open before")
    guard_loss: float = Field(0.1, ge=0, description="largest rise of the loss on replayed earlier data, nats")
    guard_fit: float = Field(0.1, ge=0, description="largest loss on a round's own labels behind it, nats")
    retries: int = Field(1, ge=0, description="times a difficulty is tried again, with a unanimous vote")
    minimum: int = Field(1, ge=1, description="labels that a round must keep to be trained on")
    empty: Literal["stop", "replay"] = Field(
        "stop", description="when it keeps fewer: end the rounds, or train on older data and try again"
    )
    decode_batch: int = Field(1024, ge=1, description="prompts that each voter answers at once")
    inject: float = Field(0.0, ge=0, le=1, description="share of answers spoiled before any filter, for studies")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, wanted in (("vote", self.vote is not None), ("gate=agreement", self.gate == "agreement")):
            if wanted and self.voters < 2:
                raise ValueError(f"{name} needs two voters or more, and voters is {self.voters}")
        if self.self_consistency and not self.temperature:
            raise ValueError("self_consistency samples, and temperature is 0; set temperature=0.7, say")
        if self.base is not None and not self.si_rounds:
            raise ValueError("base is given and si_rounds is 0, so nothing is left to train")
        return self

    def target(self, hardest_base: int) -> int:
        """The hardest difficulty that may be opened."""
        each = self.lengths if self.gate == "agreement" else 1
        return hardest_base + self.si_rounds * each if self.to is None else self.to


def num_steps(config: Config, budget: int) -> int:
    """Steps of the base, none after a saved one, and those of the rounds."""
    return (0 if config.base is not None else budget) + config.si_rounds * config.si_iter


def check(config: Config, corpus: TaskCorpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError, DataError or CheckpointError for what cannot be trained, before anything is."""
    target = config.target(corpus.base[1])
    if target < corpus.base[1]:
        raise PresetError(f"method.to={target} is easier than data.base, which ends at {corpus.base[1]}")
    if config.si_rounds and config.labels == "committee":
        corpus.check_fits(target)
    if config.base is not None:
        saved_voters(config, corpus, model)


def saved_voters(config: Config, corpus: TaskCorpus, model: ModelConfig) -> dict[str, Tensor]:
    """The weights of all voters from `config.base`, of different models: copies of one agree on errors too."""
    paths = [config.base] if isinstance(config.base, str) else config.base or []
    return load_population([Path(path) for path in paths], corpus.tokenizer, model, config.voters)


def run(state: TrainState, corpus: TaskCorpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `step` events, and ahead of the last one of the base and of each round `exact`, `round` and `eval`.

    A `data` event carries the labels of a round before they are used, and an `alarm` tells of a round undone.
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
    mixed = Mixture(corpus, config.voters, width, [], None, 0.0)
    return fit_members(state, mixed.batch, plan)


def agreements(survey: committee.Survey) -> dict[str, float]:
    """Agreement by difficulty, which JSON has as text; none of a single voter."""
    pairs = zip(survey.difficulties, survey.agreement, strict=True)
    return {str(difficulty): share for difficulty, share in pairs if share is not None}


def means(losses: list[Any]) -> list[float]:
    """Of `_Rounds.losses`, means over the voters."""
    return [float(np.mean(loss)) for loss in (losses[0]["loss"], *losses[1:])]


@dataclass
class _Rounds:
    """A run under way. All that it must remember lies in `state.method_state` and `state.method_tensors`.

    notes: `frontier`, hardest open difficulty; `accepted`, rounds trained on, each a name and its difficulties;
    `agreement` of the last state kept; `firmest` agreement and `least` loss of all states kept; `strict`, times the
    next difficulty was tried in vain; `settled`, rounds not undone; `current`, the one under way; `ended`, why there
    are no more.
    """

    state: TrainState
    corpus: TaskCorpus
    plan: Plan
    config: Config
    labels: dict[str, Rows] = field(default_factory=dict)  # by round, as read from the run folder

    def __post_init__(self) -> None:
        fresh = {"frontier": self.corpus.base[1], "accepted": [], "agreement": {}, "firmest": {}}
        self.method_state = self.state.method_state
        for key, value in {**fresh, "least": [], "strict": 0, "settled": 0}.items():
            self.method_state.setdefault(key, value)
        self.begin = self.plan.steps - self.config.si_rounds * self.config.si_iter  # step at which rounds begin

    def events(self) -> Iterator[Event]:
        state, config = self.state, self.config
        if config.base is not None and state.step == 0:
            state.model.load_state_dict(saved_voters(config, self.corpus, state.model.config))
            yield from self.settle(*self.survey(self.method_state["frontier"], 0), self.losses([]))
        yield from self.train_base(self.plan.steps if config.labels == "none" else self.begin)
        while state.step < self.plan.steps and "ended" not in self.method_state:
            yield from self.train_round()

    def train_base(self, end: int) -> Iterator[Event]:
        """Trains on true answers of base difficulties; the control does so to the end of the run."""
        phase = self.plan.phase(0, end)
        taught = Mixture(self.corpus, self.config.voters, self.corpus.length, [], None, 0.0)
        for event in fit_members(self.state, taught.batch, phase):
            past = event.step - self.begin
            if past >= 0 and past % self.config.si_iter == 0:
                hardest = self.config.target(self.corpus.base[1]) if past else self.corpus.base[1]
                self.plan.layout.gather()
                yield from self.settle(*self.survey(hardest, past // self.config.si_iter), self.losses([]))
                yield from self.heads(taught)
            elif self.plan.evaluates(event.step):
                self.plan.layout.gather()
                yield self.state.eval_event(self.losses([])[0])
                yield from self.heads(taught)
            yield event

    def train_round(self) -> Iterator[Event]:
        """One round, from wherever in it the state stands."""
        state, config = self.state, self.config
        slot, past = divmod(state.step - self.begin, config.si_iter)
        start = state.step - past
        if not past:
            yield from self.label(slot)
            if "ended" in self.method_state:
                return
        current = self.method_state["current"]
        hardest = max([self.method_state["frontier"], *current["difficulties"]])
        width = self.corpus.task.longest(hardest)
        older = [self.read(made["name"]) for made in self.method_state["accepted"]]
        newest = self.read(current["name"]) if current["rows"] else None
        mixed = Mixture(self.corpus, config.voters, width, older, newest, config.newest)
        phase = self.plan.phase(start, start + config.si_iter, config.si_rate)
        for event in fit_members(state, mixed.batch, phase):
            if event.step == phase.steps:
                yield from self.heads(mixed)
                yield from self.judge([*older, newest] if newest else older)
            yield event

    def heads(self, taught: Mixture) -> Iterator[Event]:
        """What auxiliary heads have learned, if there are any."""
        if self.plan.ranks.first:
            yield from auxiliary.evaluate_heads(self.state, self.corpus, taught.batch, self.plan)

    # Labels.

    def opened(self) -> list[int]:
        """The difficulties of the next round: new ones where the gate lets them through, else the hardest open one."""
        config, frontier = self.config, self.method_state["frontier"]
        most = config.lengths if config.gate == "agreement" and not self.method_state["strict"] else 1
        possible = list(range(frontier + 1, min(frontier + most, config.target(self.corpus.base[1])) + 1))
        if config.gate == "agreement":
            known = self.method_state["agreement"]
            possible = list(takewhile(lambda d: known.get(str(d), 0.0) >= config.threshold, possible))
        return possible or ([frontier] if self.method_state["accepted"] else [])

    def label(self, slot: int) -> Iterator[Event]:
        """Begins a round: prompts, answers, filters, and the labels written to the run folder."""
        state, config, name = self.state, self.config, f"round-{slot + 1}"
        began, difficulties = time.perf_counter(), self.opened()
        shares = np.array_split(np.arange(config.examples), max(len(difficulties), 1))
        rows: list[dict[str, Any]] = []
        figures = []
        for difficulty, share in zip(difficulties, shares, strict=False):
            kept, figure = self.plan.ranks.broadcast_from_main(partial(self.answered, difficulty, len(share), slot))
            rows += [{"prompt": prompt, "answer": answer, "difficulty": difficulty} for prompt, answer in kept]
            figures.append(figure)
        current = {
            "round": slot + 1,
            "difficulties": difficulties,
            "labels": figures,
            "rows": len(rows),
            "strict": bool(self.method_state["strict"]),
        }
        seconds = time.perf_counter() - began
        problem = self.unready() if not slot else None
        if problem is None and difficulties and len(rows) < config.minimum:
            said = f"the filters kept {len(rows)} of {config.examples} labels, and method.minimum is {config.minimum}"
            current |= {"rows": 0, "short": said}
            problem = said if config.empty == "stop" else None
        if problem is not None:
            self.method_state["ended"] = problem
            told = {**current, "accepted": False, "frontier": self.method_state["frontier"], "ended": problem}
            yield Event("round", state.step, told, {"decode": seconds})
            return
        if current["rows"]:
            self.labels[name] = self.tokens(rows)
            yield Event("data", state.step, {"name": name, "rows": rows, "count": len(rows)})
        self.method_state["current"] = {**current, "name": name, "decode": seconds, "trained": state.seconds}
        state.round = slot + 1
        if config.reset_moments:
            state.optimizer.state.clear()
        if config.guard and current["rows"]:
            kept_tensors: dict[str, Tensor] = {
                f"weights/{name}": parameter for name, parameter in state.named_parameters()
            }
            kept_tensors |= {f"moments/{key}": value for key, value in optimizer_tensors(state).items()}
            state.method_tensors = {key: value.detach().clone() for key, value in kept_tensors.items()}

    def unready(self) -> str | None:
        """Why the rounds had better not begin, None where they may: a base that is no base."""
        hardest = self.corpus.base[1]
        agreed = self.method_state["agreement"].get(str(hardest), 1.0)
        if not self.config.guard or agreed >= self.config.guard_agreement:
            return None
        return f"agreement at base difficulty {hardest} is {agreed:.2f}, so the base needs more steps"

    def answered(self, difficulty: int, count: int, slot: int) -> tuple[Pairs, dict[str, Any]]:
        """Labels for `count` new prompts of a difficulty: those kept, and how all of them did, for the record."""
        config, model, seed = self.config, self.state.model, self.plan.seed
        questions = self.corpus.examples(difficulty, "train", f"round-{slot + 1}", range(count))
        prompts = [prompt for prompt, _ in questions]  # the true answers are not looked at
        samples = []
        for sample in range(config.self_consistency or 1):
            generator = torch.Generator(model.embed.weight.device)
            generator.manual_seed(derived_seed(seed, "decode", slot, difficulty, sample))
            samples.append(
                committee.decode(
                    model, self.corpus, prompts, difficulty, config.temperature, generator, config.decode_batch
                )
            )
        answers, shares = committee.consistent(samples)
        if config.inject:
            answers = committee.spoil(answers, config.inject, random(seed, "inject", slot, difficulty))
        rules = committee.Rules(config.vote, config.length_margin, config.self_consistency, config.confidence)
        if self.method_state["strict"]:
            rules = rules._replace(vote=1.0)
        labels, filters = committee.verdicts(model, self.corpus, prompts, answers, shares, rules, config.decode_batch)
        passed = [all(verdicts) for verdicts in zip(*filters.values(), strict=True)]
        pairs = [
            (prompt, answer)
            for prompt, answer, keep in zip(prompts, labels.answers, passed, strict=True)
            if keep and answer is not None
        ]
        right = committee.correct(self.corpus.task, prompts, labels.answers)
        figures = {
            "difficulty": difficulty,
            "prompts": count,
            "agreement": committee.agreement(answers),
            "labels_right": sum(right) / count if count else None,
            **committee.against_truth(right, passed),
            "filters": {name: committee.against_truth(right, verdict) for name, verdict in filters.items()},
        }
        return pairs, figures

    def read(self, name: str) -> Rows:
        """The labels of a round, from the run folder where they were not made just now."""
        if name not in self.labels:
            self.labels[name] = self.tokens(
                self.plan.ranks.broadcast_from_main(partial(self.plan.rows.read_rows, name))
            )
        return self.labels[name]

    def tokens(self, rows: list[dict[str, Any]]) -> Rows:
        """Labels as rows, as wide as the longest."""
        pairs = [(row["prompt"], row["answer"]) for row in rows]
        return self.corpus.rows(pairs, max(len(prompt + answer) for prompt, answer in pairs))

    # What has become of it.

    def survey(self, frontier: int, number: int) -> tuple[Event, committee.Survey]:
        """How the committee stands, as an event and as figures."""
        began, config = time.perf_counter(), self.config
        ahead = max(AHEAD, config.lengths)
        if not number:  # what the base can do without rounds, as far as they are to reach
            ahead = max(ahead, config.target(self.corpus.base[1]) - frontier)
        look = partial(committee.survey, self.state.model, self.corpus, frontier, ahead, config.decode_batch)
        found = committee.Survey(*self.plan.ranks.broadcast_from_main(look))
        values = {"round": number, "frontier": frontier, **found._asdict()}
        return Event("exact", self.state.step, values, {"survey": time.perf_counter() - began}), found

    def losses(self, rounds: list[Rows]) -> list[Any]:
        """Figures of held-out base examples, as `evaluate_split` has them, then the loss `[P]` on labels of rounds."""
        return self.plan.ranks.broadcast_from_main(partial(self._losses, rounds))

    def _losses(self, rounds: list[Rows]) -> list[Any]:
        base = evaluate_split(self.state.model, self.corpus, "validation", self.plan.evaluate_tokens)
        some = [rows[:: -(-len(rows) // REPLAYED)] for rows in rounds]  # of all its difficulties
        return [base, *(mean_nll(self.state.model, [rows.batch()]).loss.tolist() for rows in some)]

    def settle(self, event: Event, survey: committee.Survey, losses: list[Any]) -> Iterator[Event]:
        """Keeps the state as it is: what it agrees on, and its losses, are what later ones are held against.

        Of labelled rounds the best model is one of the newest, that voter who is most often of the majority's opinion.
        """
        base, settled, notes = losses[0], self.method_state["settled"], self.method_state
        notes["agreement"] = known = agreements(survey)
        notes["firmest"] |= {d: max(share, notes["firmest"].get(d, 0.0)) for d, share in known.items()}
        now = means(losses)
        notes["least"] = [min(pair) for pair in zip(notes["least"], now, strict=False)] + now[len(notes["least"]) :]
        yield event
        yield self.state.eval_event({**base, "score": [a - settled for a in survey.apart]} if settled else base)

    def alarm(self, survey: committee.Survey, losses: list[Any]) -> str | None:
        """Why the round is to be undone, None where it is not."""
        config, notes, now = self.config, self.method_state, agreements(survey)
        new = [d for d in notes["current"]["difficulties"] if d > notes["frontier"]]
        for difficulty, before in notes["firmest"].items():
            after, prompts = now.get(difficulty, before), self.corpus.held_out(int(difficulty), "validation")
            opened = int(difficulty) <= notes["frontier"]
            if opened and before - after > config.guard_drop and len(set(prompts)) >= FEW:
                return f"agreement at difficulty {difficulty} fell from {before:.2f} to {after:.2f}"
        for difficulty in new:
            after = now.get(str(difficulty), 1.0)
            if after < config.guard_agreement:
                return f"agreement at difficulty {difficulty} is {after:.2f} after the round"
        *earlier, own = means(losses)
        for place, (before, after) in enumerate(zip(notes["least"], earlier, strict=True)):
            if not after - before <= config.guard_loss:
                data = "base data" if not place else f"the labels of {notes['accepted'][place - 1]['name']}"
                return f"the loss on {data} rose by {after - before:.3f} nats a token"
        if not own <= config.guard_fit:  # errors that follow no rule cannot be learned
            return f"the loss on the round's own labels is {own:.3f} nats a token behind it"
        return None

    def judge(self, rounds: list[Rows]) -> Iterator[Event]:
        """Ends a round: it is kept, or undone and to be tried again."""
        state, config, notes, current = self.state, self.config, self.method_state, self.method_state["current"]
        frontier = max([notes["frontier"], *current["difficulties"]]) if current["rows"] else notes["frontier"]
        (event, survey), losses = self.survey(frontier, current["round"]), self.losses(rounds)
        reason = self.alarm(survey, losses) if config.guard and current["rows"] else None
        told = {key: value for key, value in current.items() if key not in ("decode", "trained", "name")}
        seconds = {"decode": current["decode"], "train": state.seconds - current["trained"], **event.time}
        if reason is None:
            if current["rows"]:
                notes["accepted"].append({"name": current["name"], "difficulties": current["difficulties"]})
                notes["strict"] = 0
            notes["frontier"] = frontier
            notes["settled"] += 1
            yield from self.settle(event, survey, losses)
        else:
            yield event
            with torch.no_grad():
                for name, parameter in state.named_parameters():
                    parameter.copy_(state.method_tensors[f"weights/{name}"])
            moments = {
                k.removeprefix("moments/"): v for k, v in state.method_tensors.items() if k.startswith("moments/")
            }
            load_optimizer_tensors(state, moments)
            notes["strict"] += 1
            more = notes["strict"] <= config.retries and config.voters > 1 and state.step < self.plan.steps
            if not more:
                notes["ended"] = told["ended"] = f"{reason}, and no retry is left"
            values = {"round": current["round"], "difficulties": current["difficulties"], "reason": reason}
            yield Event("alarm", state.step, {**values, "retry": more})
        state.method_tensors = {}
        del notes["current"]
        told |= {"accepted": reason is None, "frontier": notes["frontier"]}
        told["loss"] = means(losses)
        yield Event("round", state.step, told, seconds)


METHOD = Method[Config, TaskCorpus](
    Config=Config,
    run=run,
    num_members=lambda config: config.voters,
    trains_heads=lambda config: True,
    num_steps=num_steps,
    counted_by=("si_rounds", "si_iter"),
    rehearse=rehearse,
    corpora=(TaskCorpus,),
    needs="asks questions and reads answers; set data.type=task and data.task",
    check=check,
    ranks_share="members",
)
