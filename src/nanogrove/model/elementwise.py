"""Activations, casts and dropout whose result for an element depends on that element alone, and not on where it lies.

A CPU works through a tensor in vector registers and finishes what is left of it, and of each thread's part of it, one
element at a time; torch's GELU and SiLU round differently in the two. Here a tensor whose elements do not fill the
registers is filled up first, so that a member of a population has the bits of the same model alone.

Dropout draws the mask of each member from a stream of that member's own, for the same reason.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.native import operators as native

VECTOR_LOOP_ELEMENTS = (
    32  # elements that a step of torch's widest vector loop takes, two registers of 512 bits in float32
)
MIN_ELEMENTS_PER_THREAD = 32768  # torch's
Share = float | Tensor  # a share for all members, or `[P]`


def gelu(x: Tensor) -> Tensor:
    """GELU (Hendrycks 2016) in its tanh form, as GPT-2 has it."""
    if native.usable(x):
        return native.gelu(x)
    return _in_full_registers(lambda y: F.gelu(y, approximate="tanh"), x)


def silu(x: Tensor) -> Tensor:
    """x times the logistic function of x (Hendrycks 2016; Shazeer 2020 in SwiGLU)."""
    return _in_full_registers(F.silu, x)


def _in_full_registers(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`, elementwise, with no element left over at the end of a row or of a thread's part."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return function(x)
    count, threads = x.numel(), torch.get_num_threads()
    unit = VECTOR_LOOP_ELEMENTS * math.lcm(threads, min(threads, -(-count // MIN_ELEMENTS_PER_THREAD)) or 1)
    if count % unit == 0 and (x.is_contiguous() or x.shape[-1] % VECTOR_LOOP_ELEMENTS == 0):
        return function(x)
    return function(F.pad(x.reshape(-1), (0, -count % unit)))[:count].view(x.shape)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 where its format has fewer bits, else as it is."""
    return x.float() if x.dtype.itemsize < 4 else x


class Dropout(nn.Module):
    """Zeroes a share of the values while a model trains, and scales up the rest; one object serves a whole model."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share
        self._streams: list[torch.Generator] = []

    @property
    def active(self) -> bool:
        """Whether anything is dropped."""
        return self.training and (isinstance(self.share, Tensor) or self.share > 0)

    def seed(self, seeds: Sequence[int], device: torch.device) -> None:
        """Starts the streams of random numbers, one for each member."""
        self._streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def forward(self, x: Tensor) -> Tensor:
        """`x [*P, …]`, whose first axis may be folded with others, to the same; torch's stream serves until `seed`."""
        if not self.active:
            return x
        if isinstance(self.share, float) and (torch.compiler.is_compiling() or x.device.type != "cpu"):
            return F.dropout(x, self.share)  # one draw for all members: no equal bits are promised there
        shares = self.share.tolist() if isinstance(self.share, Tensor) else [self.share] * max(len(self._streams), 1)
        streams: Sequence[torch.Generator | None] = self._streams or [None] * len(shares)
        mask = torch.empty(len(shares), x.numel() // len(shares), device=x.device)
        for row, share, stream in zip(mask, shares, streams, strict=True):
            row.bernoulli_(1 - share, generator=stream).div_(1 - share)
        return x * mask.to(x.dtype).view(x.shape)
