"""Ways to make a model better, one file each. A new one is a file here and a line in `METHODS`.

A method is a module with a `Config` and a `run`; it yields events and knows nothing of files, trackers or progress
bars. Behind each `step` event the state is whole, and the lab may save it, or stop.

A `Config` may say `population`, how many models the method trains at once; `total_steps(steps)`, what becomes of the
steps a preset asks for, or `steps`, where the method counts them itself; `counted_by`, which of its settings make steps
that `train` does not name; `final_split`, to be scored at the end where validation will not do; `scalar`, where its
model gives numbers instead of logits; `spreads`, where ranks may train together: all run the method, `fit` alone
changes the model, and rank 0 alone scores. A module may offer `check(config, corpus, model, allow_code)`, which refuses
what cannot be trained before a run begins, and `check_scored(config, corpus, tokens)`, the same for what
`evaluate.tokens` leaves to score; `score(model, corpus, split, limit)`, the values of an `eval` event, where
the loss is not that of the next token; and `rehearse(state, corpus, plan, config, further)`, whose steps a budget in
minutes times where those at the start of `run` will not do: steps that `train.steps` names or, `further`, those that
the method adds. Two kinds of event do something: `eval` names the best model so far, by its `score` or else its `loss`,
the lower the better, of a population member by member; `data`, with a `name` and `rows`, is written to the run folder
before the method goes on, and `plan.made(name)` reads it back after a resume.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol, cast

from pydantic import BaseModel

from nanogrove.data.corpus import Corpus
from nanogrove.record.events import Event
from nanogrove.train.loop import Plan
from nanogrove.train.state import TrainState

METHODS = {
    "align": "nanogrove.methods.align",
    "pretrain": "nanogrove.methods.pretrain",
    "evolve": "nanogrove.methods.evolve",
    "evolution_strategies": "nanogrove.methods.evolution_strategies",
    "offline_rl": "nanogrove.methods.offline_rl",
    "reward_model": "nanogrove.methods.reward_model",
    "self_improve": "nanogrove.methods.self_improve",
}


class Method(Protocol):
    """What a module in this folder offers."""

    Config: type[BaseModel]

    def run(self, state: TrainState, corpus: Corpus, plan: Plan, config: Any) -> Iterator[Event]:
        """Trains `state` from wherever it stands to the end of `plan`."""


def load_method(name: str) -> Method:
    """The module of a method in `METHODS`."""
    return cast(Method, import_module(METHODS[name]))
