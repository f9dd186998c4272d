"""Causal self-attention, rotary positions, and which kernel computes the scores. Shapes are named in `layers.py`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.errors import RunError
from nanogrove.memory import free_bytes, shown_bytes
from nanogrove.model.cache import Cache
from nanogrove.model.elementwise import Dropout
from nanogrove.model.layers import Linear, Norm, NormKind
from nanogrove.model.products import CACHE_LINE_FLOATS
from nanogrove.native import operators as native

MAX_SCORES_WRITTEN_OUT = 1 << 21  # per layer and member, on a CPU; 8 MB in float32. Larger ones take the fused kernel
ROTARY_BYTES = 24  # of each position and number of a head, while the table is computed; 8 of them stay
FEW_BYTES = 1 << 28  # of a table, for which nobody asks whether they are free


def rotary_table(block_size: int, head_size: int, theta: float) -> Tensor:
    """Cosines and signed sines of rotary positions (Su 2021), `[2, block_size, D]`, float32: see `rotate`.

    Where the default device is `meta`, whose tensors hold nothing, the table has its shape alone: arithmetic on that
    device would first import sympy and the compiler of torch, which takes a second. Raises RunError for a table larger
    than the memory that is free, since a context is a number that a stranger's file may claim.
    """
    if torch.get_default_device().type == "meta":
        return torch.empty(2, block_size, head_size)
    needed = ROTARY_BYTES * block_size * head_size
    if needed > FEW_BYTES and needed > (free := free_bytes()):
        raise RunError(
            f"rotary positions of a context of {block_size:,} tokens take {shown_bytes(needed)}, and "
            f"{shown_bytes(free)} are free; choose a shorter context"
        )
    frequency = theta ** -(torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angle = torch.outer(torch.arange(block_size, dtype=torch.float32), frequency)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack((torch.cat((cosine, cosine), 1), torch.cat((-sine, sine), 1)))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotates each pair (i, i + D/2) of `x [R, heads, T, D]` by its position's angle.

    `table` is `[2, T, D]`, or `[2, R, 1, T, D]` where each row has its own positions.
    """
    cosine, sine = table.to(x.dtype).unbind()
    return x * cosine + x.roll(x.shape[-1] // 2, -1) * sine


def unfused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: Dropout | None = None
) -> Tensor:
    """Attention of `q [R, H, T, D]` over `k, v [R, G, T, D]` with all scores written out: two batched products.

    On a CPU and for short contexts faster than the fused kernel: 1.1 to 2 times in float32, forward and backward, and
    2 to 6 times in bfloat16, whose backward pass is slow there. `mask` is that of `document_mask`.
    """
    rows, heads, tokens, size = q.shape
    k, v = (part.repeat_interleave(heads // k.shape[1], 1) if k.shape[1] < heads else part for part in (k, v))
    more = -tokens % max(
        4, CACHE_LINE_FLOATS // math.gcd(CACHE_LINE_FLOATS, size)
    )  # so that each matrix fills lines of the cache
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


class Attention(nn.Module):
    """Causal self-attention with grouped-query heads (Ainslie 2023) and, if asked for, normalised q and k.

    Args:
        n_embd: C, the width of the residual stream.
        n_head: Query heads.
        n_kv_head: Heads of keys and values; each serves `n_head / n_kv_head` query heads.
        head_size: D, the width of a head.
        bias: Whether maps and norms have biases.
        dropout: Applied to attention weights and to the output.
        qk_norm: Kind and epsilon of the norms of q and k; None for none.
        population: P, or None for one model.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        head_size: int,
        bias: bool,
        dropout: Dropout,
        qk_norm: tuple[NormKind, float] | None,
        population: int | None = None,
    ) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_size = n_head, n_kv_head, head_size
        self.dropout = dropout
        parts = tuple(heads * head_size for heads in (n_head, n_kv_head, n_kv_head))
        self.qkv = Linear(n_embd, parts, bias, population)
        self.out = Linear(parts[0], (n_embd,), bias, population, residual=True)
        self.q_norm = self.k_norm = None
        if qk_norm:
            kind, eps = qk_norm
            self.q_norm = Norm(kind, head_size, bias, eps, population)
            self.k_norm = Norm(kind, head_size, bias, eps, population)

    def forward(
        self,
        x: Tensor,
        rotary: Tensor | None,
        cache: Cache | None = None,
        layer: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`x [*P, B, T, C]` to the same; `mask` is that of its `Placement`."""
        heads = self.qkv(x).unflatten(-1, (self.n_head + 2 * self.n_kv_head, self.head_size))
        qk, v = heads.split((self.n_head + self.n_kv_head, self.n_kv_head), -2)  # q and k take the same steps
        if self.q_norm is not None and self.k_norm is not None:
            if self.q_norm.weight is None:
                qk = self.q_norm(qk)
            else:
                q, k = qk.split((self.n_head, self.n_kv_head), -2)
                qk = torch.cat((self.q_norm(q), self.k_norm(k)), -2)
        if cache is None and mask is None and native.usable(heads, rotary):
            heads = (heads if self.q_norm is None else torch.cat((qk, v), -2)).flatten(0, -4)
            kept = self.dropout(native.scores_like(heads, self.n_kv_head)) if self.dropout.active else None
            y = native.attention(heads, self.n_kv_head, rotary, kept)
        else:
            qk, v = (part.flatten(0, -4).transpose(1, 2) for part in (qk, v))  # [R, heads, T, D]
            y = self._attend(qk, v, rotary, cache, layer, mask, x.shape[-3]).transpose(1, 2)
        return self.dropout(self.out(y.reshape(*x.shape[:-1], self.n_head * self.head_size)))  # type: ignore[no-any-return]

    def _attend(
        self,
        qk: Tensor,
        v: Tensor,
        rotary: Tensor | None,
        cache: Cache | None,
        layer: int,
        mask: Tensor | None,
        rows: int,
    ) -> Tensor:
        """`[R, H, T, D]` by torch's operators, of `qk [R, H + G, T, D]` and `v [R, G, T, D]`; a member has `rows`."""
        if rotary is not None:
            qk = rotate(qk, rotary)
        q, k = torch.split(qk, [self.n_head, self.n_kv_head], 1)
        grouped = self.n_kv_head != self.n_head
        if cache is not None and cache.longest:
            k, v = cache.write(layer, k, v)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
        if cache is not None:  # a first read sees its own tokens only
            cache.write(layer, k, v)
        share = self.dropout.share if self.dropout.active else 0.0
        scores = rows * q.shape[1] * q.shape[-2] ** 2  # of a member
        on_cpu = q.device.type == "cpu"
        # The fused kernel draws from one stream for all members and drops one share; see `unfused_attention` too.
        if isinstance(share, float) and not (on_cpu and (share or scores <= MAX_SCORES_WRITTEN_OUT)):
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=share, is_causal=mask is None, enable_gqa=grouped
            )
        return unfused_attention(q, k, v, mask, self.dropout)
