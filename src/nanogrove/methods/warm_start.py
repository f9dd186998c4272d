"""A warm start for methods that improve a model: a saved run, or pretraining first, and a frozen reference."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NotRequired

import torch
from torch import Tensor
from typing_extensions import TypedDict

from nanogrove.data.corpus import Corpus
from nanogrove.errors import CheckpointError
from nanogrove.evaluate import auxiliary
from nanogrove.evaluate.divergence import divergence
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.methods.contract import C, D, MethodConfig, Trained
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.paths import expanded
from nanogrove.record.events import Event, Values, phase
from nanogrove.train.checkpoint import check_same_model, load_members
from nanogrove.train.initial import check_vocabulary, read_initial
from nanogrove.train.loop import fit
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState
from nanogrove.train.weights import load_weights

NOT_EXCHANGED = ("zero_init", "within_documents", "document_mark")  # with `transformers`


class Kept(TypedDict):
    """`TrainState.method_state`: the reward before the first round or step, and why training ended."""

    reward_before: NotRequired[float | None]
    reward_before_error: NotRequired[float | None]
    ended: NotRequired[str]


def check_not_ended(state: TrainState, config: MethodConfig, steps: int) -> None:
    """Raises ValueError where training ended before its last step, as that of a longer run would have."""
    if ended := state.method_state.get("ended"):
        raise ValueError(f"it ended by itself: {ended}")


def saved_weights(saved: str, corpus: Corpus, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of one model, from a source as `saved_members` reads it."""
    return {name: tensor[0] for name, tensor in saved_members([saved], corpus, config, 1).items()}


def saved_members(sources: Sequence[str], corpus: Corpus, config: ModelConfig, members: int) -> dict[str, Tensor]:
    """The weights of `members` models, stacked: a run or a checkpoint of as many, or a source each.

    A source is a run, whose last state is taken, a checkpoint, or whatever else `read_initial` reads. Raises
    CheckpointError where one is missing or of another configuration, and where there are more or fewer; CheckpointError
    or PresetError for another vocabulary.
    """
    stacks = [_stacked(source, corpus, config) for source in sources]
    count = sum(len(weights["embed.weight"]) for weights in stacks)
    if count != members:
        names = ", ".join(sources)
        raise CheckpointError(f"{names}: {count} models where {members} are asked for; give as many, or one for each")
    return {name: torch.cat([weights[name] for weights in stacks]) for name in stacks[0]}


def _stacked(source: str, corpus: Corpus, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of all models of a source."""
    folder = expanded(source)
    if any((folder / name).exists() for name in ("state.json", "checkpoints")):
        return load_members(folder, corpus.tokenizer, config)
    initial = read_initial(source)
    check_vocabulary(initial, corpus.tokenizer)
    check_same_model(source, initial.config, config, NOT_EXCHANGED)
    return {name: tensor[None] for name, tensor in initial.weights.items()}


def pretrained(state: TrainState, corpus: Corpus, plan: Plan, saved: str | None, steps: int) -> Iterator[Event]:
    """Takes the weights of a `saved` run, for every member of a population, or trains on the corpus up to `steps`.

    None of these states is a candidate for the best model, which the method trains from them. Raises
    CheckpointError as `saved_weights` does.
    """
    members = state.model.population
    if saved is not None and state.step == 0:
        state.begin_from(saved_weights(saved, corpus, state.model.config))
    if state.step == 0 < steps:
        yield phase("base", 0, "NLL")
    for event in fit(state, corpus.batch, objective_of(state, plan), plan.phase(0, steps)):
        if plan.evaluates(event.step):
            values = evaluate_split(state.scored, corpus, "validation", plan.evaluate_tokens)
            yield state.eval_event({**values, "score": torch.inf if members is None else [torch.inf] * members})
            yield from auxiliary.evaluate_heads(state, corpus, corpus.batch, plan)
        yield event


def reference_model(state: TrainState) -> GPT:
    """The model as it stood when this was first called, frozen; its weights are kept with the state.

    Its moments are dropped then, since those of one objective say nothing about another, and so is an average of the
    weights of the base: what is scored first is the reference itself.
    """
    keep_reference(state)
    return frozen(state.model, state.method_tensors)


def keep_reference(state: TrainState) -> None:
    """Keeps the weights for a reference where none are kept yet, and begins anew as `reference_model` says."""
    if state.method_tensors:
        return
    state.method_tensors = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
    state.optimizer.state.clear()
    state.restart_average()


def beside_reference(trained: Trained[C], corpus: D, split: str, limit: int | None) -> tuple[Values, GPT | None]:
    """The loss on a split and the KL from the reference, as values of an `eval` event; and the reference, if kept."""
    values, kept = evaluate_split(trained.model, corpus, split, limit), trained.kept()
    if not kept:
        return {**values, "unmeasured": ["no checkpoint holds the reference; nothing is compared with it"]}, None
    reference = frozen(trained.model, kept)
    kl = divergence(trained.model, reference, corpus.eval_batches(split, limit))
    return {**values, "kl": kl}, reference


def frozen(like: GPT, weights: Mapping[str, Tensor]) -> GPT:
    """A model of these weights that nothing trains, of the configuration and on the device of another one.

    Or a population, where the other one is. Raises CheckpointError for weights of another model, which a checkpoint
    may hold.
    """
    model = GPT(like.config, like.population).to(like.embed.weight.device).eval().requires_grad_(False)
    load_weights(model, weights, Path("kept.safetensors"))
    return model
