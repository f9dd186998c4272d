"""Differentiable operators of torch tensors, computed by the C library; see `usable`, and `layers.py` for shapes."""

from ctypes import byref
from typing import Any

import torch
from torch import Tensor

from nanogrove.native import library
from nanogrove.native.library import Heads, Symmetric, kernels

WIDE = 8  # numbers that the kernels take at a time; the last axis of what they are given is a multiple of it
SMALL = 1 << 15  # numbers below which one thread is faster than several
QUERIES = 16  # queries at a time; as in attention.c


def usable(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels compute from `x`: whole vectors of float32 on a CPU, outside autocast, compilation and vmap.

    `others` are those that it is computed with. The operators have no second derivative; torch's have.
    """
    return (
        all(each is None or (each.dtype, each.device.type) == (torch.float32, "cpu") for each in (x, *others))
        and not x.shape[-1] % WIDE
        and library.missing() is None
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def _threads(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() >= SMALL else 1


def _pointer(x: Tensor | None) -> int | None:
    """Where `x` lies; the caller keeps it alive, for as long as a kernel uses it."""
    return None if x is None else x.data_ptr()


def _refuse_second_derivative() -> None:
    """Raises RuntimeError in a backward pass whose result is to be differentiated (`create_graph`)."""
    if torch.is_grad_enabled():
        raise RuntimeError("the C kernels have no second derivative; take it in float64, of `model.double()`")


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form, of any shape."""
    return _Gelu.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        slope = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        kernels().gelu(x.data_ptr(), y.data_ptr(), _pointer(slope), x.numel(), _threads(x))
        ctx.save_for_backward(*([] if slope is None else [slope]))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        _refuse_second_derivative()
        slope: Tensor = ctx.saved_tensors[0]
        return gradient * slope


def attention(qkv: Tensor, keys: int, rotation: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
    """Causal attention: `[R, T, H, D]` of `qkv [R, T, H + 2G, D]`, G being `keys`.

    Queries and keys are rotated by `rotation [2, T, D]`, as `rotate` of `attention.py` does. The softmax is multiplied
    by `kept`, whose shape is that of `scores_like`.
    """
    return _Attention.apply(qkv, keys, rotation, kept)  # type: ignore[no-any-return, no-untyped-call]


def scores_like(qkv: Tensor, keys: int) -> Tensor:
    """Ones for all scores of such a call: `[R, H, T, T rounded up to 16]`."""
    rows, tokens, heads, _ = qkv.shape
    return qkv.new_ones(rows, heads - 2 * keys, tokens, tokens + -tokens % QUERIES)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, keys: int, rotation: Tensor | None, kept: Tensor | None) -> Tensor:
        qkv, rotation = qkv.contiguous(), rotation if rotation is None else rotation.contiguous()
        shape = _heads(qkv, keys, rotation, kept)
        y = qkv.new_empty(shape.rows, shape.tokens, shape.queries, shape.size)
        logs, room = qkv.new_empty(shape.rows, shape.queries, shape.tokens), _room(shape)
        kernels().attend(byref(shape), *map(_pointer, (qkv, y, logs, room)))
        ctx.keys = keys
        ctx.save_for_backward(qkv, y, logs, rotation, kept)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        qkv, y, logs, rotation, kept = ctx.saved_tensors  # under checkpointing other tensors than those of `forward`
        shape = _heads(qkv, ctx.keys, rotation, kept)
        dqkv, room, gradient = torch.empty_like(qkv), _room(shape), gradient.contiguous()
        kernels().attend_backward(byref(shape), *map(_pointer, (qkv, y, logs, gradient, dqkv, room)))
        return dqkv, None, None, None


def _heads(qkv: Tensor, keys: int, rotation: Tensor | None, kept: Tensor | None) -> Heads:
    rows, tokens, heads, size = qkv.shape
    tables = _pointer(rotation), _pointer(kept)
    return Heads(rows, tokens, heads - 2 * keys, keys, size, *tables, _threads(qkv))


def _room(shape: Heads) -> Tensor:
    """Memory that the threads of a call need."""
    return torch.zeros(shape.threads * kernels().attention_room(byref(shape)), dtype=torch.float32, device="cpu")


def symmetric(
    a: Tensor, b: Tensor, added: Tensor | None = None, *, scale: float = 1.0, share: float = 0.0, diagonal: float = 0.0
) -> Tensor:
    """`scale·abᵀ + share·added + diagonal·I` of `a` and `b [N, n, k]`, where that is symmetric; without a gradient.

    n is even and 4 or more.
    """
    a, b = a.contiguous(), b.contiguous()
    added = None if added is None else added.contiguous()
    count, n, k = a.shape
    shape = Symmetric(count, n, k, scale, share, diagonal, _threads(a))
    c, room = a.new_empty(count, n, n), a.new_empty(shape.threads * (k + n) * 2 * WIDE)
    kernels().symmetric(byref(shape), *map(_pointer, (a, b, added, c, room)))
    return c
