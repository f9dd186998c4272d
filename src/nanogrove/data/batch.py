"""The batch every objective reads, and what a corpus owes to training.

All data is a function of (seed, purpose, step), never of history: any batch can be computed without the ones before
it, by any process, so a resumed run sees exactly what it would have seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """`*P` population axes, B sequences, T tokens.

    tokens   [*P, B, T] int64
    targets  [*P, B, T] int64
    mask     [*P, B, T] bool, whether a position is scored
    weight   [*P, B, T] float32, how much a scored position weighs; 0 and negative numbers are weights like any other
    source   [*P, B]    int64, which source each sequence came from

    What is not scored is in no mean, whatever its weight; what is scored counts as one position, whatever its weight.
    """

    tokens: Tensor
    targets: Tensor
    mask: Tensor
    weight: Tensor
    source: Tensor

    @classmethod
    def uniform(cls, tokens: Tensor, targets: Tensor, mask: Tensor, source: Tensor) -> Self:
        """A batch whose scored positions all weigh 1."""
        return cls(tokens, targets, mask, torch.ones_like(mask, dtype=torch.float32), source)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device`."""
        return type(self)(*(getattr(self, f.name).to(device) for f in fields(self)))

    def expand(self, population: int | None) -> Self:
        """One batch `[B, T]` shown to every member, `[P, B, T]`, without a copy; itself for a single model."""
        if population is None or self.tokens.dim() == 3:
            return self
        tensors = (getattr(self, f.name) for f in fields(self))
        return type(self)(*(t.expand(population, *t.shape) for t in tensors))

    def split(self, count: int) -> list[Self]:
        """At most `count` batches of equal numbers of sequences, cut along B."""
        size = -(-self.tokens.shape[-2] // count)
        parts = [getattr(self, f.name).split(size, dim=-1 if f.name == "source" else -2) for f in fields(self)]
        return [type(self)(*tensors) for tensors in zip(*parts, strict=True)]

    def take(self, rows: Tensor) -> Self:
        """The sequences with these numbers along B, in their order."""
        tensors = ((getattr(self, f.name), -1 if f.name == "source" else -2) for f in fields(self))
        return type(self)(*(tensor.index_select(dim, rows) for tensor, dim in tensors))

    def members(self, some: slice) -> Self:
        """The batches of some members of a population, `[P, B, T]`; itself where all see the same, `[B, T]`."""
        if self.tokens.dim() == 2:
            return self
        return type(self)(*(getattr(self, f.name)[some] for f in fields(self)))

    def member(self, number: int) -> Self:
        """The batch of one member of a population, `[B, T]`; itself where all see the same."""
        if self.tokens.dim() == 2:
            return self
        return type(self)(*(getattr(self, f.name)[number] for f in fields(self)))

    def part(self, number: int, of: int) -> Self:
        """Part `number` of `of` parts along B, whose sizes differ by one sequence at most; the only one is itself."""
        if of == 1:
            return self
        count = self.tokens.shape[-2]
        begin, end = number * count // of, (number + 1) * count // of
        parts = ((f.name, getattr(self, f.name)) for f in fields(self))
        return type(self)(*(t[..., begin:end] if name == "source" else t[..., begin:end, :] for name, t in parts))


Batches = Callable[[int], Batch]  # step -> batch, pure
