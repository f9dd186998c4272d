"""What is minimised: one weighted next-token objective, `Σ mask·w·nll / Σ mask`.

The mask of a batch says which positions are scored: not padding nor prompts, and only the last where that alone is the
target. Its weight says how much each counts, as by a reward or an advantage.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.model.cross_entropy import Smoothing
from nanogrove.model.layers import total


class Loss(NamedTuple):
    """`total [*P]` is differentiated; `parts`, each `[*P]`, go to the record."""

    total: Tensor
    parts: dict[str, Tensor]


Objective = Callable[[nn.Module, Batch], Loss]


def count_scored(batch: Batch) -> Tensor:
    """How many positions of each member are scored, `[*P]`, at least 1."""
    return batch.mask.sum((-2, -1)).clamp(min=1)


def weighted(nll: Tensor, batch: Batch) -> Loss:
    """The weighted mean of the NLL `[*P, B, T]` per member, `[*P]`; members never mix."""
    return Loss(total(batch.mask * batch.weight * nll) / count_scored(batch), {})


def objective_from_nll(loss: Callable[[Tensor, Batch], Loss], smoothing: Smoothing = 0.0) -> Objective:
    """The objective that is a function of the targets' NLL `[*P, B, T]`, with label smoothing if asked for."""
    return lambda model, batch: loss(model(batch.tokens, batch.targets, smoothing), batch)


def next_token(model: nn.Module, batch: Batch) -> Loss:
    """The weighted mean NLL of the next token."""
    return weighted(model(batch.tokens, batch.targets), batch)
