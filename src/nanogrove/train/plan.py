"""What a method needs to know to train: resolved numbers, with no choice left open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self, TypeVar

import torch

from nanogrove.train.average import NO_AVERAGE, AverageConfig
from nanogrove.train.optim.update_rule import PerMember
from nanogrove.train.parallel.layout import REPLICATED, Layout
from nanogrove.train.parallel.ranks import ALONE, Ranks
from nanogrove.train.precision import Precision

Row = TypeVar("Row")


class RowReader(Protocol):
    """Reads the rows of `data` events back, as a run folder does."""

    def read_rows(self, name: str, kind: type[Row], check: Callable[[Row], None], count: int | None) -> list[Row]:
        """The rows of the `data` event of this name, each of which is a `kind`, a TypedDict of typing_extensions.

        Raises RunError where `check` raises ValueError or DataError for one, and where there are not `count` of them.
        """


class _NoRows:
    def read_rows(self, name: str, kind: type[Row], check: Callable[[Row], None], count: int | None) -> list[Row]:
        return []


NO_ROWS = _NoRows()


class Span(NamedTuple):
    """The steps of a phase: from `start` to before `end`, at the rates of a schedule of their own times `scale`."""

    name: str
    start: int
    end: int
    scale: float = 1.0


@dataclass(frozen=True)
class Plan:
    """All that is resolved of a run, or of a phase of it, besides state, data and the method's settings."""

    seed: int
    steps: int
    lr_factor: Callable[[int], PerMember]  # step -> factor of every base learning rate, for all members or `[P]`
    schedule: Callable[[int, int], Callable[[int], float]] = lambda end, start: lambda step: 1.0  # of start to end
    average: AverageConfig = NO_AVERAGE
    average_from: int = 0  # the step after which weights count in their average
    rows: RowReader = NO_ROWS
    accumulation: int = 1
    clip: float | None = 1.0
    precision: Precision = "float32"
    compile: bool = False
    max_loss: float = torch.inf  # a loss above this stops the run
    allow_code: bool = False  # whether functions a preset names may be imported and run
    tolerate_diverged_members: bool = False  # a population stops only if all members diverge
    evaluate_every: int = 250
    evaluate_early: bool = False  # also after step 1, 2, 4, 8, …
    evaluate_tokens: int | None = None  # all of the split when None
    ranks: Ranks = ALONE  # the processes that train together, of which this is one
    layout: Layout = REPLICATED  # the state on each rank: whole, by member or sharded
    sharded: bool = False  # whether ranks hold shards of the model, whose gradients come summed
    first_member: int = 0  # the number of the first member here, of a population that ranks share
    member_seeds: Sequence[int] = ()  # of members that are runs of their own, in place of `seed`; each is its member 0
    num_members_across_ranks: int | None = None  # of a population that ranks share; else they share rows of a batch

    def evaluates(self, step: int) -> bool:
        """Whether the model is to be scored after `step`."""
        early = self.evaluate_early and step & (step - 1) == 0
        return early or step % self.evaluate_every == 0 or step == self.steps

    def phase(self, start: int, end: int, scale: float = 1.0) -> Self:
        """The steps from `start` to `end` under a schedule of their own, multiplied by `scale`."""
        factor, begins = self.schedule(max(end, start + 1), start), self.average.begins(start, end)
        return replace(self, steps=end, lr_factor=lambda step: scale * factor(step), average_from=begins)

    def until(self, end: int, scale: PerMember = 1.0) -> Self:
        """The steps to `end` under the plan's own schedule, multiplied by `scale`, for all members or `[P]`."""
        return replace(self, steps=end, lr_factor=lambda step: scale * self.lr_factor(step))
