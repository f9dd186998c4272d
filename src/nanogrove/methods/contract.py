"""The contract of a method: what a file of this folder answers about itself, each answer with its default.

A method yields events and knows nothing of files, trackers or progress bars. After each `step` event the state is
consistent, and the run may save it, or stop. Three kinds of event have an effect: `eval` decides which model is the
best so far, by its `score`, which is a cost, or else by its `loss`, the lower the better, per member of a population;
`student` has `TrainState.student` saved as a checkpoint of that name, where its `best` is true;
`data`, with a `name` and `rows`, is written to the run folder before the method goes on, and the plan reads it back
after a resume.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from nanogrove.data.corpus import Corpus
from nanogrove.data.splits import Split
from nanogrove.errors import CheckpointError
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Event, Values
from nanogrove.settings import Settings, cut, reason
from nanogrove.train.plan import Plan, Span
from nanogrove.train.state import TrainState


class MethodConfig(Settings):
    """The settings of a method, each of which narrows `name` to its own: `name: Literal["evolve"] = "evolve"`."""

    name: str


C = TypeVar("C", bound=MethodConfig)
D = TypeVar("D", bound=Corpus)


@dataclass(frozen=True)
class Trained(Generic[C]):
    """A trained model, and what its method may need to score it.

    Args:
        model: a single model, or the members of an ensemble.
        config: the method's settings.
        seed: of the run.
        kept: gives the tensors that the method keeps, such as the weights of a reference; none where none are saved.
        student: gives the best model that learned from this one; None where none did.
        allow_code: whether functions that the settings name may be imported and run.
    """

    model: GPT
    config: C
    seed: int
    kept: Callable[[], Mapping[str, Tensor]] = dict
    student: Callable[[], GPT | None] = lambda: None
    allow_code: bool = False


def _budget(config: MethodConfig, budget: int) -> int:
    return budget


def _accept(config: MethodConfig, corpus: Corpus, model: ModelConfig, allow_code: bool) -> None:
    """Accepts every corpus."""


def _evaluate(trained: Trained[C], corpus: Corpus, split: str, limit: int | None) -> Values:
    return evaluate_split(trained.model, corpus, split, limit)


class NothingKept(TypedDict):
    """What a method keeps that can go on from weights, moments and counters alone."""


def _accept_kept(state: TrainState, corpus: Corpus, plan: Plan, config: MethodConfig) -> None:
    """Accepts what is of the right types."""


def _one_phase(config: MethodConfig, steps: int) -> Iterable[Span]:
    return [Span("training", 0, steps)]


def _nothing_else(config: MethodConfig, steps: int, step: int) -> Mapping[str, object]:
    return {}


def _accept_longer(state: TrainState, config: MethodConfig, steps: int) -> None:
    """Accepts every state."""


def _accept_scored(config: MethodConfig, corpus: Corpus, limit: int | None) -> None:
    """Accepts every number of tokens."""


@dataclass(frozen=True, kw_only=True)
class Method(Generic[C, D]):
    """A way to make a model better, from settings `C` and a corpus `D`."""

    Config: type[C]
    run: Callable[[TrainState, D, Plan, C], Iterator[Event]]
    """Trains the state from wherever it stands to the end of the plan."""

    # What is trained.
    num_members: Callable[[C], int | None] = lambda config: None
    """How many models are trained at once; None for a single one, without a population axis."""
    further_members: Callable[[C], int | None] = lambda config: None
    """How many models a step of those that the method adds trains; None for as many as are trained at once."""
    copies: Callable[[C], int] = lambda config: 0
    """How many models exist beside those that are trained, each with weights alone."""
    output: Literal["tokens", "scalar"] = "tokens"
    """Whether the model gives logits of tokens, or a number at each position."""
    trains_heads: Callable[[C], bool] = lambda config: False
    """Whether auxiliary heads may train beside the model."""
    adapters: bool = True
    """Whether adapters may train in place of the weights."""
    memory: bool = False
    """Whether the model may have a memory."""
    sharding: bool = False
    """Whether ranks may hold shards of the weights."""

    # For how long.
    needs_budget: bool = True
    """Whether `train` must name a budget; else the settings count all steps, and it may not."""
    num_steps: Callable[[C, int], int] = _budget
    """All steps of a run, from those that `train` names, or 0 where it names none."""
    counted_by: tuple[str, ...] = ()
    """The settings that add steps to those of `train`, such as `generations`."""
    phases: Callable[[C, int], Iterable[Span]] = _one_phase
    """The phases of a run of so many steps, in order, each under a learning-rate schedule of its own."""
    step_depends_on: Callable[[C, int, int], Mapping[str, object]] = _nothing_else
    """What else follows from the number of all steps, the second argument, in the step of this number, counted from 0:
    by setting, such as the share of a curriculum."""
    check_longer: Callable[[TrainState, C, int], None] = _accept_longer
    """Raises ValueError, a clause, where a run of more steps would not pass through the state, of a run of so many."""
    between_steps: tuple[str, ...] = ()
    """The settings of what happens between steps, which change nothing that a step computes."""
    rehearse: Callable[[TrainState, D, Plan, C, bool], Iterator[Event]] | None = None
    """Steps that a budget in minutes times: those that `train.steps` names or, where the last argument is true, those
    that the method adds. None where the first steps of `run` will do."""

    # On what.
    corpora: tuple[type[D], ...] = ()
    """The classes of corpus that it learns from; any where there are none."""
    needs: str = ""
    """Why another corpus will not do, and what to set: follows `method NAME` in an error."""
    check: Callable[[C, D, ModelConfig, bool], None] = _accept
    """Raises PresetError, DataError or CheckpointError for what cannot be trained, before a run begins; the last
    argument is whether functions that the settings name may be imported and run."""
    check_scored: Callable[[C, D, int | None], None] = _accept_scored
    """The same for the tokens that `evaluate.tokens` leaves to score."""
    evaluate: Callable[[Trained[C], D, str, int | None], Values] = _evaluate
    """The values of an `eval` event on a split, or on about as many of its tokens as the last argument says."""
    final_split: Split = "validation"
    """The split that is scored when a run ends."""

    # From where.
    Kept: type[Any] = NothingKept
    """What it keeps in `TrainState.method_state`: a TypedDict of typing_extensions, which pydantic checks."""
    check_kept: Callable[[TrainState, D, Plan, C], None] = _accept_kept
    """Raises ValueError, a clause, for kept values and tensors of the right types that do not fit the run, such as a
    list that is not of one number per member; a stranger may have written them."""

    # With whom.
    ranks_share: Literal["nothing", "batch", "members"] = "nothing"
    """What ranks divide where several train together: all run the method, and rank 0 alone scores. `nothing` refuses
    more than one."""

    def budget(self, config: C, steps: int) -> int:
        """`train.steps` of a run of so many steps in all, which may be several for one; 0 where it names none."""
        further = self.num_steps(config, 0)
        each = self.num_steps(config, 1) - further
        return (steps - further) // each if each else 0


def check_resumed(method: Method[C, D], state: TrainState, corpus: D, plan: Plan, config: C, where: Path) -> None:
    """Raises CheckpointError where the state that a checkpoint at `where` holds is none that the method can go on from.

    Args:
        method: what goes on.
        state: restored from the checkpoint.
        corpus: of the run.
        plan: of the run.
        config: the method's settings.
        where: the checkpoint's folder, for the message.
    """
    try:
        unknown = sorted(state.method_state.keys() - method.Kept.__annotations__.keys())
        if unknown:
            raise ValueError(f"{cut(repr(unknown[0]))} is nothing that method {config.name} keeps")
        TypeAdapter(method.Kept).validate_json(json.dumps(state.method_state), strict=True)
        method.check_kept(state, corpus, plan, config)
    except ValidationError as error:
        problems = error.errors()
        why = f"{cut('.'.join(map(str, problems[0]['loc'])))} {reason(problems)}"
        raise CheckpointError(f"{where / 'state.json'}: damaged, {why}; train anew") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: cannot be resumed from, {error}; train anew") from None
