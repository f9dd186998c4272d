"""Keys and values of tokens that were read, and where the tokens that follow them stand.

Letters of shapes are those of `layers.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanogrove.model.coupled import CoupledIds
from nanogrove.model.documents import document_mask, document_starts


class Placement(NamedTuple):
    """Where new tokens stand, and what they see.

    Args:
        positions: `[T]`, or `[R, T]` where each row has its own.
        mask: What each sees: for a first read 0 or −inf `[R, 1, T, T]`, after it true or false
            `[R, 1, T, keys]`; None for all that came before and itself.
        previous: `[R]`, the token before the first of them; None where nothing was read.
        ids: `[R, T]`, coupled positions; None where the model has none.
    """

    positions: Tensor
    mask: Tensor | None
    previous: Tensor | None
    ids: Tensor | None = None


def first_placement(tokens: Tensor, mark: int | None, like: Tensor, coupled: CoupledIds | None = None) -> Placement:
    """Where `tokens [R, T]` stand that are read first; `like` has the device and the format of states."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    mask = None if mark is None else document_mask(document_starts(tokens, mark, positions), like)
    ids = None if coupled is None else coupled.ids(tokens, positions)
    return Placement(positions, mask, None, ids)


class Cache:
    """Keys and values of the tokens read so far, layer by layer, for R rows of different lengths.

    Row r holds its tokens at 0 … lengths[r] − 1, whatever the other rows do, so a prompt needs no padding on the
    left and its positions are those of a prompt decoded alone. Attention never sees what lies past a row's length nor,
    where a `mark` begins each document, what lies before the latest one.

    Rows may come and go: after `clear` none is held, `put` takes over one that was read elsewhere, and `drop` forgets
    one. Those that are held are the first of the rows that there is room for.

    Args:
        layers: How many layers write to it.
        rows: R, of a population P * B; the rows that there is room for.
        heads: G, heads of keys and values.
        size: Tokens that each row has room for.
        head_size: D.
        like: A tensor of the device and format of the keys and values.
        mark: The token that begins a document; None where attention sees all that came before.
        coupled: The ids of coupled positions; None where the model has none.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        size: int,
        head_size: int,
        like: Tensor,
        mark: int | None = None,
        coupled: CoupledIds | None = None,
    ) -> None:
        self.keys = like.new_zeros(layers, rows, heads, size, head_size)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.last = torch.zeros(rows, dtype=torch.int64, device=like.device)  # each row's latest token
        self.start = torch.zeros(rows, dtype=torch.int64, device=like.device)  # and where its document begins
        self.zero = torch.full_like(self.start, -1)  # and the position from which its next coupled id counts
        self.mark, self.coupled = mark, coupled
        self.before_latest = self.last, self.start, self.zero  # the three, before the latest reading
        self.longest = 0
        self.ragged = False

    def place(self, tokens: Tensor, candidates: bool = False) -> Placement:
        """Where the next `tokens [R, T]` of a cache that is not empty stand.

        With `candidates` they are T candidates for one position: each sees what was read and itself. They are stored
        side by side all the same, so a cache for them has room for as many tokens more.
        """
        count = tokens.shape[1]
        mask = self._mask(count, candidates, self._starts(tokens, candidates))
        positions = torch.arange(self.longest, self.longest + count, device=tokens.device)
        if self.ragged or candidates:
            positions = self._positions(count, candidates)
        ids = None if self.coupled is None else self.coupled.ids(tokens, positions, self.zero[:, None], candidates)
        return Placement(positions, mask, self.last, ids)

    def advance(self, tokens: Tensor, lengths: Tensor | None = None) -> None:
        """Counts `tokens [R, T]` more in every row, or, after a first read of padded prompts, `lengths [R]` of them."""
        starts, zeros = self._starts(tokens), self._zeros(tokens)
        self.before_latest = self.last, self.start, self.zero
        if starts is not None:
            self.start = starts[:, -1] if lengths is None else starts.gather(1, lengths[:, None] - 1)[:, 0]
        if zeros is not None:
            self.zero = zeros[:, -1] if lengths is None else zeros.gather(1, lengths[:, None] - 1)[:, 0]
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
        """Takes back all but the first `counts [R]` of the latest `tokens [R, T]`; they must not be a first read."""
        self.lengths = self.lengths - tokens.shape[1]
        self._hold(self.lengths, *self.before_latest)
        starts, zeros, latest = self._starts(tokens), self._zeros(tokens), (counts - 1).clamp(min=0)[:, None]
        values = (tokens, starts, zeros)
        kept = (
            before if value is None else torch.where(counts > 0, value.gather(1, latest)[:, 0], before)
            for value, before in zip(values, self.before_latest, strict=True)
        )
        self._hold(self.lengths + counts, *kept)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores `[R, G, T, D]` after each row's tokens; returns all keys and values up to the longest row."""
        count, new, end = keys.shape[0], keys.shape[2], self.longest + keys.shape[2]
        if self.ragged:
            rows = torch.arange(count, device=keys.device)[:, None]
            at = self.lengths[:, None] + torch.arange(new, device=keys.device)
            self.keys[layer][rows, :, at] = keys.transpose(1, 2)
            self.values[layer][rows, :, at] = values.transpose(1, 2)
        else:
            self.keys[layer][:count, :, self.longest : end] = keys
            self.values[layer][:count, :, self.longest : end] = values
        return self.keys[layer][:count, :, :end], self.values[layer][:count, :, :end]

    def take(self, index: Tensor, tokens: Tensor) -> None:
        """Counts the candidate `index [R]` of each row, which is the token `tokens [R]`, as read; the others are void.

        Its keys and values are those of its position already: they move to the front of its candidates'.
        """
        rows, at = torch.arange(len(index), device=index.device), self.lengths + index
        for stored in (self.keys, self.values):
            stored[:, rows, :, self.lengths] = stored[:, rows, :, at]
        self.advance(tokens[:, None])

    def clear(self) -> None:
        """Forgets all rows; none is held then."""
        self._hold(*(held[:0] for held in self._held))

    def put(self, row: int, other: "Cache") -> None:
        """Makes the one row of `other` the row of number `row`, which is a new one where so many are held already."""
        self._copy_row(row, other, 0, other.longest)
        pairs = zip(self._held, other._held, strict=True)
        self._hold(*(torch.cat([held[:row], new, held[row + 1 :]]) for held, new in pairs))

    def drop(self, row: int) -> None:
        """Forgets a row; the last one takes its number."""
        end = len(self.lengths) - 1
        if row < end:
            self._copy_row(row, self, end, int(self.lengths[end]))
        parts = (torch.cat([held[:row], held[end:], held[row + 1 : end]]) for held in self._held)
        self._hold(*(part[:end] for part in parts))

    def restart(self, rows: Sequence[int]) -> None:
        """Forgets what `rows` hold; they stay, without a token."""
        lengths, zero = self.lengths.clone(), self.zero.clone()
        lengths[list(rows)], zero[list(rows)] = 0, -1
        self._hold(lengths, self.last, self.start, zero)

    @property
    def _held(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is known of each row that is held, `[R]` each."""
        return self.lengths, self.last, self.start, self.zero

    def _hold(self, lengths: Tensor, last: Tensor, start: Tensor, zero: Tensor) -> None:
        self.lengths, self.last, self.start, self.zero = lengths, last, start, zero
        self.before_latest = last, start, zero
        self.longest = int(lengths.max()) if len(lengths) else 0
        self.ragged = bool((lengths != self.longest).any())

    def _copy_row(self, row: int, other: "Cache", source: int, length: int) -> None:
        self.keys[:, row, :, :length] = other.keys[:, source, :, :length]
        self.values[:, row, :, :length] = other.values[:, source, :, :length]

    def _positions(self, count: int, candidates: bool = False) -> Tensor:
        """`[R, count]`: the positions of the next tokens of each row; of `candidates` the one position that is next."""
        step = torch.arange(count, device=self.lengths.device)
        return self.lengths[:, None] + (torch.zeros_like(step) if candidates else step)

    def _starts(self, tokens: Tensor, candidates: bool = False) -> Tensor | None:
        """Where the documents of the next `tokens [R, T]` begin, `[R, T]`; None where no mark begins one."""
        if self.mark is None:
            return None
        positions = self._positions(tokens.shape[1], candidates)
        return document_starts(tokens, self.mark, positions, self.start[:, None], candidates)

    def _zeros(self, tokens: Tensor) -> Tensor | None:
        """From where coupled ids after each of the next `tokens [R, T]` count; None where the model has none."""
        if self.coupled is None:
            return None
        return self.coupled.zeros(tokens, self._positions(tokens.shape[1]), self.zero[:, None])

    def _mask(self, count: int, candidates: bool, starts: Tensor | None) -> Tensor | None:
        """Which stored keys the next tokens see, `[R, 1, count, longest + count]`; None where all are seen."""
        if count == 1 and not self.ragged and starts is None:
            return None
        key, stored = torch.arange(self.longest + count, device=self.lengths.device), self._positions(count)[..., None]
        seen = (key < self.lengths[:, None, None]) | (key == stored) if candidates else key <= stored
        return (seen if starts is None else seen & (key >= starts[..., None]))[:, None]
