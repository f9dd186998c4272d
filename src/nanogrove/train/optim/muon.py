"""Muon (Jordan 2024): a matrix moves along the nearest orthogonal matrix of its momentum, roughly.

Four odd polynomials of degree five, one after the other, take singular values in [.0025, 1] to [.67, 1.13]. Each is the
best there is where the one before leaves the values (Polar Express, Amsel et al. 2025), the last times .9, the mean to
which Jordan's five steps lead (`benchmarks/muon_polynomials.py`). All matrices of one shape, of all layers and members,
are one batched product; fused maps (q, k and v) are treated part by part. AdamW updates the rest. It differs from
`torch.optim.Muon` in that

- it works in the precision asked for: bfloat16 is a hundred times slower than float32 on CPUs that lack it;
- a matrix is divided by (Σσ⁸)^⅛, in training at most 13 % above its largest singular value, and free, as the first
  polynomial needs (XXᵀ)²; the Frobenius norm is up to three times that value, which takes one more polynomial;
- of a matrix such as 128 x 512, only XXᵀ goes through the polynomials (Gram Newton-Schulz, Zhang, Amsel, Chen & Dao
  2026), unless products are of 8 or 11 bits, in bfloat16 and TF32: eigenvalues that rounding makes negative would grow.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.model.members import equal_runs
from nanogrove.train.optim.update_rule import PerMember, Update, UpdateRule, UpdateSettings

POLYNOMIALS = (  # a, b, c of x → ax + bx³ + cx⁵
    (8.321958, -24.119950, 17.530392),
    (4.038903, -2.947852, 0.544847),
    (3.581888, -2.630861, 0.509978),
    (2.379370, -1.771425, 0.408610),
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
    """The orthogonal factors of `matrices [N, rows, columns]`, roughly, computed in `precision`."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(precision)
    rows, columns = x.shape[-2:]
    x = F.pad(x, (0, -columns % 4, 0, -rows % 4))  # so that each product fills lines of the cache; zeros change nothing
    exact = x.device.type == "cpu" and precision != torch.bfloat16
    x = (_by_gram_matrix(x) if exact and columns > 1.5 * rows else _by_matrix(x))[:, :rows, :columns]
    return (x.mT if tall else x).to(matrices.dtype)


def _by_matrix(x: Tensor) -> Tensor:
    """Applies each polynomial to `x [N, rows, columns]` itself."""
    x = torch.bmm(_first_factor(torch.bmm(x, x.mT)), x)
    for coefficients in POLYNOMIALS[1:]:
        x = torch.bmm(_factor(torch.bmm(x, x.mT), coefficients), x)
    return x


def _by_gram_matrix(x: Tensor) -> Tensor:
    """Multiplies `x [N, rows, columns]` by the product of all polynomials' factors, which commute."""
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
    """The first polynomial's factor for X over its size (if tiny, over about 1e-7), divided by it, to multiply X."""
    a, b, c = POLYNOMIALS[0]
    exact = gram.to(torch.promote_types(gram.dtype, torch.float32))  # terms of bfloat16 would cancel to a wrong sum
    norm = _norm(exact) + 1e-14
    exact = exact / norm  # before it is squared, as numbers of 1e-20 cannot be
    squared = torch.bmm(exact.to(gram.dtype), exact.to(gram.dtype)).to(exact.dtype)
    top = MARGIN * _norm(squared).sqrt().clamp_min(1 / 16)
    size = (norm * top).sqrt()
    factor = (exact * (b / (top * size))).addcmul_(squared, c / (top**2 * size))
    factor.diagonal(dim1=-2, dim2=-1).add_(a / size[..., 0])
    return factor.to(gram.dtype)


def _norm(matrices: Tensor) -> Tensor:
    """Frobenius norms `[N, 1, 1]`, by row first, so that a matrix has the bits that it has alone."""
    norms: Tensor = matrices.norm(dim=-1).norm(dim=-1)
    return norms[:, None, None]


MUON = UpdateRule(moments=("momentum_buffer",), update=update, whole_matrices=True, others="adamw")
