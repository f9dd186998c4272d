"""Muon (Jordan 2024): a matrix moves along the nearest orthogonal matrix of its momentum, roughly.

Three odd polynomials of degree nine, one after the other, take singular values in [.0022, 1] to [.72, 1.08]; each is
the best where the one before leaves the values (Polar Express, Amsel et al. 2025), the last times .9, the mean to which
Jordan's steps lead (`benchmarks/muon_polynomials.py`). A matrix is divided by (Σσ⁸)^⅛, at most 13 % above its largest
value in training. Of a matrix such as 128 x 512 only XXᵀ goes through the polynomials (Gram Newton-Schulz, Zhang et al.
2026). All that needs float32: bfloat16, and TF32 on GPUs, take Jordan's five steps as published. Matrices of one shape,
of all layers and members, are one product; fused maps (q, k and v) are treated part by part.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.model.members import equal_runs
from nanogrove.native import operators as native
from nanogrove.train.optim.update_rule import PerMember, Update, UpdateRule, UpdateSettings

POLYNOMIALS = (  # coefficients of x, x³, x⁵, x⁷ and x⁹
    (14.894910, -145.452019, 482.952251, -619.468504, 268.961812),
    (6.680502, -16.095999, 13.620387, -4.484336, 0.501135),
    (3.647460, -7.522816, 6.840589, -2.576570, 0.338057),
)
LINE = 16  # float32 numbers
MOST_NUMBERS = 1 << 18  # of a matrix that stays in a core's cache
MARGIN = 1.001  # of squares, for rounding: the first polynomial is steep beyond 1


def update(updates: Sequence[Update], settings: Sequence[UpdateSettings], precision: torch.dtype) -> None:
    """Orthogonalises all directions of one shape together, tall ones transposed, fused maps part by part."""
    by_shape: dict[torch.Size, list[tuple[Update, Tensor, Tensor]]] = defaultdict(list)
    for group in updates:
        for weight, direction in zip(group.weights, _directions(group, settings), strict=True):
            maps = (tensor.split_with_sizes(group.fused, -2) for tensor in (weight, direction))
            for matrix, towards in zip(*maps, strict=True):
                wide = towards.mT if _is_tall(matrix) else towards
                by_shape[wide.shape].append((group, matrix, wide))
    for shape, matrices in by_shape.items():
        together = torch.stack([wide for _, _, wide in matrices])
        together = orthogonalise(together.view(-1, *shape[-2:]), precision).view_as(together)
        for (group, matrix, _), direction in zip(matrices, together, strict=True):
            scale = max(1.0, matrix.shape[-2] / matrix.shape[-1]) ** 0.5
            direction = direction.mT if _is_tall(matrix) else direction
            apply_update_(matrix, direction, -scale * group.lr, group.lr * group.weight_decay)


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[-2] > matrix.shape[-1]


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
    """The orthogonal factors of `matrices [N, rows, columns]`, none tall, roughly, computed in `precision`."""
    rows, columns = matrices.shape[-2:]
    # A copy, filled up so that each product fills lines of the cache; zeros change nothing.
    x = F.pad(matrices.to(precision), (0, -columns % LINE, 0, -rows % LINE))
    few_bits = precision == torch.bfloat16 or x.device.type != "cpu"
    if not few_bits and x[0].numel() <= MOST_NUMBERS and native.usable(x):
        native.orthogonalise(x, torch.tensor(POLYNOMIALS, dtype=torch.float32), MARGIN)
    else:
        way = _by_jordans_steps if few_bits else _by_gram_matrix if columns > 1.5 * rows else _by_matrix
        x = way(x)
    return x[:, :rows, :columns].to(matrices.dtype)


def _by_jordans_steps(x: Tensor) -> Tensor:
    """Five steps of X ← aX + (bA + cA²)X with A = XXᵀ, which rounding to few bits does not harm."""
    x = x / (_norm(x) + 1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


def _by_matrix(x: Tensor) -> Tensor:
    """Applies each polynomial to `x [N, rows, columns]` itself."""
    x = torch.bmm(_first_factor(torch.bmm(x, x.mT)), x)
    for coefficients in POLYNOMIALS[1:]:
        gram = torch.bmm(x, x.mT)
        x = torch.bmm(_factor(gram, torch.bmm(gram, gram), coefficients), x)
    return x


def _by_gram_matrix(x: Tensor) -> Tensor:
    """Multiplies `x [N, rows, columns]` by the product of all polynomials' factors.

    What is squared next is F·XXᵀ·Fᵀ, that of FX, also where rounding leaves F and XXᵀ not quite commuting.
    """
    gram = torch.bmm(x, x.mT)
    product = factor = _first_factor(gram)
    for coefficients in POLYNOMIALS[1:]:
        gram = torch.bmm(torch.bmm(factor, gram), factor.mT)
        factor = _factor(gram, torch.bmm(gram, gram), coefficients)
        product = torch.bmm(factor, product)
    return torch.bmm(product, x)


def _factor(gram: Tensor, squared: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """aI + bA + cA² + dA³ + eA⁴ of A = XXᵀ and A², `[N, rows, rows]`, by which a polynomial multiplies X."""
    a, b, c, d, e = coefficients
    factor = torch.add(squared, gram, alpha=d / e)
    factor.diagonal(dim1=-2, dim2=-1).add_(c / e)
    factor = torch.baddbmm(gram, factor, squared, beta=b, alpha=e)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


def _first_factor(gram: Tensor) -> Tensor:
    """The first polynomial's factor for X over its size (if tiny, over about 1e-7), divided by it, to multiply X."""
    norm = _norm(gram) + 1e-14
    gram = gram / norm  # before it is squared, as numbers of 1e-20 cannot be
    squared = torch.bmm(gram, gram)
    top = MARGIN * _norm(squared).sqrt().clamp_min(1 / 16)
    return _factor(gram.div_(top), squared.div_(top**2), POLYNOMIALS[0]).div_((norm * top).sqrt())


def _norm(matrices: Tensor) -> Tensor:
    """Frobenius norms `[N, 1, 1]`, by row first, so that a matrix has the bits that it has alone."""
    norms: Tensor = matrices.norm(dim=-1).norm(dim=-1)
    return norms[:, None, None]


MUON = UpdateRule(moments=("momentum_buffer",), update=update, whole_matrices=True, others="adamw")
