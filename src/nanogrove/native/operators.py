"""Differentiable operators of torch tensors, computed by the C library; see `usable`, and `layers.py` for shapes."""

from ctypes import byref
from typing import Any

import torch
from torch import Tensor

from nanogrove.native import library
from nanogrove.native.library import ACTIVATIONS, Activation, Gradients, Heads, Kept, Matrices, Mlp, kernels

WIDE = 8  # numbers that the kernels take at a time; the last axis of what they are given is a multiple of it
SMALL = 1 << 15  # numbers below which one thread is faster than several
FEWEST_ROWS, MOST_WEIGHTS = 64, 1 << 20  # of `mlp`: outside, the products of torch are as fast
QUERIES = 16  # queries at a time; as in attention.c


def usable(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels compute from `x`: whole vectors of float32 on a CPU, outside autocast, compilation and vmap.

    `others` are those that it is computed with. The operators have no second derivative; torch's have.
    """
    return (
        not torch.compiler.is_compiling()  # first, since the compiler warns of cached functions, such as `missing`
        and all(each is None or (each.dtype, each.device.type) == (torch.float32, "cpu") for each in (x, *others))
        and not x.shape[-1] % WIDE
        and library.missing() is None
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def _threads(numbers: int) -> int:
    return torch.get_num_threads() if numbers >= SMALL else 1


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
        kernels().gelu(x.data_ptr(), y.data_ptr(), _pointer(slope), x.numel(), _threads(x.numel()))
        ctx.save_for_backward(*([] if slope is None else [slope]))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        _refuse_second_derivative()
        slope: Tensor = ctx.saved_tensors[0]
        return gradient * slope


def takes_mlp(x: Tensor, up: Tensor, *others: Tensor | None) -> bool:
    """Whether `mlp` computes from `x [*P, …, C]`, `up [*P, N, C]` and `others`: where it is faster than torch.

    Which sizes it takes is a matter of one member's. With fewer rows than C, weights would take too long to be packed.
    """
    inner, width = up.shape[-2:]
    rows = x.numel() // (up.numel() // inner)
    whole = not (rows % 4 or inner % 16 or width % 16)
    return whole and rows >= max(FEWEST_ROWS, width) and inner * width <= MOST_WEIGHTS and usable(x, up, *others)


def mlp(x: Tensor, activation: Activation, up: Tensor, bias: Tensor | None, down: Tensor) -> Tensor:
    """`down [*P, C, N]` times the activation of `up [*P, N, C]` times `x [*P, …, C]` plus `bias [*P, N]`: as `x`."""
    weights = [each for each in (x, up, bias, down) if each is not None]
    keep = torch.is_grad_enabled() and any(each.requires_grad for each in weights)
    return _Mlp.apply(x, activation, up, bias, down, keep)  # type: ignore[no-any-return, no-untyped-call]


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, activation: Activation, up: Tensor, bias: Tensor | None, down: Tensor, keep: bool
    ) -> Tensor:
        x, up, down = x.contiguous(), up.contiguous(), down.contiguous()
        bias = bias if bias is None else bias.contiguous()
        layer = _layer(x, activation, up, bias, down)
        y, kept = torch.empty_like(x), layer.members * layer.rows * layer.inner if keep else 0
        inside, slope = x.new_empty(kept), x.new_empty(kept)
        pointers = x, y, *((inside, slope) if keep else (None, None)), _memory(kernels().mlp_room(byref(layer)))
        kernels().mlp(byref(layer), *map(_pointer, pointers))
        ctx.activation = activation
        ctx.save_for_backward(x, up, bias, down, inside, slope)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        x, up, bias, down, inside, slope = ctx.saved_tensors
        layer, dy = _layer(x, ctx.activation, up, bias, down), gradient.contiguous()
        dx, dup, ddown, dbias = (None if each is None else torch.empty_like(each) for each in (x, up, down, bias))
        room = _memory(kernels().mlp_room(byref(layer)))
        kept = Kept(*map(_pointer, (x, inside, slope)))
        gradients = Gradients(*map(_pointer, (dy, dx, dup, ddown, dbias)))
        kernels().mlp_backward(byref(layer), byref(kept), byref(gradients), _pointer(room))
        return dx, None, dup, dbias, ddown, None


def _layer(x: Tensor, activation: Activation, up: Tensor, bias: Tensor | None, down: Tensor) -> Mlp:
    (inner, width), members = up.shape[-2:], len(up) if up.dim() == 3 else 1
    rows, weights = x.numel() // (members * width), map(_pointer, (up, down, bias))
    return Mlp(members, rows, width, inner, *weights, ACTIVATIONS[activation], _threads(members * rows * inner))


def _memory(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.float32, device="cpu")


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
    return Heads(rows, tokens, heads - 2 * keys, keys, size, *tables, _threads(qkv.numel()))


def _room(shape: Heads) -> Tensor:
    """Memory that the threads of a call need."""
    return torch.zeros(shape.threads * kernels().attention_room(byref(shape)), dtype=torch.float32, device="cpu")


def orthogonalise(x: Tensor, polynomials: Tensor, margin: float) -> None:
    """Applies `polynomials [D, 5]` one after the other to the matrices `x [N, n, k]` in place, without a gradient.

    n is at most k, and both are multiples of 16; see `muon.py` for the polynomials and for `margin`.
    """
    count, n, k = x.shape
    matrices = Matrices(
        count, n, k, len(polynomials), _pointer(polynomials), margin, min(torch.get_num_threads(), count)
    )
    room = _memory(kernels().muon_room(byref(matrices)))
    kernels().orthogonalise(byref(matrices), _pointer(x), _pointer(room))
