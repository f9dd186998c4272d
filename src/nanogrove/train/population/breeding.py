"""Breeding: members of a population copied over others, crossed and mutated, with their optimizer's moments.

Everything happens along the population axis of the stacked tensors. The caller gives generators or seeds.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nanogrove.data.corpus import Corpus
from nanogrove.model.gpt import MAX_LOGITS_PER_CHUNK
from nanogrove.model.mode import evaluating
from nanogrove.train.state import TrainState

COMPARED_TOKENS = 256  # on which predictions are compared, about
Crossover = Literal["layers", "interpolation", "spherical"]


def moments(state: TrainState) -> Iterator[Tensor]:
    """The optimizer's moments, each with the population axis, and their step counts `[P]`."""
    for _, parameter in state.named_parameters():
        yield from (tensor for tensor in state.optimizer.state.get(parameter, {}).values() if tensor.dim())


def bred(state: TrainState) -> list[dict[str, Tensor]]:
    """What is bred alike, by name and member: the trained parameters, and their averages where there are any."""
    averages = [] if state.average is None else [state.average.parameters]
    return [dict(state.named_parameters()), *averages]


@torch.no_grad()
def copy_members(state: TrainState, children: Sequence[int], parents: Sequence[int]) -> None:
    """Sets each child's weights, their average and moments to its parent's, bit for bit.

    All are read before any is written, so a parent may itself be a child.
    """
    if not children:
        return
    for parameters in bred(state):
        for parameter in parameters.values():
            parameter[list(children)] = parameter[list(parents)]
    for moment in moments(state):
        moment[list(children)] = moment[list(parents)]


@torch.no_grad()
def reset_moments(state: TrainState, members: Sequence[int]) -> None:
    """Resets members' moments to those of an optimizer that has not begun."""
    for moment in moments(state):
        moment[list(members)] = 0.0


@torch.no_grad()
def crossover(
    state: TrainState, child: int, other: list[dict[str, Tensor]], kind: Crossover, generator: np.random.Generator
) -> None:
    """Mixes what is `bred` of a second parent, `[…]` by name, into a child that is a copy of the first.

    `layers` takes each block, and each part outside the blocks, from either; `interpolation` draws one point of the
    straight line between them; `spherical` one of the arc, tensor by tensor (Shoemake 1985). Averages are mixed in the
    same shares as weights. Moments stay those of the first.
    """
    share = generator.random()
    second: dict[str, bool] = {}
    for parameters, others in zip(bred(state), other, strict=True):
        for name, parameter in parameters.items():
            weight = parameter[child]
            layer = ".".join(name.split(".")[: 2 if name.startswith("blocks.") else 1])
            if kind == "layers":
                if second.setdefault(layer, bool(generator.integers(2))):
                    weight.copy_(others[name])
            elif kind == "interpolation":
                weight.lerp_(others[name], share)
            else:
                weight.copy_(slerp(weight, others[name], share))


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point at `share` of the arc from `a` to `b`; of the straight line where they are nearly parallel."""
    lengths = (a.norm() * b.norm()).clamp(min=1e-30)
    angle = ((a * b).sum() / lengths).clamp(-1, 1).acos()
    if float(angle.sin()) < 1e-4:
        return a.lerp(b, share)
    mixed: Tensor = (a * ((1 - share) * angle).sin() + b * (share * angle).sin()) / angle.sin()
    return mixed


@torch.no_grad()
def mutate(state: TrainState, child: int, size: float, seed: int) -> None:
    """Adds normal noise of `size` times its root mean square to each tensor of a member; a tensor of zeros stays.

    An average gets the noise of its weights.
    """
    device = state.model.embed.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in state.named_parameters():
        noise = noise_of(parameter[child], size, generator)
        for parameters in bred(state):
            parameters[name][child].add_(noise)


def noise_of(weight: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Normal noise of `size` times the root mean square of a tensor."""
    noise = torch.randn(weight.shape, generator=generator, device=weight.device, dtype=weight.dtype)
    return noise * (size * weight.square().mean().sqrt())


@torch.no_grad()
def weight_distance(state: TrainState) -> float:
    """The mean distance between the weights of two members, over the mean norm of the weights of one."""
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
    """The mean over pairs of `[P, P]`, without members that are NaN."""
    pairs = torch.stack([distances[a, b] for a, b in combinations(range(len(distances)), 2)])
    return float(pairs.nanmean())


@torch.inference_mode()
def diversity(state: TrainState, corpus: Corpus) -> dict[str, float]:
    """How far members are apart on average, in weights and in what they predict on about `COMPARED_TOKENS` tokens."""
    model, members = state.model, state.model.population or 1
    batch = next(corpus.eval_batches("validation", COMPARED_TOKENS)).to(model.embed.weight.device)
    # The distributions of all members must fit in memory.
    positions = min(COMPARED_TOKENS, MAX_LOGITS_PER_CHUNK // (members * (model.config.vocab_size or 1)))
    rows = max(positions // batch.tokens.shape[-1], 1)
    shown = batch.split(-(-len(batch.tokens) // rows))[0].expand(model.population)
    with evaluating(model):
        probabilities = model(shown.tokens).softmax(-1).flatten(1, -2)
    scored = shown.mask[0].flatten()
    return {"weights": weight_distance(state), "predictions": prediction_distance(probabilities[:, scored])}
