"""Hyperparameters that may differ from member to member and change while a model trains, and how they vary.

`lr`, `weight_decay` and `dropout` are those of the preset, by the same names; `noise` is the size of a mutation over
the root mean square of the weights it falls on. With Muon, `adamw_lr` keeps its ratio to `lr`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from nanogrove.settings import Settings
from nanogrove.train.optim.update_rule import PerMember
from nanogrove.train.state import TrainState

Name = Literal["lr", "weight_decay", "dropout", "noise"]


class Range(Settings):
    """Where a hyperparameter may lie and how it moves: between `low` and `high` by factors, or along `values`."""

    low: float | None = Field(None, gt=0, description="least value")
    high: float | None = Field(None, gt=0, description="greatest value")
    values: list[float] | None = Field(
        None, min_length=1, description="instead of low and high: a list of values, explored one position at a time"
    )
    start: tuple[float, float] | None = Field(
        None, description="range of the first values; the whole range when left out"
    )
    factor: float = Field(1.25, ge=1, description="what a value is multiplied or divided by")
    resample: float = Field(0.0, ge=0, le=1, description="probability of a fresh draw instead")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.values is not None:
            if self.low is not None or self.high is not None or self.start is not None:
                raise ValueError("values are given, so low, high and start do not apply; leave them out")
            if any(value < 0 for value in self.values):
                raise ValueError(f"values must be numbers of 0 or more, and {self.values} were given")
            return self
        if self.low is None or self.high is None:
            raise ValueError("set low and high, or values")
        if self.low > self.high:
            raise ValueError(f"the bounds are reversed, low {self.low:g} and high {self.high:g}; swap them")
        if self.start and not self.low <= self.start[0] <= self.start[1] <= self.high:
            raise ValueError(f"start {list(self.start)} does not run up within {self.low:g} to {self.high:g}")
        return self

    @property
    def most(self) -> float:
        """The largest value there can be."""
        return max(self.values) if self.values is not None else self.high or 0.0

    def draw(self, generator: np.random.Generator, low: float | None = None, high: float | None = None) -> float:
        """A fresh value, even on a logarithmic scale."""
        if self.values is not None:
            return self.values[int(generator.integers(len(self.values)))]
        assert self.low is not None
        assert self.high is not None
        low, high = low or self.low, high or self.high
        return self._bounded(math.exp(generator.uniform(math.log(low), math.log(high))))

    def first(self, generator: np.random.Generator) -> float:
        """A value to begin with."""
        return self.draw(generator, *(self.start or (None, None)))

    def explore(self, value: float, generator: np.random.Generator) -> float:
        """A neighbour of `value`: a factor up or down, or one position along the list; or, rarely, a fresh draw."""
        if generator.random() < self.resample:
            return self.draw(generator)
        up = bool(generator.integers(2))
        if self.values is None:
            return self._bounded(value * self.factor if up else value / self.factor)
        index = min(range(len(self.values)), key=lambda i: abs(self.values[i] - value))  # type: ignore[index]
        return self.values[min(max(index + (1 if up else -1), 0), len(self.values) - 1)]

    def _bounded(self, value: float) -> float:
        assert self.low is not None
        assert self.high is not None
        return min(max(value, self.low), self.high)


def set_hyperparameters(state: TrainState, values: Mapping[str, float | Sequence[float]]) -> PerMember:
    """Sets weight decay and dropout, for all members or by member; returns the factor of the learning rate.

    The factor is a tensor `[P]` wherever values are lists, float64, so that the record shows what was set.
    """
    device = state.model.embed.weight.device

    def typed(value: float | Sequence[float]) -> PerMember:
        single = isinstance(value, (int, float))
        return float(value) if single else torch.tensor(value, dtype=torch.float64, device=device)  # type: ignore[arg-type]

    if "weight_decay" in values:
        state.optimizer.set_decay(typed(values["weight_decay"]))
    if "dropout" in values:
        state.model.dropout.share = typed(values["dropout"])
    config = state.optimizer.config
    return typed(values["lr"]) / config.lr if "lr" in values else 1.0
