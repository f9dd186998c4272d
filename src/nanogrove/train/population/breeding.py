"""Breeding: members of a population copied over others, crossed and mutated, with their optimizer's moments.

Everything happens along the population axis of the stacked tensors; no model is taken apart. Randomness comes from
generators given by the caller.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nanogrove.train.state import TrainState

Crossover = Literal["layers", "interpolation", "spherical"]


def moments(state: TrainState) -> Iterator[Tensor]:
    """The optimizer's moments, each with the population axis, and their ages `[P]`."""
    for _, parameter in state.named_parameters():
        yield from (tensor for tensor in state.optimizer.state.get(parameter, {}).values() if tensor.dim())


@torch.no_grad()
def copy_members(state: TrainState, children: Sequence[int], parents: Sequence[int]) -> None:
    """Sets each child's weights and moments to its parent's, bit for bit.

    All are read before any is written, so a parent may itself be a child.
    """
    if not children:
        return
    for _, parameter in state.named_parameters():
        parameter[list(children)] = parameter[list(parents)]
    for moment in moments(state):
        moment[list(children)] = moment[list(parents)]


@torch.no_grad()
def forget(state: TrainState, members: Sequence[int]) -> None:
    """Resets members' moments to those of an optimizer that has not begun."""
    for moment in moments(state):
        moment[list(members)] = 0.0


@torch.no_grad()
def cross(
    state: TrainState, child: int, weights: dict[str, Tensor], kind: Crossover, generator: np.random.Generator
) -> None:
    """Mixes into a child, so far a copy of its first parent, the `weights` of a second one, `[…]` by name.

    `layers` takes each block, and each part outside the blocks, from either; `interpolation` draws one point of the
    straight line between them; `spherical` one of the arc, tensor by tensor (Shoemake 1985). Moments stay the first's.
    """
    share = generator.random()
    second: dict[str, bool] = {}
    for name, parameter in state.named_parameters():
        mine, other = parameter[child], weights[name]
        layer = ".".join(name.split(".")[: 2 if name.startswith("blocks.") else 1])
        if kind == "layers":
            if second.setdefault(layer, bool(generator.integers(2))):
                mine.copy_(other)
        elif kind == "interpolation":
            mine.lerp_(other, share)
        else:
            mine.copy_(_on_the_arc(mine, other, share))


def _on_the_arc(a: Tensor, b: Tensor, share: float) -> Tensor:
    lengths = (a.norm() * b.norm()).clamp(min=1e-30)
    angle = ((a * b).sum() / lengths).clamp(-1, 1).acos()
    if float(angle.sin()) < 1e-4:  # nearly parallel
        return a.lerp(b, share)
    mixed: Tensor = (a * ((1 - share) * angle).sin() + b * (share * angle).sin()) / angle.sin()
    return mixed


@torch.no_grad()
def mutate(state: TrainState, child: int, size: float, seed: int) -> None:
    """Adds to each of a member's tensors normal noise of `size` times its root mean square; a tensor of zeros stays."""
    device = state.model.embed.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    for _, parameter in state.named_parameters():
        mine = parameter[child]
        noise = torch.randn(mine.shape, generator=generator, device=device, dtype=mine.dtype)
        mine.add_(noise * (size * mine.square().mean().sqrt()))


@torch.no_grad()
def weight_distance(state: TrainState) -> float:
    """Mean distance of two members' weights over the mean length of one's."""
    squares: Tensor | float = 0.0
    lengths: Tensor | float = 0.0
    for parameter in state.model.parameters():
        rows = parameter.flatten(1)
        squares = squares + torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").double().square()
        lengths = lengths + rows.double().square().sum(1)
    return _mean_of_pairs(torch.as_tensor(squares).sqrt()) / float(torch.as_tensor(lengths).sqrt().nanmean())


def prediction_distance(probabilities: Tensor) -> float:
    """Mean total variation, 0 to 1, between two members' distributions `[P, N, V]` of the same N next tokens."""
    rows = probabilities.flatten(1).float()
    return _mean_of_pairs(torch.cdist(rows, rows, p=1)) / (2 * probabilities.shape[1])


def _mean_of_pairs(distances: Tensor) -> float:
    """Over `[P, P]`, without members that are no numbers."""
    pairs = torch.stack([distances[a, b] for a, b in combinations(range(len(distances)), 2)])
    return float(pairs.nanmean())
