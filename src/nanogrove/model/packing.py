"""Weights in the order that oneDNN's kernels want them, for as long as something is decoded.

Decoding reads every weight for a handful of rows, so it runs at the speed of memory; this order is read twice as fast,
and in bfloat16 there is half as much to read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.model.processor import packing_missing


class Packed(NamedTuple):
    """Weights for products alone, whose operands and results are rounded to `dtype`."""

    weight: Tensor  # in oneDNN's own order where that can be had
    dtype: torch.dtype


class Packable(nn.Module):
    """A module whose `weight [*P, n_out, n_in]` is multiplied from a packed copy where there is one."""

    weight: nn.Parameter
    packed: Packed | None = None


def packed_product(x: Tensor, packed: Packed, bias: Tensor | None, activation: Literal["none", "gelu"]) -> Tensor:
    """`linear` of packed weights; the result has the format of `x`. The activation is in its tanh form."""
    weight, dtype = packed
    rows = x.to(dtype).to(weight.dtype)
    offset = None if bias is None else bias.to(dtype).to(weight.dtype)
    if weight.is_mkldnn:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, offset, activation, [], "tanh")
    else:
        product = F.linear(rows, weight, offset)
        product = F.gelu(product, approximate="tanh") if activation == "gelu" else product
    return product.to(dtype).to(x.dtype)


@contextmanager
def packed_weights(model: nn.Module, rows: int, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Within, products of about `rows` rows read the weights of `model` from a packed copy.

    It is made for single models in float32 on a CPU; elsewhere, and for a population, nothing changes. The weights must
    not change within.
    """
    maps = [module for module in model.modules() if isinstance(module, Packable)]
    try:
        for module in maps:
            weight = module.weight.detach()
            if (weight.device.type, weight.dtype, weight.dim()) == ("cpu", torch.float32, 2):
                module.packed = _packed(weight, rows, dtype)
        yield
    finally:
        for module in maps:
            module.packed = None


def _packed(weight: Tensor, rows: int, dtype: torch.dtype) -> Packed | None:
    """A float32 weight packed for products in `dtype`; None where the weight itself is as good.

    Where oneDNN refuses bfloat16 the rounded weight stays in float32: equal operands, and sums in float32 as in its
    kernels, so that the format asked for is the one that is had.
    """
    held = torch.float32 if packing_missing(dtype) else dtype
    rounded = weight.to(dtype).to(held)
    if not packing_missing(held):
        return Packed(torch.ops.mkldnn._reorder_linear_weight(rounded, rows), dtype)
    return None if dtype == torch.float32 else Packed(rounded, dtype)
