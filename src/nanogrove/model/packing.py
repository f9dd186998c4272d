"""Weights in the order that kernels want them, for as long as something is decoded.

Decoding reads every weight for a handful of rows, so it runs at the speed of memory; these orders are read in one
stream, and in bfloat16 and int8 there is half or a quarter as much to read. The kernels are those of the C library,
which multiply in float32 whatever the weights' format, or oneDNN's where there is none.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.model.processor import packing_missing
from nanogrove.native import library
from nanogrove.native.library import Activation
from nanogrove.native.program import Panels, in_int8, panels


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


class Packing:
    """Packed copies of the weights of modules, which their products read while these are `installed`.

    They are made of weights in float32 on a CPU; elsewhere there are none, nor for a population where there are no C
    kernels.

    Args:
        modules: each with about how many rows its products have.
        dtype: what weights are rounded to.
    """

    def __init__(self, modules: Sequence[tuple[nn.Module, int]], dtype: torch.dtype = torch.float32) -> None:
        # Attributes are set by their dictionaries: `nn.Module` takes long to find out that these are no parameters.
        self._copies: list[tuple[dict[str, object], dict[str, object]]] = []
        for model, rows in modules:
            for module in model.modules():
                if isinstance(module, Packable) and (copy := _copy(module.weight.detach(), rows, dtype)) is not None:
                    self._copies.append((vars(module), copy))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, products read the copies; afterwards what they read before. The weights must not change within."""
        before = [(values.get("panels"), values.get("reordered")) for values, _ in self._copies]
        try:
            for values, copy in self._copies:
                values.update(copy)
            yield
        finally:
            for (values, _), (of_kernels, of_onednn) in zip(self._copies, before, strict=True):
                values["panels"], values["reordered"] = of_kernels, of_onednn


@contextmanager
def packed_weights(model: nn.Module, rows: int, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Within, products of about `rows` rows read the weights of `model` from a packed copy, as `Packing` makes it."""
    with Packing([(model, rows)], dtype).installed():
        yield


def _copy(weight: Tensor, rows: int, dtype: torch.dtype) -> dict[str, object] | None:
    """What a `Packable` of this weight is to read, by the names of its attributes; None where nothing can be packed."""
    if (weight.device.type, weight.dtype) != ("cpu", torch.float32):
        return None
    if library.missing() is None:
        return {"panels": panels(weight, dtype), "reordered": None}
    return {"panels": None, "reordered": _reordered(weight, rows, dtype)} if weight.dim() == 2 else None


def _reordered(weight: Tensor, rows: int, dtype: torch.dtype) -> Reordered:
    """A float32 weight for products in `dtype`.

    Where oneDNN refuses bfloat16, and in int8, the rounded weight stays in float32: equal operands, and sums in float32
    as in the kernels, so that the format asked for is the one that is had.
    """
    if dtype == torch.int8:
        whole, scale = in_int8(weight)
        weight, dtype = whole * scale[:, None], torch.float32
    held = torch.float32 if packing_missing(dtype) else dtype
    rounded = weight.to(dtype).to(held)
    if not packing_missing(held):
        return Reordered(torch.ops.mkldnn._reorder_linear_weight(rounded, rows), dtype)
    return Reordered(rounded, dtype)
