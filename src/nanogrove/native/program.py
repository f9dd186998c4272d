"""Weights in panels, and decoding steps that are written down once and then run as one call of the library.

A `Program` is a list of steps of decoding.c with the tensors that they use. Its rows are those of one member after
those of another; letters of shapes are those of `layers.py`.
"""

from ctypes import Array, byref
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.native.library import ACTIVATIONS, Activation, Rows, Step, kernels

PANEL = 16  # outputs side by side
FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
KINDS = {name: number for number, name in enumerate(("embed", "place", "norm", "product", "gate", "attend"))}
SMALL = 1 << 19  # weights below which one thread is faster than several; fewer where they serve many rows
ROWS_PER_READING = 8  # that are multiplied in the time in which memory gives the weights


class Panels(NamedTuple):
    """Weights `[*P, n, k]` as decoding.c reads them.

    Args:
        numbers: `[P, n / 16, k, 16]`, n rounded up, in float32, bfloat16 or int8, there in pairs of outputs 8 apart.
        scale: `[P, n]`, n rounded up, of int8 numbers.
        outputs: n.
    """

    numbers: Tensor
    scale: Tensor | None
    outputs: int

    def product(self, x: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
        """`[*P, …, n]` of `x [*P, …, k]`, plus `bias [*P, n]`, the activation applied to it."""
        members = len(self.numbers)
        rows = x.numel() // (members * x.shape[-1])
        program = Program(members, rows)
        read = program.buffer(x.shape[-1])
        read[:, : x.shape[-1]] = x.reshape(members * rows, x.shape[-1])
        y = program.product(read, self, bias, activation)
        program.run()
        return y[:, : self.outputs].reshape(*x.shape[:-1], self.outputs)


def panels(weight: Tensor, dtype: torch.dtype) -> Panels:
    """Float32 weights `[*P, n, k]` in panels, rounded to `dtype`."""
    members, (outputs, inner) = weight.shape[0] if weight.dim() == 3 else 1, weight.shape[-2:]
    filled, scale = F.pad(weight.view(members, outputs, inner), (0, 0, 0, -outputs % PANEL)), None
    if dtype == torch.int8:
        filled, scale = in_int8(filled)
        filled = filled.view(members, -1, 2, PANEL // 2, inner).transpose(2, 3).flatten(1, 3)
    return Panels(filled.to(dtype).view(members, -1, PANEL, inner).mT.contiguous(), scale, outputs)


def in_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from −127 to 127 for `weight [*P, n, k]`, in its own format, and what they are to be multiplied by,
    `[*P, n]`: 1/127 of the largest weight of each output."""
    scale = (weight.abs().amax(-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight / scale[..., None]).round(), scale


class Program:
    """Steps that read one token of each of `rows` rows of `members` members.

    Its methods write a step down and give the tensor `[P * rows, n]` that it sets, n rounded up to whole panels.
    """

    def __init__(self, members: int, rows: int) -> None:
        self.members, self.rows = members, rows
        self.weights = 0
        self._steps: list[Step] = []
        self._list: Array[Step] = (Step * 0)()  # the same, for the library
        self._kept: list[Tensor | None] = []

    def buffer(self, width: int) -> Tensor:
        """Zeros, for what a step sets."""
        return torch.zeros(self.members * self.rows, width + -width % PANEL, dtype=torch.float32, device="cpu")

    def embed(self, table: Tensor, shift: Tensor | None) -> Tensor:
        """Vectors of `table [*P, V, C]`, plus `shift [*P, C]` times that of the token before, if given."""
        x = self.buffer(table.shape[-1])
        self._add("embed", x, x, table, shift, size=table.shape[-1], stride=table.shape[-2] * table.shape[-1])
        return x

    def place(self, x: Tensor, table: Tensor) -> None:
        """Adds the vector of each row's position in `table [*P, positions, C]`."""
        self._add("place", x, x, table, size=table.shape[-1], stride=table.shape[-2] * table.shape[-1])

    def norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        size: int,
        eps: float,
        centred: bool,
        parts: range | None = None,
    ) -> Tensor:
        """LayerNorm, or RMSNorm if not `centred`, of a row's first `size` numbers, or in place of `parts` of it."""
        y, parts = (self.buffer(size), range(1)) if parts is None else (x, parts)
        first, count = parts.start * size, len(parts)
        self._add(
            "norm", x, y, weight, bias, stride=size, size=size, eps=eps, centred=centred, first=first, count=count
        )
        return y

    def product(
        self,
        x: Tensor,
        weight: Panels,
        bias: Tensor | None,
        activation: Activation = "linear",
        onto: Tensor | None = None,
    ) -> Tensor:
        """The product with `weight`, plus `bias`, the activation applied, and added to `onto` where given."""
        _, count, inner, _ = weight.numbers.shape
        y = self.buffer(weight.outputs) if onto is None else onto
        bias = None if bias is None else F.pad(bias, (0, -weight.outputs % PANEL))
        self.weights += weight.numbers.numel()
        self._add(
            "product",
            x,
            y,
            weight.numbers,
            bias,
            weight.scale,
            format=FORMATS[weight.numbers.dtype],
            activation=ACTIVATIONS[activation],
            add=onto is not None,
            inner=inner,
            stride=count * inner * PANEL,
        )
        return y

    def gate(self, x: Tensor, inner: int) -> Tensor:
        """SiLU of a row's first `inner` numbers times its next."""
        y = self.buffer(inner)
        self._add("gate", x, y, inner=inner)
        return y

    def attend(self, heads: Tensor, queries: int, keys: int, size: int, layer: int, rotation: Tensor | None) -> Tensor:
        """Attention of `queries` heads to all tokens so far, whose keys and values, `keys` heads each, follow them."""
        y = self.buffer(queries * size)
        positions = 0 if rotation is None else rotation.shape[1]
        table = None if rotation is None else rotation.data_ptr()
        self._kept.append(rotation)
        self._add(
            "attend", heads, y, queries=queries, keys=keys, size=size, layer=layer, positions=positions, rotation=table
        )
        return y

    def _add(
        self,
        kind: str,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
        **values: float | None,
    ) -> None:
        tensors = [None if each is None else each.detach().contiguous() for each in (x, y, weight, bias, scale)]
        self._kept += tensors
        names = ("from_", "to", "weight", "bias", "scale")
        pointers = {name: each.data_ptr() for name, each in zip(names, tensors, strict=True) if each is not None}
        self._steps.append(Step(kind=KINDS[kind], in_=x.shape[-1], out=y.shape[-1], **pointers, **values))

    def run(
        self,
        token: Tensor | None = None,
        previous: Tensor | None = None,
        lengths: Tensor | None = None,
        stored: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Runs the steps, which read `token` and `previous [P * rows]` at positions `lengths [P * rows]` and keys and
        values `stored`, `[layers, held, G, room, D]` each, whose first P * rows rows are theirs."""
        keys, values = stored or (None, None)
        read = {"token": token, "previous": previous, "lengths": lengths, "k": keys, "v": values}
        tensors = {name: each.contiguous() for name, each in read.items() if each is not None}
        work = self.weights * max(self.rows // ROWS_PER_READING, 1)
        rows = Rows(
            members=self.members,
            rows=self.rows,
            held=0 if keys is None else keys.shape[1],
            room=0 if keys is None else keys.shape[3],
            **{name: each.data_ptr() for name, each in tensors.items()},
            threads=torch.get_num_threads() if work >= SMALL else 1,
        )
        if len(self._list) != len(self._steps):
            self._list = (Step * len(self._steps))(*self._steps)
        kernels().decode(self._list, len(self._list), byref(rows))
