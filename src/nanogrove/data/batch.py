"""The batch that every objective reads.

All data is a function of (seed, purpose, step), never of history: any batch can be computed without the ones before
it, by any process, so a resumed run sees exactly what it would have seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """`*P` population axes, B sequences, T tokens.

    tokens   [*P, B, T] int64
    targets  [*P, B, T] int64
    mask     [*P, B, T] bool, whether a position is scored
    weight   [*P, B, T] float32, how much a scored position weighs; it may be 0 or negative
    source   [*P, B]    int64, the text source of each sequence; 0 where the data has none
    extra    [*P, B, …] tensors of a method by name, such as which texts are wanted

    Positions that are not scored are in no mean; each scored one counts once in the denominator, whatever its weight.
    """

    tokens: Tensor
    targets: Tensor
    mask: Tensor
    weight: Tensor
    source: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def uniform(
        cls,
        tokens: Tensor,
        targets: Tensor,
        mask: Tensor,
        source: Tensor | None = None,
        extra: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """A batch whose scored positions all weigh 1, of source 0 when left out."""
        source = torch.zeros(tokens.shape[:-1], dtype=torch.int64) if source is None else source
        return cls(tokens, targets, mask, torch.ones_like(mask, dtype=torch.float32), source, extra or {})

    @classmethod
    def stack(cls, members: Sequence["Batch"]) -> Self:
        """Batches `[B, T]` of one shape, of each member its own, as `[P, B, T]`."""
        first = members[0]
        tokens, targets, mask, weight, source = (
            torch.stack([getattr(batch, name) for batch in members])
            for name in ("tokens", "targets", "mask", "weight", "source")
        )
        extra = {name: torch.stack([batch.extra[name] for batch in members]) for name in first.extra}
        return cls(tokens, targets, mask, weight, source, extra)

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch of what `change` makes of each tensor."""
        return type(self)(
            change(self.tokens),
            change(self.targets),
            change(self.mask),
            change(self.weight),
            change(self.source),
            {name: change(tensor) for name, tensor in self.extra.items()},
        )

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device`."""
        return self.each(lambda tensor: tensor.to(device))

    def expand(self, population: int | None) -> Self:
        """One batch `[B, T]` shown to every member, `[P, B, T]`, without a copy; itself for a single model."""
        if population is None or self.tokens.dim() == 3:
            return self
        return self.each(lambda tensor: tensor.expand(population, *tensor.shape))

    def rows(self, begin: int, end: int) -> Self:
        """The sequences from number `begin` to `end`, the latter not included, without a copy."""
        axis = self.tokens.dim() - 2
        return self.each(lambda tensor: tensor.narrow(axis, begin, end - begin))

    def split(self, count: int) -> list[Self]:
        """At most `count` batches of equal numbers of sequences, but for the last."""
        rows = self.tokens.shape[-2]
        size = -(-rows // count)
        return [self.rows(begin, min(begin + size, rows)) for begin in range(0, rows, size)]

    def take(self, rows: Tensor) -> Self:
        """The sequences with these numbers along B, in their order."""
        axis = self.tokens.dim() - 2
        return self.each(lambda tensor: tensor.index_select(axis, rows))

    def members(self, members: slice) -> Self:
        """The batches of some members of a population, `[P, B, T]`; itself where all see the same, `[B, T]`."""
        return self if self.tokens.dim() == 2 else self.each(lambda tensor: tensor[members])

    def member(self, number: int) -> Self:
        """The batch of one member of a population, `[B, T]`; itself where all see the same."""
        return self if self.tokens.dim() == 2 else self.each(lambda tensor: tensor[number])

    def part(self, number: int, of: int) -> Self:
        """Part `number` of `of` parts along B, whose sizes differ by one sequence at most; the only one is itself."""
        count = self.tokens.shape[-2]
        return self if of == 1 else self.rows(number * count // of, (number + 1) * count // of)


Batches = Callable[[int], Batch]  # step -> batch, pure
