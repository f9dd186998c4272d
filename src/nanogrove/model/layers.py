"""Layers whose parameters may carry a leading population axis.

Letters used in shapes, here and in the rest of nanogrove:

    *P  population axes: none for a single model, one axis (P,) for P models trained as one tensor program
    B   sequences in a batch          T   tokens in a sequence        C   width of the residual stream (n_embd)
    H   query heads                   G   key/value heads             D   size of one head; C / H unless set
    V   vocabulary                    R   rows, P * B: attention folds the population into the batch

Layers do the arithmetic of the axis; `GPT` draws weights and the loop clips gradients member by member. A stacked
linear map is one batched matrix product; attention folds P into the batch, because the fast kernels take 4-D inputs
only. Fan-in is never guessed from a tensor's shape, since torch reads a 3-D weight as a convolution's.

In float32 on a CPU a member of a population has the bits of the same model alone. For that each sum is split into the
same parts in both (`per_member`, `total`), and what depends on sizes depends on those of one member. A shape in which a
CPU's matrix products differ all the same is detected by `train/parallel/members.py` when a run begins.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.model.elementwise import MIN_ELEMENTS_PER_THREAD, Dropout, gelu, silu
from nanogrove.model.packing import Packable, Reordered
from nanogrove.model.products import transposed_product
from nanogrove.native import operators as native
from nanogrove.native.program import Panels

NormKind = Literal["layernorm", "rmsnorm", "rmsnorm-unscaled"]
MLPKind = Literal["gelu", "swiglu", "relu2"]


def leading(population: int | None) -> tuple[int, ...]:
    """The population axes as a shape: `()` for one model, `(P,)` for a population of P."""
    return () if population is None else (population,)


def per_member(vector: Tensor, like: Tensor) -> Tensor:
    """`[*P, C]` as `[*P, 1, …, 1, C]`, ready to broadcast against `like`, `[*P, B, …, T, C]`.

    Where a member is so large that threads would divide the sum that is the gradient, and one model's otherwise than
    many's, it is expanded axis by axis, so that the gradient is summed axis by axis.
    """
    members = vector.dim() - 1
    shape = [*vector.shape[:-1], *[1] * (like.dim() - vector.dim()), vector.shape[-1]]
    expanded = vector.view(shape)
    if like.numel() // vector[..., 0].numel() >= MIN_ELEMENTS_PER_THREAD:
        for axis in range(members, like.dim() - 2):
            shape[axis] = like.shape[axis]
            expanded = expanded.expand(shape)
    return expanded


def total(x: Tensor) -> Tensor:
    """The sum `[*P]` of `x [*P, B, T]`, T first: one sum over both would be split between threads."""
    return x.sum(-1).sum(-1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, packed: Panels | Reordered | None = None) -> Tensor:
    """`x [*P, …, n_in]` times `weight [*P, n_out, n_in]` transposed, plus `bias [*P, n_out]`: `[*P, …, n_out]`.

    `packed` is the same weight in the CPU's own layout, if `packed_weights` is in force.
    """
    if packed is not None:
        return packed.product(x, bias, "linear")
    if weight.dim() == 2:
        product = F.linear(x, weight)
    else:
        product = transposed_product(x.flatten(1, -2), weight).view(*x.shape[:-1], weight.shape[1])
    return product if bias is None else product + per_member(bias.to(product.dtype), product)


class Linear(Packable):
    """A linear map whose output rows may be several maps fused into one product.

    `parts` are the output sizes of the fused maps, `(n_out,)` for a plain one; an optimizer that works on whole
    matrices (Muon) treats each part by itself. `residual` marks a map that writes into the residual stream.
    """

    def __init__(
        self,
        n_in: int,
        parts: tuple[int, ...],
        bias: bool,
        population: int | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.residual = residual
        self.weight = nn.Parameter(torch.empty(*leading(population), sum(parts), n_in))
        self.bias = nn.Parameter(torch.empty(*leading(population), sum(parts))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[*P, …, n_in]` to `[*P, …, sum(parts)]`."""
        return linear(x, self.weight, self.bias, self.packed)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (Hendrycks 2016) of the map, in its tanh form; one kernel does both where weights are packed."""
        return gelu(self(x)) if self.packed is None else self.packed.product(x, self.bias, "gelu")


class Embedding(Packable):
    """A table of vectors, one table per member."""

    def __init__(self, rows: int, n_embd: int, population: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*leading(population), rows, n_embd))

    def forward(self, index: Tensor) -> Tensor:
        """`index [*P, …]` to `[*P, …, C]`."""
        if self.weight.dim() == 2:
            return F.embedding(index, self.weight)
        members, rows, n_embd = self.weight.shape
        offset = torch.arange(0, members * rows, rows, device=index.device)
        index = index + offset.view(-1, *[1] * (index.dim() - 1))
        return F.embedding(index, self.weight.reshape(members * rows, n_embd))

    def scores(self, x: Tensor) -> Tensor:
        """The products `[*P, …, rows]` of `x [*P, …, C]` with every vector of the table: a tied head."""
        return linear(x, self.weight, packed=self.packed)


class Norm(nn.Module):
    """LayerNorm (Ba 2016) or RMSNorm (Zhang & Sennrich 2019), the latter with or without a learned scale."""

    def __init__(self, kind: NormKind, size: int, bias: bool, eps: float, population: int | None = None) -> None:
        super().__init__()
        self.size, self.eps, self.centred = size, eps, kind == "layernorm"
        shape = (*leading(population), size)
        self.weight = nn.Parameter(torch.empty(shape)) if kind != "rmsnorm-unscaled" else None
        self.bias = nn.Parameter(torch.empty(shape)) if self.centred and bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis of `[*P, …, size]`."""
        normalise = F.layer_norm if self.centred else F.rms_norm
        y = normalise(x, (self.size,), eps=self.eps)
        if self.weight is None:
            return y
        scale = per_member(self.weight.to(y.dtype), y)  # autocast leaves it in float32
        return y * scale if self.bias is None else torch.addcmul(per_member(self.bias.to(y.dtype), y), y, scale)


class TokenShift(nn.Module):
    """Adds to each position a learned share of the position before it, channel by channel (Peng 2023, RWKV)."""

    def __init__(self, n_embd: int, population: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*leading(population), n_embd))

    def forward(self, x: Tensor, previous: Tensor, first: Tensor | None = None) -> Tensor:
        """`x [*P, B, T, C]` and the `previous` of each position to the same; nothing precedes where `first` is true."""
        if first is not None:
            previous = previous.masked_fill(first.view(*x.shape[:-1], 1), 0.0)
        return x + per_member(self.weight, x) * previous


class MLP(nn.Module):
    """The feed-forward layer: GELU (tanh form, as GPT-2), SwiGLU (Shazeer 2020) or squared ReLU (So 2021).

    Args:
        kind: The activation.
        n_embd: C, the width of the residual stream.
        n_inner: The width inside.
        bias: Whether the maps have biases.
        dropout: Applied to the output.
        population: P, or None for one model.
    """

    def __init__(
        self,
        kind: MLPKind,
        n_embd: int,
        n_inner: int,
        bias: bool,
        dropout: Dropout,
        population: int | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.dropout = dropout
        self.up = Linear(n_embd, (n_inner, n_inner) if kind == "swiglu" else (n_inner,), bias, population)
        self.down = Linear(n_inner, (n_embd,), bias, population, residual=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[*P, …, C]` to the same."""
        up, down = self.up, self.down
        packed = up.packed is not None or down.packed is not None
        if self.kind != "swiglu" and not packed and native.takes_mlp(x, up.weight, up.bias, down.weight):
            y = native.mlp(x, self.kind, up.weight, up.bias, down.weight)
            return self.dropout(y if down.bias is None else y + per_member(down.bias, y))  # type: ignore[no-any-return]
        if self.kind == "gelu":
            y = self.up.gelu(x)
        elif self.kind == "relu2":
            y = F.relu(self.up(x))
            y = y * y  # autocast would take a power in float32
        else:
            gate, value = self.up(x).chunk(2, dim=-1)
            y = silu(gate) * value
        return self.dropout(self.down(y))  # type: ignore[no-any-return]
