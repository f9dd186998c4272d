"""Muon (Jordan 2024): a matrix moves along the nearest orthogonal matrix of its momentum.

Five Newton-Schulz steps find that matrix. Embeddings, head, norms and biases are left to AdamW. Here all matrices of
one shape, of all layers and all members of a population, are orthogonalised as one batched product, and fused maps (q,
k and v; gate and value) part by part. It differs from `torch.optim.Muon` in that it works in the precision asked for:
bfloat16 is a hundred times slower than float32 on CPUs that lack it.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.model.members import equal_runs
from nanogrove.train.optim.update_rule import PerMember, Update, UpdateRule, UpdateSettings


def update(updates: Sequence[Update], settings: Sequence[UpdateSettings], precision: torch.dtype) -> None:
    """Orthogonalises all directions of one shape together, fused maps part by part, and applies them."""
    by_shape: dict[torch.Size, list[tuple[Update, Tensor, Tensor]]] = defaultdict(list)
    for group in updates:
        for weight, direction in zip(group.weights, _directions(group, settings), strict=True):
            maps = (tensor.split_with_sizes(group.fused, -2) for tensor in (weight, direction))
            for matrix, towards in zip(*maps, strict=True):
                by_shape[matrix.shape].append((group, matrix, towards))
    for shape, matrices in by_shape.items():
        together = torch.stack([towards for _, _, towards in matrices])
        together = orthogonalise(together.view(-1, *shape[-2:]), precision).view_as(together)
        scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
        for (group, matrix, _), direction in zip(matrices, together, strict=True):
            apply_update_(matrix, direction, -scale * group.lr, group.lr * group.weight_decay)


def _directions(update: Update, settings: Sequence[UpdateSettings]) -> list[Tensor]:
    """Nesterov momentum of each gradient; the moments move, the gradients become the directions."""
    momenta = [each.momentum for each in settings]
    runs = [(0, update.members)] if len(momenta) == 1 else equal_runs(momenta)
    for part, (first, _) in zip(update.split([stop - first for first, stop in runs]), runs, strict=True):
        (buffers,) = part.moments
        torch._foreach_lerp_(buffers, part.gradients, 1 - momenta[first])
        torch._foreach_lerp_(part.gradients, buffers, momenta[first])
    return update.gradients


def apply_update_(weight: Tensor, direction: Tensor, length: PerMember, decay: PerMember) -> None:
    """`weight ← (1 − decay)·weight + length·direction` in place, each `[*P, …]`; rates are float64 until then."""
    if isinstance(length, Tensor) or isinstance(decay, Tensor):
        axes = [-1, *[1] * (weight.dim() - 1)]
        length, kept = (torch.as_tensor(x, dtype=torch.float64).to(weight).view(axes) for x in (length, 1 - decay))
        weight.mul_(kept).addcmul_(direction, length)
    else:
        weight.mul_(1 - decay).add_(direction, alpha=length)


def orthogonalise(matrices: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """The orthogonal factors of `matrices [N, rows, columns]`, roughly: singular values land in about .7 to 1.2.

    Five steps of X ← aX + (bA + cA²)X with A = XXᵀ and the coefficients of Jordan 2024, in `precision`.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(precision)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    rows, columns = x.shape[-2:]
    x = F.pad(x, (0, -columns % 4, 0, -rows % 4))  # so that each product fills lines of the cache; zeros change nothing
    x = x / (x.norm(dim=-1).norm(dim=-1)[:, None, None] + 1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x[:, :rows, :columns]
    return (x.mT if tall else x).to(matrices.dtype)


MUON = UpdateRule(moments=("momentum_buffer",), update=update, whole_matrices=True, others="adamw")
