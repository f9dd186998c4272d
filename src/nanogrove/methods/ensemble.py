"""An ensemble: members that are trained as one program predict together, and one model may be distilled from them.

1. Members begin from weights of their own and, with `own_batches`, read the text in orders of their own; `train.steps`
   are those of each. They predict by the mean of their probabilities (Lakshminarayanan 2017, arXiv 1612.01474), which
   is what is scored, sampled and kept, all members in one checkpoint.
2. With `chain` they are trained one after the other instead, each from the data and from the probabilities of the one
   before it (Born-Again Networks, Furlanello 2018, arXiv 1805.04770): `data_share` · NLL of the data, and
   (1 − data_share) · cross-entropy to those probabilities. `train.steps` are again those of each member.
3. `distill_steps` train a student, a single model, in the same way from the mean probabilities of all members as they
   are at the end (Hinton 2015, arXiv 1503.02531, at a temperature of 1). Its best weights are the checkpoint `student`,
   an ordinary model.

Each phase has a learning-rate schedule of its own. Batches of member p are those of steps p·stride on, where the stride
is a whole number of passes over the text, so that each member reads as many passes as the run alone would.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NotRequired

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from nanogrove.data.batch import Batch, Batches
from nanogrove.data.corpus import Corpus
from nanogrove.data.rng import derived_seed
from nanogrove.errors import PresetError
from nanogrove.evaluate.ensemble import mean_logits_loss, score_ensemble, uncertainty
from nanogrove.evaluate.loss import evaluate_split, mean_nll
from nanogrove.methods.contract import Method, MethodConfig, Trained
from nanogrove.model.config import ModelConfig
from nanogrove.model.elementwise import at_least_float32
from nanogrove.model.ensemble import Ensemble, of_one, part
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Event, Values, phase
from nanogrove.train.average import Average
from nanogrove.train.loop import fit
from nanogrove.train.objective import Loss, Objective, next_token, weighted
from nanogrove.train.optim.optimizer import make_optimizer
from nanogrove.train.plan import Plan, Span
from nanogrove.train.state import TrainState, load_optimizer_tensors, optimizer_tensors
from nanogrove.train.weights import load_weights

STRIDE_PASSES = 1 << 16  # over the text between the first batches of two members
STRIDE_STEPS = 1 << 32  # where every batch is fresh


class Config(MethodConfig):
    """`train.steps` are those of each member; `distill_steps` follow."""

    name: Literal["ensemble"] = "ensemble"
    members: int = Field(8, ge=2, le=10_000, description="models that predict together")
    own_batches: bool = Field(True, description="each member reads batches of its own; false: all the same ones")
    chain: bool = Field(False, description="train members one after the other, each also from the one before")
    distill_steps: int = Field(0, ge=0, description="steps of a student that learns from all members; 0: no student")
    data_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the data in what a student or a chain learns; the rest is a teacher's",
    )


class Kept(TypedDict):
    """`TrainState.method_state`: the lowest loss of the student so far."""

    student_best: NotRequired[Annotated[float, Field(allow_inf_nan=False)]]


def num_steps(config: Config, budget: int) -> int:
    """Steps of the members, one after the other in a chain, and those of the student."""
    return budget * (config.members if config.chain else 1) + config.distill_steps


def phases(config: Config, steps: int) -> Iterator[Span]:
    """The members, all at once or each, and the student."""
    end = steps - config.distill_steps
    if config.chain:
        each = max(end // config.members, 1)
        yield from (Span(f"member {n + 1}", n * each, (n + 1) * each) for n in range(config.members))
    else:
        yield Span("members", 0, end)
    if config.distill_steps:
        yield Span("student", end, steps)


def check(config: Config, corpus: Corpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError where members cannot read text in orders of their own."""
    if config.own_batches and corpus.describe().get("streams"):
        raise PresetError(
            "method.own_batches=true begins at places of their own in the text, and this text is still being read; set "
            "method.own_batches=false"
        )


def batches_of(corpus: Corpus, config: Config, member: int) -> Batches:
    """The batches of one member, or of the student, whose number is that after the last member."""
    if not config.own_batches:
        return corpus.batch
    windows, rows = corpus.windows_per_epoch, len(corpus.batch(0).tokens)
    first = member * (STRIDE_STEPS if windows is None else round(STRIDE_PASSES * windows / rows))
    return lambda step: corpus.batch(step + first)


def from_teacher(teacher: Ensemble, data_share: float) -> Objective:
    """`data_share` · NLL of the targets + (1 − data_share) · −Σ p_teacher log p, the mean over scored positions."""

    def objective(model: nn.Module, batch: Batch) -> Loss:
        with torch.no_grad():
            taught = teacher.log_probs(batch.tokens).exp()
        scores = F.log_softmax(at_least_float32(model(batch.tokens)), -1)
        soft = weighted(-(taught * scores).sum(-1), batch).total
        data = weighted(-scores.gather(-1, batch.targets[..., None])[..., 0], batch).total
        return Loss(data_share * data + (1 - data_share) * soft, {"nll": data.detach(), "from_teacher": soft.detach()})

    return objective


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `step` events, before those that `plan.evaluates` names `eval`, and `student` where one learns."""
    for number, span in enumerate(phases(config, plan.steps)):
        if state.step >= span.end:
            continue
        this = plan.phase(*span[1:])
        if span.name == "student":
            yield from _distill(state, corpus, this, span, config)
        elif config.chain:
            yield from _train_member(state, corpus, this, span, config, number)
        else:
            yield from _train_members(state, corpus, this, config)


def rehearse(state: TrainState, corpus: Corpus, plan: Plan, config: Config, further: bool) -> Iterator[Event]:
    """Yields the steps of a student or, of a chain, those of its second member, each as long as one of all members."""
    if further:
        state.ensemble = config.members
        yield from _distill(state, corpus, plan, Span("student", 0, plan.steps), config)
    elif not config.chain:
        yield from _train_members(state, corpus, plan, config)
    else:
        for event in _train_member(state, corpus, plan, Span("member 2", 0, plan.steps), config, 1):
            if event.kind == "step":
                event.time["seconds"] *= config.members
            yield event


def _train_members(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Trains all members as one program."""
    state.ensemble = config.members
    if state.step == 0:
        yield phase("members", 0, "NLL", held_out="member_loss")
    drawn = [batches_of(corpus, config, member) for member in range(config.members)]

    def batch(step: int) -> Batch:
        return Batch.stack([each(step) for each in drawn]) if config.own_batches else corpus.batch(step)

    for event in fit(state, batch, next_token, plan):
        if plan.evaluates(event.step):
            yield state.eval_event(score_ensemble(state.scored, corpus, "validation", plan.evaluate_tokens))
        yield event


def _train_member(
    state: TrainState, corpus: Corpus, plan: Plan, span: Span, config: Config, number: int
) -> Iterator[Event]:
    """Trains one member of a chain, whose weights are views of the population's."""
    state.ensemble = number + 1
    alone = _member(state, number)
    if state.step == span.start:
        state.method_tensors = {}
        objective_name = "NLL" if number == 0 else "NLL and cross-entropy to the member before"
        yield phase(span.name, span.start, objective_name, held_out="")
    load_kept(alone, state.method_tensors)
    objective: Objective = next_token
    if number:
        objective = from_teacher(Ensemble(part(state.scored, slice(number - 1, number))), config.data_share)
    for event in fit(alone, batches_of(corpus, config, number), objective, plan):
        _follow(state, alone, kept_of(alone, weights=False))
        if plan.evaluates(event.step):
            members = part(state.scored, slice(state.ensemble))
            yield alone.eval_event(score_ensemble(members, corpus, "validation", plan.evaluate_tokens))
        yield event


def _distill(state: TrainState, corpus: Corpus, plan: Plan, span: Span, config: Config) -> Iterator[Event]:
    """Trains a student from the mean probabilities of all members, which stay as they are."""
    state.student = student = new_student(state, plan.seed, config)
    if state.step == span.start:
        state.optimizer.state.clear()  # nothing trains the members any more
        state.method_tensors = {}
        yield phase("student", span.start, "NLL and cross-entropy to the ensemble", held_out="")
    load_kept(student, state.method_tensors)
    objective = from_teacher(Ensemble(part(state.scored, slice(config.members))), config.data_share)
    for event in fit(student, batches_of(corpus, config, config.members), objective, plan):
        _follow(state, student, kept_of(student, weights=True))
        if plan.evaluates(event.step):
            values = evaluate_split(student.scored, corpus, "validation", plan.evaluate_tokens)
            best = values["loss"] < state.method_state.get("student_best", float("inf"))
            if best:
                state.method_state["student_best"] = values["loss"]
            yield Event("student", state.step, {**values, **student.averaged, "best": best, "seen": state.tokens})
        yield event


def _follow(state: TrainState, trained: TrainState, kept: dict[str, Tensor]) -> None:
    """Brings the counters of a run's state, and what it keeps, to those of the single model that is trained."""
    state.step, state.tokens, state.seconds, state.method_tensors = trained.step, trained.tokens, trained.seconds, kept


# A single model beside or within the population.


def _beside(state: TrainState, model: GPT) -> TrainState:
    """The state of a single model at the step of another one, with an optimizer of the same settings."""
    optimizer = make_optimizer(model, state.optimizer.config, state.optimizer.precision)
    beside = TrainState(model, optimizer, state.step, state.tokens, state.round, state.seconds)
    if state.average is not None:
        beside.average = Average.of(beside.modules, state.average.config)
    return beside


def new_student(state: TrainState, seed: int, config: Config) -> TrainState:
    """A student that has not learned, whose weights are those that a member after the last one would begin with."""
    model = GPT(state.model.config).initialize(derived_seed(seed, "member", config.members))
    return _beside(state, model.to(state.model.embed.weight.device))


def _member(state: TrainState, number: int) -> TrainState:
    """The state of one member, whose weights, and their average, are views of the population's."""
    alone = _beside(state, GPT(state.model.config).to(state.model.embed.weight.device))
    pairs = [(alone.model, state.model)]
    if alone.average is not None and state.average is not None:
        pairs.append((alone.scored, state.scored))
    for single, population in pairs:
        for parameter, stacked in zip(single.parameters(), population.parameters(), strict=True):
            parameter.data = stacked.data[number]
    return alone


def kept_of(single: TrainState, weights: bool) -> dict[str, Tensor]:
    """What goes on from a checkpoint needs of a single model: moments, and with `weights` these and their average."""
    tensors = {f"moments/{name}": tensor for name, tensor in optimizer_tensors(single).items()}
    if weights:
        tensors |= {f"weights/{name}": tensor for name, tensor in single.model.state_dict().items()}
        if single.average is not None:
            tensors |= {f"average/{name}": tensor for name, tensor in single.scored.state_dict().items()}
    return tensors


def load_kept(single: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Takes over what `kept_of` gave; nothing where there is nothing.

    Raises CheckpointError or ValueError for tensors that do not fit, which a stranger may have written.
    """
    if not tensors:
        return
    parts: dict[str, dict[str, Tensor]] = {"moments": {}, "weights": {}, "average": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind not in parts:
            raise ValueError(f"kept.safetensors has a tensor {name[:60]!r}, which nothing here keeps")
        parts[kind][rest] = tensor
    where = Path("kept.safetensors")
    if parts["weights"]:
        load_weights(single.model, parts["weights"], where)
    if single.average is not None and parts["average"]:
        load_weights(single.scored, parts["average"], where)
    load_optimizer_tensors(single, parts["moments"])


def check_kept(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> None:
    """Raises ValueError where the state is none of this run: members are not trained, tensors do not fit."""
    spans = list(phases(config, plan.steps))
    number = next((n for n, span in enumerate(spans) if state.step <= span.end), len(spans) - 1)
    span, within = spans[number], state.step > spans[number].start
    trained = min(number + 1, config.members) if config.chain else config.members
    if state.step and state.ensemble != trained:
        raise ValueError(f"{state.ensemble} of its members are trained, and {trained} would be")
    single = span.name == "student" or config.chain
    names = {name.partition("/")[0] for name in state.method_tensors}
    needed = {"moments"} if single and within else set()
    if span.name == "student" and within:
        needed |= {"weights"} if state.average is None else {"weights", "average"}
    if names != needed:
        raise ValueError(
            f"it keeps {', '.join(sorted(names)) or 'nothing'} of a single model, which is not what it needs"
        )
    if single and within:
        load_kept(new_student(state, plan.seed, config), state.method_tensors)


def evaluate(trained: Trained[Config], corpus: Corpus, split: str, limit: int | None) -> Values:
    """The figures of `score_ensemble`, the loss of mean logits and of the student and, of a grammar, `uncertainty`."""
    members, student = trained.model, trained.student()
    if members.population is None:  # a study asks a model that is not trained which figures there are
        members = of_one(members)
    values = score_ensemble(members, corpus, split, limit)
    values["mean_logits_loss"] = mean_logits_loss(members, corpus.eval_batches(split, limit))
    if student is not None:
        values["student_loss"] = mean_nll(student, corpus.eval_batches(split, limit)).loss.item()
    truths = corpus.true_distributions(split, limit)
    if truths is not None:
        values |= uncertainty(members, corpus.eval_batches(split, limit), truths)
    return values


METHOD = Method[Config, Corpus](
    Config=Config,
    run=run,
    num_members=lambda config: config.members,
    further_members=lambda config: 1,
    adapters=False,
    copies=lambda config: 1 + 4 * (config.distill_steps > 0),  # the teacher; a student, its gradient and its moments
    num_steps=num_steps,
    counted_by=("distill_steps",),
    phases=phases,
    rehearse=rehearse,
    check=check,
    evaluate=evaluate,
    Kept=Kept,
    check_kept=check_kept,
)
