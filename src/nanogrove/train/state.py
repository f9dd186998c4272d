"""The training state: the only mutable thing, and its optimizer's moments as named tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.record.events import Event, Values
from nanogrove.train.average import Average, Modules
from nanogrove.train.lora import Adapter
from nanogrove.train.optim.optimizer import Optimizer
from nanogrove.train.optim.rules import RULES


@dataclass
class TrainState:
    """Everything a step changes. `seconds` is time spent training, over all sessions of a run.

    `method_state` (JSON) and `method_tensors` are what the method must know to go on from a checkpoint.
    """

    model: GPT
    optimizer: Optimizer
    step: int = 0
    tokens: int = 0
    round: int = 0  # generation, or self-improvement round
    seconds: float = 0.0
    method_state: Values = field(default_factory=dict)
    method_tensors: dict[str, Tensor] = field(default_factory=dict)
    heads: Heads | None = None  # trained beside the model
    adapter: Adapter | None = None  # trained in place of the model's weights
    average: Average | None = None  # of all that is trained, scored in its place
    ensemble: int = 0  # members, the first ones, that are trained and predict together; 0 where each is by itself
    student: "TrainState | None" = None  # a single model that learns from this state's, with checkpoints of its own

    @property
    def modules(self) -> Modules:
        """What is trained."""
        return Modules(self.model, self.heads, self.adapter)

    @property
    def scored_modules(self) -> Modules:
        """What is scored, sampled and kept as the best: the averages where there are any."""
        return self.modules if self.average is None else self.average.modules

    @property
    def scored(self) -> GPT:
        """The model of these."""
        return self.scored_modules.model

    @property
    def averaged(self) -> Values:
        """Which weights an event was measured on: `averaged` steps count in them, one where the latest are meant.

        Nothing where no average is asked for.
        """
        return {} if self.average is None else {"averaged": max(self.average.count, 1)}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All trained parameters by the names of `Modules`."""
        yield from self.modules.named_parameters()

    def begin_from(self, weights: Mapping[str, Tensor]) -> None:
        """Sets the model's weights to those of another one, from which training begins; an average begins there too.

        Those of a single model are each member's.
        """
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(weights[name])
        self.restart_average()

    def restart_average(self) -> None:
        """Forgets what was averaged, where there is an average."""
        if self.average is not None:
            self.average.restart(self.modules)

    def eval_event(self, values: Mapping[str, object]) -> Event:
        """The `eval` event of values measured on `scored`."""
        values = {**values, **self.averaged, "seen": self.tokens}
        return Event("eval", self.step, values, {"seconds": self.seconds})

    def take_gradients(self) -> None:
        """Turns the gradients of adapted weights into those of adapters, where there are any."""
        if self.adapter is not None:
            self.adapter.take_gradients(self.model)

    def apply_adapter(self) -> None:
        """Sets the weights that have adapters to what these make of them, once trained parameters have changed."""
        self.modules.apply_adapter()

    def all_parameters(self) -> list[Tensor]:
        """Every tensor of weights, trained or not."""
        adapted = [] if self.adapter is None else [*self.model.parameters(), *self.adapter.base.values()]
        averages = [] if self.average is None else list(self.average.tensors().values())
        trained = (parameter for _, parameter in self.named_parameters())
        return [tensor.data for tensor in (*trained, *adapted, *averages)]

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters that have one, in the order of the parameters."""
        return [p.grad for _, p in self.named_parameters() if p.grad is not None]


def optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    """The optimizer's moments by parameter and name, as in `blocks.0.mlp.up.weight/exp_avg`."""
    moments = state.optimizer.state
    return {
        f"{name}/{key}": value
        for name, parameter in state.named_parameters()
        for key, value in moments.get(parameter, {}).items()
    }


def load_optimizer_tensors(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Sets the moments from such a dict. Copies, so that every tensor has the alignment that torch gives new ones.

    Raises ValueError as `check_moments` does.
    """
    check_moments(state, tensors)
    parameters = dict(state.named_parameters())
    state.optimizer.state.clear()
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        state.optimizer.state[parameter][moment] = value.to(parameter.device).clone()


def check_moments(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError for the moments of a parameter that the model lacks, or of another shape, name or type."""
    parameters = dict(state.named_parameters())
    known = {"step", *(name for group in state.optimizer.groups for name in RULES[group.rule].moments)}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"{key} is of no parameter")
        parameter = parameters[name]
        if moment not in known or value.dtype != torch.float32:
            raise ValueError(f"{key} is not one of its moments")
        by_member = moment == "step" and value.dim() == 1 and value.shape == parameter.shape[:1]
        if value.dim() and value.shape != parameter.shape and not by_member:
            raise ValueError(f"{key} is {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")
