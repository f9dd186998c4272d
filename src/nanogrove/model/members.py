"""Members of a population side by side: as one state dict, each by itself, and where consecutive ones are alike."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def stack(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """State dicts of single models, members of one configuration, as that of a population: `[…]` to `[P, …]`."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def unstack(state: dict[str, Tensor], member: int) -> dict[str, Tensor]:
    """The state dict of one member of a population: `[P, …]` to `[…]`, copied."""
    return {name: tensor[member].clone() for name, tensor in state.items()}


def equal_runs(values: Sequence[object]) -> list[tuple[int, int]]:
    """Where runs of equal values begin and stop, in order: members that one call of a kernel can serve."""
    firsts = [n for n in range(len(values)) if n == 0 or values[n] != values[n - 1]]
    return list(pairwise([*firsts, len(values)]))
