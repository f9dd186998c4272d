"""An average of a model's weights along its training: exponential, or the plain mean of a tail of the steps.

    A(n) = A(n − 1) + max(1/n, 1 − d)·(w(n) − A(n − 1)),   d = 2^(−1 / half_life)

w(n) are the weights after the n-th step of a phase, and A(1) = w(1): a plain mean at first, which becomes exponential
once 1/n falls to 1 − d, so that the weights of the first steps have no more than their share. For a tail d is 1 and n
counts from where it begins: the mean of all weights after it (Polyak & Juditsky 1992; Izmailov 2018, arXiv 1803.05407,
takes that of every epoch). Until then the average is the latest weights.

What is scored, sampled and kept as the best model is the average; training goes on from the weights themselves. How
many steps count follows from the number of the step alone, so the tensors are all that a resumed run needs.
"""

from typing import Self

import torch
from pydantic import Field, model_validator

from nanogrove.model.gpt import GPT
from nanogrove.settings import Settings


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

    @property
    def least_share(self) -> float:
        """What the latest weights add to an exponential average, at least; 0 for a plain mean."""
        return 0.0 if self.half_life is None else 1 - 2 ** (-1 / self.half_life)

    def begins(self, start: int, end: int) -> int:
        """The step after which weights count, in a phase from `start` to `end`."""
        return start if self.tail is None else end - max(round(self.tail * (end - start)), 1)


NO_AVERAGE = AverageConfig()


class Average:
    """The average of the weights of `model`, itself a model that nothing trains: `average`."""

    def __init__(self, model: GPT, config: AverageConfig) -> None:
        self.config = config
        self.average = GPT(model.config, model.population).to(model.embed.weight.device).eval().requires_grad_(False)
        self.restart(model)

    def restart(self, model: GPT) -> None:
        """Forgets what was averaged: the average is the weights of `model`."""
        self.average.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: GPT, count: int) -> None:
        """Adds the weights of `model` after step number `count`, from 1, of those that count; the first replace all."""
        share = 1.0 if count < 2 else max(1 / count, self.config.least_share)
        torch._foreach_lerp_(list(self.average.parameters()), list(model.parameters()), share)
