"""The batch every objective reads, and what a corpus owes to training.

All data is a function of (seed, purpose, step), never of history: any batch can be computed without the ones before
it, by any process, so a resumed run sees exactly what it would have seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from nanogrove.data.tokenizer import Tokenizer


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


class Corpus(Protocol):
    """Data ready for training: a tokenizer and batches that are functions of the step."""

    tokenizer: Tokenizer
    length: int  # tokens of a training window

    @property
    def windows_per_epoch(self) -> int | None:
        """Windows in one pass over the training split; None where every batch is fresh."""

    def batches(self, step: int) -> Batch:
        """Batch number `step`; pure, so that any process can compute any batch."""

    def windows(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """Fixed batches that cover a split without overlap, or about `limit` evenly spread tokens of it."""

    def documents(self, split: str, limit: int | None = None) -> Tensor:
        """Which document each sequence of `windows` is from, `[N]` int64: scores on two documents are independent."""

    def truth(self, split: str, limit: int | None = None) -> Iterator[Tensor] | None:
        """The exact distribution of each target `[B, T, V]` for each batch of `windows`; None where nobody knows it."""

    def describe(self) -> dict[str, Any]:
        """Figures for the record: documents, tokens a split, fingerprint, and what else is known of the data."""

    def bytes_per_token(self, split: str) -> float | None:
        """Mean UTF-8 bytes of text a token of the split stands for; None where tokens are no text."""


def random(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A generator that depends on (seed, purpose, index) alone, equal on every machine."""
    return np.random.default_rng([seed, *purpose.encode(), *index])


def derived_seed(seed: int, purpose: str, *index: int) -> int:
    """A seed for another kind of generator, torch's say, that depends on (seed, purpose, index) alone."""
    return int(random(seed, purpose, *index).integers(1 << 62))


def permuted(index: np.ndarray, size: int, key: np.random.Generator) -> np.ndarray:
    """Images of `index` under a random permutation of range(size), computed without storing it.

    A four-round Feistel network on the smallest square of a power of two that holds `size`, walked until the image
    lies in range (Black & Rogaway 2002). `key` chooses the permutation.
    """
    bits = max(1, -(-(size - 1).bit_length() // 2))
    mask = np.uint64((1 << bits) - 1)
    keys = key.integers(1 << 63, size=4, dtype=np.uint64)
    image = index.astype(np.uint64)
    outside = np.ones(len(image), dtype=bool)
    while outside.any():
        left, right = image[outside] >> np.uint64(bits), image[outside] & mask
        for round_key in keys:
            mixed = (right + round_key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(33)) & mask)
        image[outside] = (left << np.uint64(bits)) | right
        outside = image >= size
    return image.astype(np.int64)
