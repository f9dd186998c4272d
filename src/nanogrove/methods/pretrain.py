"""Pretraining: next-token prediction by gradient descent, scored on validation text as it goes.

Hyperparameters may `follow` points, each a step and the value from there on, such as those that evolution found along
the line of its winner.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nanogrove.data.batch import Corpus
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.record.events import Event
from nanogrove.train.fit import Plan, fit
from nanogrove.train.hyperparameters import apply
from nanogrove.train.objective import next_token
from nanogrove.train.state import TrainState


def _rising(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    steps = [step for step, _ in points]
    if steps[:1] != [0] or any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"points are [step, value] with steps that rise from 0, and here they are {steps}")
    return points


Value = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Points = Annotated[list[tuple[Annotated[int, Field(ge=0)], Value]], AfterValidator(_rising)]


class Config(BaseModel):
    """Pretraining has one setting beyond those of every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    follow: dict[Literal["lr", "weight_decay", "dropout"], Points] = Field(
        {}, description="[step, value] points by hyperparameter; the schedule's factor comes on top of lr"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(value >= 1 for _, value in self.follow.get("dropout", [])):
            raise ValueError("follow.dropout reaches 1, and drops everything; stay below")
        return self


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields a `step` event a step, and an `eval` event ahead of those that `plan.evaluates` names."""

    def evaluation() -> Event:
        values = evaluate_split(state.model, corpus, "validation", plan.evaluate_tokens)
        return Event("eval", state.step, {**values, "seen": state.tokens}, {"seconds": state.seconds})

    changes = {step for points in config.follow.values() for step, _ in points if step < plan.steps}
    for end in sorted(changes | {plan.steps}):
        if end <= state.step:
            continue
        begun = state.step
        factor = apply(state, {n: max(p for p in points if p[0] <= begun)[1] for n, points in config.follow.items()})
        phase = replace(plan, steps=end, rate=lambda step, factor=factor: factor * plan.rate(step))  # type: ignore[misc]
        for event in fit(state, corpus.batches, next_token, phase):
            if plan.evaluates(state.step):
                yield evaluation()
            yield event
