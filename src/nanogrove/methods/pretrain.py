"""Pretraining: next-token prediction by gradient descent, scored on validation text as it goes."""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from nanogrove.data.batch import Corpus
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.record.events import Event
from nanogrove.train.fit import Plan, fit
from nanogrove.train.objective import next_token
from nanogrove.train.state import TrainState


class Config(BaseModel):
    """Pretraining has no settings beyond those of every method."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields a `step` event a step, and an `eval` event ahead of those that `plan.evaluates` names."""

    def evaluation() -> Event:
        values = evaluate_split(state.model, corpus, "validation", plan.evaluate_tokens)
        return Event("eval", state.step, {**values, "seen": state.tokens}, {"seconds": state.seconds})

    for event in fit(state, corpus.batches, next_token, plan):
        if plan.evaluates(state.step):
            yield evaluation()
        yield event
