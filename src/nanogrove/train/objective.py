"""What is minimised: one weighted next-token objective, `Σ w·nll / #(w ≠ 0)`.

Padding, prompts that are not scored, last-token targets, rewards and advantages are all weights of a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.model.layers import total


class Loss(NamedTuple):
    """`total [*P]` is differentiated; `parts`, each `[*P]`, go to the record."""

    total: Tensor
    parts: dict[str, Tensor]


Objective = Callable[[nn.Module, Batch], Loss]


def scored(batch: Batch) -> Tensor:
    """How many tokens of each member count, `[*P]`, at least 1."""
    return (batch.weight != 0).sum((-2, -1)).clamp(min=1)


def weighted(nll: Tensor, batch: Batch) -> Loss:
    """The weighted mean of the NLL `[*P, B, T]`, a member at a time; members never mix."""
    return Loss(total(batch.weight * nll) / scored(batch), {})


def next_token(model: nn.Module, batch: Batch) -> Loss:
    """The weighted mean NLL of the next token."""
    return weighted(model(batch.tokens, batch.targets), batch)
