"""Weights in the order that oneDNN's kernels want them, for as long as something is decoded.

Decoding reads every weight for a handful of rows, so it runs at the speed of memory; this order is read twice as fast,
and in bfloat16 there is half as much to read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.model.processor import packing_missing
from nanogrove.native import library
from nanogrove.native.program import Activation, Panels, panels


class Reordered(NamedTuple):
    """Weights for products alone, whose operands and results are rounded to `dtype`."""

    weight: Tensor  # in oneDNN's own order where that can be had
    dtype: torch.dtype

    def product(self, x: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
        """`[…, n]` of `x [*P, …, k]`, plus `bias [*P, n]`, the activation applied; in the format of `x`."""
        rows = x.to(self.dtype).to(self.weight.dtype)
        offset = None if bias is None else bias.to(self.dtype).to(self.weight.dtype)
        if self.weight.is_mkldnn:
            after = "gelu" if activation == "gelu" else "none"
            product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, offset, after, [], "tanh")
        else:
            product = F.linear(rows, self.weight, offset)
            product = F.gelu(product, approximate="tanh") if activation == "gelu" else product
        return product.to(self.dtype).to(x.dtype)


class Packable(nn.Module):
    """A module whose `weight [*P, n_out, n_in]` is multiplied from a packed copy where there is one."""

    weight: nn.Parameter
    panels: Panels | None = None
    reordered: Reordered | None = None

    @property
    def packed(self) -> Panels | Reordered | None:
        """The copy, whichever it is."""
        return self.panels or self.reordered


@contextmanager
def packed_weights(model: nn.Module, rows: int, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Within, products of about `rows` rows read the weights of `model` from a packed copy.

    It is made for weights in float32 on a CPU; elsewhere nothing changes, nor for a population where there are no C
    kernels. The weights must not change within.
    """
    maps = [module for module in model.modules() if isinstance(module, Packable)]
    try:
        for module in maps:
            weight = module.weight.detach()
            if (weight.device.type, weight.dtype) != ("cpu", torch.float32):
                continue
            if library.missing() is None:
                module.panels = panels(weight, dtype)
            elif weight.dim() == 2:
                module.reordered = _reordered(weight, rows, dtype)
        yield
    finally:
        for module in maps:
            module.panels = module.reordered = None


def _reordered(weight: Tensor, rows: int, dtype: torch.dtype) -> Reordered | None:
    """A float32 weight for products in `dtype`; None where the weight itself is as good.

    Where oneDNN refuses bfloat16 the rounded weight stays in float32: equal operands, and sums in float32 as in its
    kernels, so that the format asked for is the one that is had.
    """
    held = torch.float32 if packing_missing(dtype) else dtype
    rounded = weight.to(dtype).to(held)
    if not packing_missing(held):
        return Reordered(torch.ops.mkldnn._reorder_linear_weight(rounded, rows), dtype)
    return None if dtype == torch.float32 else Reordered(rounded, dtype)
