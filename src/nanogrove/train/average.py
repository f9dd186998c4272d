"""An average of what is trained along its training: exponential, or the plain mean of a tail of the steps.

    A(n) = A(n − 1) + max(1/n, 1 − d)·(w(n) − A(n − 1)),   d = 2^(−1 / half_life)

w(n) are the weights after the n-th step of a phase, and A(1) = w(1): a plain mean at first, which becomes exponential
once 1/n falls to 1 − d, so that the weights of the first steps have no more than their share. For a tail d is 1 and n
counts from where it begins: the mean of all weights after it (Polyak & Juditsky 1992; Izmailov 2018, arXiv 1803.05407,
takes that of every epoch). Until then the average is the latest weights.

What is scored, sampled and kept as the best model is the average; training goes on from the weights themselves. How
many steps count follows from the number of the step alone, so the tensors are all that a resumed run needs.

The average is that of every trained parameter: of the model, of the heads beside it, or, where adapters are trained, of
each A and each B. A model with adapters is W0 + s·mean(B)·mean(A) then, which is not the mean of the models, W0 +
s·mean(BA): they differ by s times the covariance of B and A along the steps, which is of second order in how far these
move meanwhile. The mean of the models is of a rank that grows with the steps, so no adapter holds it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.settings import Settings
from nanogrove.train.lora import Adapter
from nanogrove.train.weights import check_weights


class AverageConfig(Settings):
    """An average of the weights along training, which is scored and kept in their place; none where all is null."""

    half_life: float | None = Field(
        None, gt=0, le=1e9, description="exponential average: steps after which a step's weights count half; null: none"
    )
    tail: float | None = Field(
        None, gt=0, le=1, description="plain mean of the weights after the last share of each phase's steps; null: none"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.half_life is not None and self.tail is not None:
            raise ValueError("half_life and tail are two kinds of average; give one of them")
        return self

    @property
    def enabled(self) -> bool:
        """Whether there is an average."""
        return self.half_life is not None or self.tail is not None

    def described(self) -> str:
        """For a person: what is scored in place of the weights."""
        kind = f"half-life {self.half_life:g} steps" if self.tail is None else f"the last {self.tail:g} of the steps"
        return f"average of the weights, {kind}"

    @property
    def least_share(self) -> float:
        """What the latest weights add to an exponential average, at least; 0 for a plain mean."""
        return 0.0 if self.half_life is None else 1 - 2 ** (-1 / self.half_life)

    def begins(self, start: int, end: int) -> int:
        """The step after which weights count, in a phase from `start` to `end`."""
        return start if self.tail is None else end - max(round(self.tail * (end - start)), 1)


NO_AVERAGE = AverageConfig()


class Modules(NamedTuple):
    """A model, the heads that are trained beside it, and the adapters that are trained in place of its weights."""

    model: GPT
    heads: Heads | None = None
    adapter: Adapter | None = None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All trained parameters: the model's under their names, those of heads as in `heads.value.up.weight`.

        Of a model with adapters these, under names that begin as those of the weights that they adapt.
        """
        yield from (self.model if self.adapter is None else self.adapter).named_parameters()
        if self.heads is not None:
            yield from self.heads.named_parameters(prefix="heads")

    def apply_adapter(self) -> None:
        """Sets the weights that have adapters to what these make of them, once trained parameters have changed."""
        if self.adapter is not None:
            self.adapter.apply(self.model)


@dataclass
class Average:
    """The averages of what a state trains, in modules that nothing trains.

    Args:
        config: which average it is.
        modules: hold the averages; the model is what is scored.
        parameters: the averages by name, in the order of the state's trained parameters: those of `modules`, or of a
            sharded model this rank's shards.
        count: the steps whose weights count in them; 0 before the first.
    """

    config: AverageConfig
    modules: Modules
    parameters: dict[str, Tensor]
    count: int = 0

    @classmethod
    def of(cls, modules: Modules, config: AverageConfig) -> Self:
        """The average of `modules` before any step: what they hold, in modules of its own."""
        model = modules.model
        device = model.embed.weight.device
        twin = GPT(model.config, model.population).to(device).eval().requires_grad_(False)
        heads = modules.heads
        if heads is not None:
            settings = heads.config, model.config, model.population
            heads = Heads(*settings).to(device).eval().requires_grad_(False)
        adapter = None if modules.adapter is None else modules.adapter.twin(twin)
        copies = Modules(twin, heads, adapter)
        average = cls(config, copies, dict(copies.named_parameters()))
        average.restart(modules)
        return average

    @torch.no_grad()
    def restart(self, modules: Modules) -> None:
        """Forgets what was averaged: the averages are what `modules` hold."""
        self.modules.model.load_state_dict(modules.model.state_dict())
        for (_, average), (_, parameter) in zip(
            self.modules.named_parameters(), modules.named_parameters(), strict=True
        ):
            average.copy_(parameter)
        self.count = 0

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor], count: int) -> None:
        """Adds the trained parameters after step number `count`, from 1, of those that count; the first replace all."""
        share = 1.0 if count < 2 else max(1 / count, self.config.least_share)
        torch._foreach_lerp_(list(self.parameters.values()), list(parameters), share)
        self.modules.apply_adapter()
        self.count = max(count, 1)

    @torch.no_grad()
    def take(self, parameters: Mapping[str, Tensor], count: int) -> None:
        """Sets the averages to those of the same names in `parameters`, over so many steps."""
        for name, average in self.parameters.items():
            average.copy_(parameters[name])
        self.modules.apply_adapter()
        self.count = count

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs of it: all weights of the averaged model, and the averages that are not of these."""
        return {**self.parameters, **self.modules.model.state_dict()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], count: int, where: Path) -> None:
        """Takes what `tensors` gave, and the count. Raises CheckpointError, naming the file, for what does not fit."""
        present = self.tensors()
        check_weights(tensors, {name: tuple(tensor.shape) for name, tensor in present.items()}, where)
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
        self.count = count
