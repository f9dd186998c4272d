"""Muon (Jordan 2024): a matrix moves along the nearest orthogonal matrix of its momentum, all its singular values 1.

Four odd polynomials of degree five, one after the other, bring singular values of .003 to 1 to between .8 and 1.2. Each
is the best there is for the interval on which the one before leaves the values (Polar Express, Amsel et al. 2025), and
`benchmarks/muon_polynomials.py` computes their coefficients. Lower values grow 290-fold, and zeros stay.

All matrices of one shape, of all layers and all members of a population, are orthogonalised as one batched product, and
fused maps (q, k and v; gate and value) part by part. Embeddings, head, norms and biases are left to AdamW. It differs
from `torch.optim.Muon` in that

- it works in the precision asked for: bfloat16 is a hundred times slower than float32 on CPUs that lack it;
- a matrix is divided by (Σσ⁸)^⅛, in training at most 13 % above its largest singular value, and free, as the first
  polynomial needs (XXᵀ)²; the Frobenius norm is up to three times that value, which takes one more polynomial;
- a matrix such as 128 x 512 is multiplied at the beginning and at the end alone: in between, XXᵀ is enough (Gram
  Newton-Schulz, Zhang, Amsel, Chen & Dao 2026). Products of 8 or 11 bits, bfloat16 and TF32, would make eigenvalues of
  XXᵀ negative, which then grow; so XXᵀ is computed anew for each polynomial there.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.model.members import equal_runs
from nanogrove.train.optim.update_rule import PerMember, Update, UpdateRule, UpdateSettings

POLYNOMIALS = (  # a, b, c of x → ax + bx³ + cx⁵
    (8.300667, -24.037546, 17.466135),
    (4.005857, -2.925287, 0.542360),
    (3.484015, -2.561413, 0.502365),
    (2.515337, -1.861526, 0.442535),
)
MARGIN = 1.02  # of squares: singular values may be rounded up by 1 %, and the first polynomial is steep beyond 1


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
    """The orthogonal factors of `matrices [N, rows, columns]`, roughly: singular values land in .8 to 1.2.

    Products are computed in `precision`. Values below .003 of the largest land lower, zeros stay zero.
    """
    x = matrices.to(precision)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    rows, columns = x.shape[-2:]
    x = F.pad(x, (0, -columns % 4, 0, -rows % 4))  # so that each product fills lines of the cache; zeros change nothing
    in_gram_space = columns > 1.5 * rows and x.device.type == "cpu" and precision != torch.bfloat16
    x = (_by_gram_matrix(x) if in_gram_space else _by_matrix(x))[:, :rows, :columns]
    return (x.mT if tall else x).to(matrices.dtype)


def _by_matrix(x: Tensor) -> Tensor:
    """Applies each polynomial to `x [N, rows, columns]` itself."""
    x = torch.bmm(_first_factor(torch.bmm(x, x.mT)), x)
    for coefficients in POLYNOMIALS[1:]:
        x = torch.bmm(_factor(torch.bmm(x, x.mT), coefficients), x)
    return x


def _by_gram_matrix(x: Tensor) -> Tensor:
    """Multiplies the factors of all polynomials, which commute, and then `x [N, rows, columns]` by their product."""
    gram = torch.bmm(x, x.mT)
    product = factor = _first_factor(gram)
    for coefficients in POLYNOMIALS[1:]:
        gram = torch.bmm(torch.bmm(gram, factor), factor)
        factor = _factor(gram, coefficients)
        product = torch.bmm(factor, product)
    return torch.bmm(product, x)


def _factor(gram: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """aI + bA + cA² of A = XXᵀ, `[N, rows, rows]`, by which a polynomial multiplies X."""
    a, b, c = coefficients
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


def _first_factor(gram: Tensor) -> Tensor:
    """The first polynomial's factor for X over its size, divided by that size, so that it multiplies X itself.

    Matrices of a Frobenius norm far below 1e-7 are divided by about 1e-7, so that they fade.
    """
    a, b, c = POLYNOMIALS[0]
    exact = gram.to(torch.promote_types(gram.dtype, torch.float32))  # terms of bfloat16 would cancel to a wrong sum
    norm = _norm(exact) + 1e-14
    exact = exact / norm  # before it is squared, as numbers of 1e-20 cannot be
    rounded = exact.to(gram.dtype)
    squared = torch.bmm(rounded, rounded).to(exact.dtype)
    top = MARGIN * _norm(squared).sqrt().clamp_min(1 / 16)
    size = (norm * top).sqrt()
    factor = (exact * (b / (top * size))).addcmul_(squared, c / (top**2 * size))
    factor.diagonal(dim1=-2, dim2=-1).add_(a / size[..., 0])
    return factor.to(gram.dtype)


def _norm(matrices: Tensor) -> Tensor:
    """Frobenius norms `[N, 1, 1]` of `[N, rows, columns]`, by row first, so that a matrix has the bits it has alone."""
    norms: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(matrices, dim=-1), dim=-1)
    return norms[:, None, None]


MUON = UpdateRule(moments=("momentum_buffer",), update=update, whole_matrices=True, others="adamw")
