"""Coupled positions: the id of a token is its place within its run, so that equal places of several numbers share one.

A run is made of neighbouring tokens of a given set, such as digits, and its tokens count from 1. A token that starts a
run, such as `=`, counts as the first of it, so the token that predicts place k of an answer has the id of place k of
the numbers before it. A token that ends a run, if any are given, such as `+`, counts as one more of it, so that the end
of a number can be found by its place too. All other tokens have id 0:

    2 1 + 5 4 = 7 5 0
    1 2 0 1 2 1 2 3 4     without ends
    1 2 3 1 2 1 2 3 4     where `+` ends a run

An id depends on the tokens up to its own alone: it is a function of the prompt, and the same with a cache or without.
While a model trains, one random offset per row is added to all ids but 0, so that every id is trained though
runs are short; in use it is 0.

Position coupling is from Cho 2024 (arXiv 2405.20671), the offset of ids within numbers from McLeish 2024 (Abacus,
arXiv 2405.17399). Theirs are ids of one task; here a set of tokens decides. Letters of shapes are those of `layers.py`.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

IN_RUN, OUTSIDE, START, END = 0, 1, 2, 3


class CoupledIds(nn.Module):
    """The ids of tokens, and the offsets that are added to them in training.

    Args:
        vocabulary: V.
        run: the tokens that form runs.
        starts: the tokens that start one.
        ends: the tokens that end one.
        largest_offset: of those that are drawn, each from 0 to this equally likely.
    """

    kinds: Tensor

    def __init__(
        self,
        vocabulary: int,
        run: Collection[int],
        starts: Collection[int],
        ends: Collection[int],
        largest_offset: int,
    ) -> None:
        super().__init__()
        kinds = torch.full((vocabulary,), OUTSIDE)
        kinds[list(run)] = IN_RUN
        kinds[list(starts)] = START
        kinds[list(ends)] = END
        self.register_buffer("kinds", kinds, persistent=False)
        self.largest_offset = largest_offset
        self._streams: list[torch.Generator] = []

    def zeros(self, tokens: Tensor, positions: Tensor, before: Tensor | int = -1, candidates: bool = False) -> Tensor:
        """The position from which ids after each of `tokens [R, T]` count, `[R, T]`; `positions` are theirs.

        `before [R, 1]` is that of the token before them, −1 where there is none. Of `candidates` for one position none
        follows another.
        """
        kinds = self.kinds[tokens]
        zeros = torch.where(kinds == IN_RUN, before, positions - (kinds == START).long())
        return zeros if candidates else zeros.cummax(-1).values

    def ids(self, tokens: Tensor, positions: Tensor, before: Tensor | int = -1, candidates: bool = False) -> Tensor:
        """The ids `[R, T]` of `tokens [R, T]`; arguments are those of `zeros`."""
        zeros = self.zeros(tokens, positions, before, candidates)
        earlier = zeros.new_full((len(zeros), 1), before) if isinstance(before, int) else before
        earlier = earlier.expand_as(zeros) if candidates else torch.cat((earlier, zeros[:, :-1]), 1)
        return positions - torch.where(self.kinds[tokens] == END, earlier, zeros)

    @property
    def active(self) -> bool:
        """Whether offsets are drawn."""
        return self.training and self.largest_offset > 0

    def seed(self, seeds: Sequence[int], device: torch.device) -> None:
        """Starts the streams of offsets, one for each member."""
        self._streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def with_offsets(self, ids: Tensor) -> Tensor:
        """Ids `[R, T]`, plus the offset of their row where offsets are drawn; torch's stream serves until `seed`."""
        if not self.active:
            return ids
        streams: Sequence[torch.Generator | None] = self._streams or [None]
        rows = (len(ids) // len(streams),)
        drawn = [torch.randint(self.largest_offset + 1, rows, generator=s, device=ids.device) for s in streams]
        return ids + torch.cat(drawn)[:, None] * (ids > 0)
