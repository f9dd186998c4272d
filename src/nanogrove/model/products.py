"""Matrix products whose bits do not depend on how many there are.

A CPU's library picks its kernel for a small product by where the result lies in memory too, so the second of two
stacked products may be rounded in another way than the first. Here each result begins at a multiple of a cache line.
The products of the backward pass are those of `F.linear`: the gradient of b is gᵀa, not (aᵀg)ᵀ.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CACHE_LINE_FLOATS = 16  # float32 numbers


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """`a [N, m, k]` times `b [N, n, k]` transposed: `[N, m, n]`. Elsewhere than in float32 on a CPU, plain `torch.bmm`.

    So are products whose every side fills lines: torch's own are equal there.
    """
    plain = torch.compiler.is_compiling() or a.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    if plain or not any(size % CACHE_LINE_FLOATS for size in (*a.shape[1:], b.shape[1])):
        return torch.bmm(a, b.mT)
    return _TransposedProduct.apply(a, b)  # type: ignore[no-any-return, no-untyped-call]


class _TransposedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _bmm(a, b.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (a, b), (g,) = ctx.saved_tensors, (gradient.contiguous() for gradient in gradients)
        return _bmm(g, b), _bmm(g.mT, a)


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    """`torch.bmm`, each result of which begins a line of the cache."""
    count, rows, columns = len(a), a.shape[1], b.shape[2]
    size = rows * columns
    if size % CACHE_LINE_FLOATS == 0:
        return torch.bmm(a, b)
    result = a.new_empty(count, size + -size % CACHE_LINE_FLOATS)[:, :size].view(count, rows, columns)
    return torch.bmm(a, b, out=result).contiguous()  # what follows must not see where lines end
