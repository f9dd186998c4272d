"""Layers whose parameters may carry a leading population axis.

Letters used in shapes, here and in the rest of nanogrove:

    *P  population axes: none for a single model, one axis (P,) for P models trained as one tensor program
    B   sequences in a batch          T   tokens in a sequence        C   width of the residual stream (n_embd)
    H   query heads                   G   key/value heads             D   size of one head, C / H
    V   vocabulary                    R   rows, P * B: attention folds the population into the batch

Only this file knows about the axis. A stacked linear map is one batched matrix product; attention folds P into
the batch, because the fast kernels take 4-D inputs only. Fan-in is never guessed from a tensor's shape, since
torch reads a 3-D weight as a convolution's: `GPT.initialize` draws each member by itself.

In float32 on a CPU a member of a population has the bits of the same model alone. For that each sum is split into the
same parts in both (`per_member`, `total`), and what depends on sizes depends on those of one member. A shape in which a
processor's matrix products differ all the same is found by `train/parallel/members.py` when a run begins.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.model.documents import document_starts
from nanogrove.model.elementwise import GRAIN, Dropout, gelu, silu
from nanogrove.model.processor import packing_missing
from nanogrove.model.products import LINE, transposed_product

NormKind = Literal["layernorm", "rmsnorm", "rmsnorm-unscaled"]
MLPKind = Literal["gelu", "swiglu", "relu2"]
SCORES = 1 << 21  # attention scores of a member's layer that a CPU writes out, 8 MB in float32; else made in pieces


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
    if like.numel() // vector[..., 0].numel() >= GRAIN:
        for axis in range(members, like.dim() - 2):
            shape[axis] = like.shape[axis]
            expanded = expanded.expand(shape)
    return expanded


def total(x: Tensor) -> Tensor:
    """The sum `[*P]` of `x [*P, B, T]`, T first: one sum over both would be split between threads."""
    return x.sum(-1).sum(-1)


class Packed(NamedTuple):
    """Weights for products alone, whose operands and results are rounded to `dtype`."""

    weight: Tensor  # in oneDNN's own order where that can be had
    dtype: torch.dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, packed: Packed | None = None) -> Tensor:
    """`x [*P, …, n_in]` times `weight [*P, n_out, n_in]` transposed, plus `bias [*P, n_out]`: `[*P, …, n_out]`.

    `packed` is the same weight in the processor's own layout, if `packed_weights` is in force.
    """
    if packed is not None:
        return _packed_product(x, packed, bias, "none")
    if weight.dim() == 2:
        product = F.linear(x, weight)
    else:
        product = transposed_product(x.flatten(1, -2), weight).view(*x.shape[:-1], weight.shape[1])
    return product if bias is None else product + per_member(bias.to(product.dtype), product)


def _packed_product(x: Tensor, packed: Packed, bias: Tensor | None, activation: Literal["none", "gelu"]) -> Tensor:
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


class Linear(nn.Module):
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
        self.packed: Packed | None = None
        self.weight = nn.Parameter(torch.empty(*leading(population), sum(parts), n_in))
        self.bias = nn.Parameter(torch.empty(*leading(population), sum(parts))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[*P, …, n_in]` to `[*P, …, sum(parts)]`."""
        return linear(x, self.weight, self.bias, self.packed)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (Hendrycks 2016) of the map, in its tanh form; one kernel does both where weights are packed."""
        if self.packed is None:
            return gelu(self(x))
        return _packed_product(x, self.packed, self.bias, "gelu")


class Embedding(nn.Module):
    """A table of vectors, one table a member."""

    def __init__(self, rows: int, n_embd: int, population: int | None = None) -> None:
        super().__init__()
        self.packed: Packed | None = None
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


@contextmanager
def packed_weights(model: nn.Module, rows: int, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Within, products of about `rows` rows read weights from a copy in the order oneDNN's kernels want them.

    Decoding reads every weight for a handful of rows, so it runs at the speed of memory; this order is read twice as
    fast, and in bfloat16 there is half as much to read. For single models in float32 on a CPU; elsewhere, and for a
    population, nothing changes. The weights must not change within.
    """
    maps = [module for module in model.modules() if isinstance(module, (Linear, Embedding))]
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

    def forward(self, x: Tensor, before: Tensor, first: Tensor | None = None) -> Tensor:
        """`x [*P, B, T, C]` to the same; `before [*P, B, 1, C]` stands ahead, and nothing where `first` is true."""
        previous = torch.cat((before, x[..., :-1, :]), -2)
        if first is not None:
            previous = previous.masked_fill(first.view(*x.shape[:-1], 1), 0.0)
        return x + per_member(self.weight, x) * previous


def rotary_table(block_size: int, head_size: int, theta: float) -> Tensor:
    """Cosines and signed sines of rotary positions (Su 2021), `[2, block_size, D]`, float32: see `rotate`."""
    frequency = theta ** -(torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angle = torch.outer(torch.arange(block_size, dtype=torch.float32), frequency)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack((torch.cat((cosine, cosine), 1), torch.cat((-sine, sine), 1)))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotates each pair (i, i + D/2) of `x [R, heads, T, D]` by its position's angle.

    `table` is `[2, T, D]`, or `[2, R, 1, T, D]` where rows stand at positions of their own.
    """
    cosine, sine = table.to(x.dtype).unbind()
    return x * cosine + x.roll(x.shape[-1] // 2, -1) * sine


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: Dropout | None = None
) -> Tensor:
    """Attention of `q [R, H, T, D]` over `k, v [R, G, T, D]` with all scores written out: two batched products.

    On a CPU and for short contexts faster than the fused kernel: 1.1 to 2 times in float32, forward and backward, and
    2 to 6 times in bfloat16, whose backward pass is slow there (docs/speed.md). `mask` is that of `document_mask`.
    """
    rows, heads, tokens, size = q.shape
    k, v = (part.repeat_interleave(heads // k.shape[1], 1) if k.shape[1] < heads else part for part in (k, v))
    more = -tokens % max(4, LINE // math.gcd(LINE, size))  # so that each matrix fills lines of the cache
    q, k, v = (F.pad(part, (0, 0, 0, more)) if more else part for part in (q, k, v))
    q, k, v = (part.reshape(rows * heads, tokens + more, size).contiguous() for part in (q, k, v))
    if mask is None:
        unseen = torch.full((tokens + more, tokens + more), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    else:
        whole = F.pad(F.pad(mask, (0, more), value=-torch.inf), (0, 0, 0, more))
        unseen = whole.expand(rows, heads, *whole.shape[-2:]).reshape(-1, *whole.shape[-2:])
    seen = torch.baddbmm(unseen, q, k.mT, alpha=size**-0.5).softmax(-1)
    y = torch.bmm(seen if dropout is None else dropout(seen), v)[:, :tokens]
    return y.reshape(rows, heads, tokens, size)


class Cache:
    """Keys and values of the tokens read so far, for `layers` layers and R rows of lengths of their own.

    Row r holds its tokens at 0 … lengths[r] − 1, whatever the other rows do, so a prompt needs no padding on the
    left and its positions are those of a prompt decoded alone. What lies past a row's length is never attended to, nor,
    where a `mark` begins each document, what lies before the latest one.
    """

    def __init__(
        self, layers: int, rows: int, heads: int, size: int, head_size: int, like: Tensor, mark: int | None = None
    ) -> None:
        self.keys = like.new_zeros(layers, rows, heads, size, head_size)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.last = torch.zeros(rows, dtype=torch.int64, device=like.device)  # each row's latest token
        self.start = torch.zeros(rows, dtype=torch.int64, device=like.device)  # and where its document begins
        self.mark = mark
        self.before = self.last, self.start  # the two, ahead of the latest reading
        self.longest = 0
        self.ragged = False

    def advance(self, tokens: Tensor, lengths: Tensor | None = None) -> None:
        """Counts `tokens [R, T]` more in every row, or, after a first read of padded prompts, `lengths [R]` of them."""
        starts, self.before = self.starts(tokens), (self.last, self.start)
        if starts is not None:
            self.start = starts[:, -1] if lengths is None else starts.gather(1, lengths[:, None] - 1)[:, 0]
        if lengths is None:
            self.lengths = self.lengths + tokens.shape[1]
            self.last = tokens[:, -1]
            self.longest += tokens.shape[1]
        else:
            self.lengths = lengths
            self.last = tokens.gather(1, lengths[:, None] - 1)[:, 0]
            self.longest = int(lengths.max())
            self.ragged = bool((lengths != self.longest).any())

    def keep(self, tokens: Tensor, counts: Tensor) -> None:
        """Takes back all but the first `counts [R]` of the `tokens [R, T]` read last, which were no first reading."""
        last, start = self.before
        first = self.lengths - tokens.shape[1]
        self.lengths = first + counts
        self.longest = int(self.lengths.max())
        self.ragged = bool((self.lengths != self.longest).any())
        self.last = torch.where(counts > 0, tokens.gather(1, (counts - 1).clamp(min=0)[:, None])[:, 0], last)
        if self.mark is not None:
            step = torch.arange(tokens.shape[1], device=tokens.device)
            marks = (tokens == self.mark) & (step < counts[:, None])
            self.start = torch.where(marks, first[:, None] + step, start[:, None]).amax(1)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores `[R, G, T, D]` behind each row's tokens; returns all keys and values up to the longest row."""
        new, end = keys.shape[2], self.longest + keys.shape[2]
        if self.ragged:
            rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
            at = self.lengths[:, None] + torch.arange(new, device=keys.device)
            self.keys[layer][rows, :, at] = keys.transpose(1, 2)
            self.values[layer][rows, :, at] = values.transpose(1, 2)
        else:
            self.keys[layer][:, :, self.longest : end] = keys
            self.values[layer][:, :, self.longest : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def positions(self, tokens: int, rivals: bool = False) -> Tensor:
        """`[R, tokens]`: the positions of the next tokens of each row; of `rivals` for the next place it is that one.

        Rivals are stored side by side all the same, so a cache for them has room for as many tokens more.
        """
        step = torch.arange(tokens, device=self.lengths.device)
        return self.lengths[:, None] + (torch.zeros_like(step) if rivals else step)

    def starts(self, tokens: Tensor, rivals: bool = False) -> Tensor | None:
        """Where the documents of the next `tokens [R, T]` begin, `[R, T]`; None where no mark begins one."""
        if self.mark is None:
            return None
        places = self.positions(tokens.shape[1], rivals)
        return document_starts(tokens, self.mark, places, self.start[:, None], rivals)

    def mask(self, tokens: int, rivals: bool = False, starts: Tensor | None = None) -> Tensor | None:
        """Which stored keys the next tokens see, `[R, 1, tokens, longest + tokens]`; None where all are seen."""
        if tokens == 1 and not self.ragged and starts is None:
            return None
        key, own = torch.arange(self.longest + tokens, device=self.lengths.device), self.positions(tokens)[..., None]
        seen = (key < self.lengths[:, None, None]) | (key == own) if rivals else key <= own
        return (seen if starts is None else seen & (key >= starts[..., None]))[:, None]

    def take(self, index: Tensor, tokens: Tensor) -> None:
        """Counts the rival `index [R]` of each row, which is the token `tokens [R]`, as read; the others are void.

        Its keys and values are those of its place already: they move to the front of its rivals'.
        """
        rows, at = torch.arange(len(index), device=index.device), self.lengths + index
        for stored in (self.keys, self.values):
            stored[:, rows, :, self.lengths] = stored[:, rows, :, at]
        self.advance(tokens[:, None])


class Attention(nn.Module):
    """Causal self-attention with grouped-query heads (Ainslie 2023) and, if asked for, normalised q and k."""

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        bias: bool,
        dropout: Dropout,
        qk_norm: tuple[NormKind, float] | None,
        population: int | None = None,
    ) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_size = n_head, n_kv_head, n_embd // n_head
        self.dropout = dropout
        parts = tuple(heads * self.head_size for heads in (n_head, n_kv_head, n_kv_head))
        self.qkv = Linear(n_embd, parts, bias, population)
        self.out = Linear(n_embd, (n_embd,), bias, population, residual=True)
        self.q_norm = self.k_norm = None
        if qk_norm:
            kind, eps = qk_norm
            self.q_norm = Norm(kind, self.head_size, bias, eps, population)
            self.k_norm = Norm(kind, self.head_size, bias, eps, population)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor | None,
        cache: Cache | None = None,
        layer: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`x [*P, B, T, C]` to the same; `mask` is `Cache.mask` where something is cached, else `document_mask`."""
        heads = self.qkv(x).unflatten(-1, (self.n_head + 2 * self.n_kv_head, self.head_size))
        qk, v = heads.split((self.n_head + self.n_kv_head, self.n_kv_head), -2)  # q and k take the same steps
        if self.q_norm is not None and self.k_norm is not None:
            if self.q_norm.weight is None:
                qk = self.q_norm(qk)
            else:
                q, k = qk.split((self.n_head, self.n_kv_head), -2)
                qk = torch.cat((self.q_norm(q), self.k_norm(k)), -2)
        qk, v = (part.flatten(0, -4).transpose(1, 2) for part in (qk, v))  # [R, heads, T, D]
        if rotary is not None:
            qk = rotate(qk, rotary)
        q, k = qk.split((self.n_head, self.n_kv_head), 1)
        grouped = self.n_kv_head != self.n_head
        if cache is not None and cache.longest:
            k, v = cache.write(layer, k, v)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
        else:  # a first read sees its own tokens only
            if cache is not None:
                cache.write(layer, k, v)
            share = self.dropout.share if self.dropout.active else 0.0
            scores = x.shape[-3] * q.shape[1] * q.shape[-2] ** 2  # of a member
            on_cpu = q.device.type == "cpu"
            if isinstance(share, float) and not (on_cpu and (share or scores <= SCORES)):
                y = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, dropout_p=share, is_causal=mask is None, enable_gqa=grouped
                )
            else:  # the fused kernel draws from one stream for all members, and drops one share
                y = causal_attention(q, k, v, mask, self.dropout)
        return self.dropout(self.out(y.transpose(1, 2).reshape(x.shape)))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """The feed-forward layer: GELU (tanh form, as GPT-2), SwiGLU (Shazeer 2020) or squared ReLU (So 2021)."""

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
        if self.kind == "gelu":
            y = self.up.gelu(x)
        elif self.kind == "relu2":
            y = F.relu(self.up(x))
            y = y * y  # autocast would take a power in float32
        else:
            gate, value = self.up(x).chunk(2, dim=-1)
            y = silu(gate) * value
        return self.dropout(self.down(y))  # type: ignore[no-any-return]
