"""Pretraining: next-token prediction by gradient descent, scored on validation text as it goes.

Hyperparameters may `follow` points, each a step and the value from there on, such as those that evolution found along
the line of its winner. Losses of several text sources are recorded by source, and their weights may adapt to them. A
`curriculum` begins with the easiest rows of each batch. Heads that the preset's `auxiliary` enables train beside the
model; see `nanogrove.train.objectives.auxiliary`.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NotRequired, Self

from pydantic import AfterValidator, Field, model_validator
from torch import Tensor
from typing_extensions import TypedDict

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus, MixedCorpus
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.evaluate import auxiliary
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.methods.contract import Method, MethodConfig
from nanogrove.model.config import ModelConfig
from nanogrove.record.events import Event
from nanogrove.train.checkpoint import model_of, read_checkpoint
from nanogrove.train.loop import fit
from nanogrove.train.objective import Loss, objective_from_nll, weighted
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.plan import Plan
from nanogrove.train.population.hyperparameters import set_hyperparameters
from nanogrove.train.precision import pick_device
from nanogrove.train.sampling.curriculum import CurriculumConfig, easiest
from nanogrove.train.sampling.source_weights import (
    AdaptiveConfig,
    History,
    Mixing,
    by_source,
    check_history,
    reference_losses,
)
from nanogrove.train.state import TrainState

REFERENCE_TOKENS = 200_000  # of held-out text on which a reference is scored, all sources together


def _rising(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    steps = [step for step, _ in points]
    if steps[:1] != [0] or any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"points are [step, value] with steps that rise from 0, and here they are {steps}")
    return points


Value = Annotated[float, Field(ge=0)]
Points = Annotated[list[tuple[Annotated[int, Field(ge=0)], Value]], AfterValidator(_rising)]


class Config(MethodConfig):
    """Pretraining has few settings beyond those of every method."""

    name: Literal["pretrain"] = "pretrain"
    follow: dict[Literal["lr", "weight_decay", "dropout"], Points] = Field(
        {}, description="[step, value] points by hyperparameter; the schedule's factor comes on top of lr"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the uniform distribution in what training aims at; not in what is scored"
    )
    adaptive: AdaptiveConfig | None = Field(None, description="adapts the weights of several sources to their losses")
    curriculum: CurriculumConfig | None = Field(None, description="trains on the easiest rows of each batch first")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(value >= 1 for _, value in self.follow.get("dropout", [])):
            raise ValueError("follow.dropout reaches 1, and drops everything; stay below")
        return self

    def values_at(self, step: int) -> dict[str, float]:
        """The hyperparameters that `follow` sets at a step, by name."""
        return {name: max(point for point in points if point[0] <= step)[1] for name, points in self.follow.items()}


def check(config: Config, corpus: Corpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError where nothing can adapt, CheckpointError for a reference that cannot be loaded."""
    if config.adaptive is None:
        return
    mixture = corpus.mixture()
    if mixture is None:
        raise PresetError("method.adaptive weighs sources against each other; give data.sources two or more")
    if not mixture.shows_all_sources:
        raise PresetError("method.adaptive draws from all sources; set data.mix_strategy to round_robin or weighted")
    if config.adaptive.reference is not None:
        _reference(config.adaptive.reference, mixture)


def _reference(saved: str, corpus: MixedCorpus) -> list[float]:
    """The losses by source of the model of a saved run."""
    checkpoint = read_checkpoint(Path(saved))
    if checkpoint.tokenizer.to_json() != corpus.tokenizer.to_json():
        raise CheckpointError(f"{saved}: has another vocabulary than the data; losses cannot be compared")
    losses = reference_losses(model_of(checkpoint, pick_device("auto")), corpus, REFERENCE_TOKENS)
    for name, loss in zip(corpus.names, losses, strict=True):
        if not math.isfinite(loss):
            raise PresetError(f"{name}: holds no validation text for method.adaptive.reference; raise data.validation")
    return losses


def step_depends_on(config: Config, steps: int, step: int) -> dict[str, float]:
    """The share of a batch that a curriculum trains on."""
    curriculum = config.curriculum
    return {} if curriculum is None else {"method.curriculum": curriculum.share(step, steps)}


class Kept(TypedDict):
    """`TrainState.method_state` of a run."""

    sources: NotRequired[History]  # of several


def check_kept(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> None:
    """Raises ValueError as `check_history` does."""
    mixture, history = corpus.mixture(), state.method_state.get("sources")
    if mixture is not None and history is not None:
        check_history(history, mixture, state.step, config.adaptive)


def rehearse(state: TrainState, corpus: Corpus, plan: Plan, config: Config, further: bool) -> Iterator[Event]:
    """Yields the events of a run without a curriculum: rows that it leaves out at first are trained on later."""
    return run(state, corpus, plan, config.model_copy(update={"curriculum": None}))


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields a `step` event per step and, before those that `plan.evaluates` names, an `eval` event.

    With several sources a `sources` event comes with it, or before each step that ends an adaptive interval. Where
    heads train, an `auxiliary` event follows it. Under a curriculum a `step` event has the `share` of rows trained on.
    """
    mixing: Mixing | None = None
    batches = corpus.batch
    main: Callable[[Tensor, Batch], Loss] = weighted
    if (mixture := corpus.mixture()) is not None:
        saved = config.adaptive and "sources" not in state.method_state and config.adaptive.reference
        reference = plan.ranks.broadcast_from_main(partial(_reference, saved, mixture)) if saved else None
        mixing = Mixing(state, mixture, config.adaptive, reference)
        batches, main = mixing.batch, partial(by_source, sources=len(mixture.names))
    with plan.layout.spread(state) as local:
        objective = (
            objective_from_nll(main, config.label_smoothing) if local.heads is None else objective_of(local, plan, main)
        )
        curriculum = config.curriculum
        trained_on = batches if curriculum is None else easiest(batches, local, curriculum, plan)

        def evaluation() -> Event:
            plan.layout.gather()
            values = evaluate_split(local.scored, corpus, "validation", plan.evaluate_tokens)
            return state.eval_event(values)

        changes = {step for points in config.follow.values() for step, _ in points if step < plan.steps}
        for end in sorted(changes | {plan.steps}):
            if end <= state.step:
                continue
            factor = set_hyperparameters(local, config.values_at(state.step)) if config.follow else 1.0
            for event in fit(local, trained_on, objective, plan.until(end, factor)):
                state.step, state.tokens, state.seconds = local.step, local.tokens, local.seconds
                if curriculum is not None:
                    event.values["share"] = curriculum.share(event.step - 1, plan.steps)
                if mixing is not None:
                    mixing.observe(event)
                    if mixing.due or (config.adaptive is None and plan.evaluates(state.step)):
                        yield mixing.update()
                if plan.evaluates(state.step) and (plan.ranks.first or plan.sharded):
                    yield evaluation()
                    if state.heads is not None:
                        yield from auxiliary.evaluate_heads(state, corpus, batches, plan)
                yield event


METHOD = Method[Config, Corpus](
    Config=Config,
    run=run,
    trains_heads=lambda config: config.label_smoothing == 0,
    memory=True,
    sharding=True,
    step_depends_on=step_depends_on,
    rehearse=rehearse,
    check=check,
    Kept=Kept,
    check_kept=check_kept,
    ranks_share="batch",
)
