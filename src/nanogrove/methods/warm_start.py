"""A warm start for methods that improve a model: a saved run, or pretraining first, and a frozen reference."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from nanogrove.data.corpus import Corpus
from nanogrove.evaluate import auxiliary
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.record.events import Event, phase
from nanogrove.train.checkpoint import load_population
from nanogrove.train.loop import fit
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState


def saved_weights(saved: str, corpus: Corpus, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of the one model in a run or checkpoint.

    Raises CheckpointError where there is none, or one of another vocabulary or configuration.
    """
    weights = load_population([Path(saved)], corpus.tokenizer, config, 1)
    return {name: tensor[0] for name, tensor in weights.items()}


def pretrained(state: TrainState, corpus: Corpus, plan: Plan, saved: str | None, steps: int) -> Iterator[Event]:
    """Takes the weights of a `saved` run, or trains on the corpus up to `steps`.

    None of these states is a candidate for the best model, which the method trains from them. Raises
    CheckpointError as `saved_weights` does.
    """
    if saved is not None and state.step == 0:
        state.model.load_state_dict(saved_weights(saved, corpus, state.model.config))
    if state.step == 0 < steps:
        yield phase("base", 0, "NLL, nats per token")
    for event in fit(state, corpus.batch, objective_of(state, plan), plan.phase(0, steps)):
        if plan.evaluates(event.step):
            values = evaluate_split(state.model, corpus, "validation", plan.evaluate_tokens)
            yield state.eval_event({**values, "score": torch.inf})
            yield from auxiliary.evaluate_heads(state, corpus, corpus.batch, plan)
        yield event


def reference_model(state: TrainState) -> GPT:
    """The model as it stood when this was first called, frozen; its weights are kept with the state.

    Its moments are dropped then: those of one objective say nothing about another.
    """
    if not state.method_tensors:
        state.method_tensors = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
        state.optimizer.state.clear()
    model = GPT(state.model.config).to(state.model.embed.weight.device).eval().requires_grad_(False)
    model.load_state_dict(state.method_tensors)
    return model
