"""Continuous batching (Yu 2022, Orca): rows of one cache that come and go, each with its own text, length and draw.

A prompt is read alone, as one row, and its keys and values move into the cache that all rows share; then each call of
the model reads one token of every row. With the C kernels a row's bits depend on no other row, so that a text is the
one that `generate` gives for its seed, whatever is decoded beside it; without them, sums are rounded otherwise where
there are other rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanogrove.decoding.program import OneToken, one_token
from nanogrove.decoding.reading import pad, read
from nanogrove.decoding.sampling import Sampler, Sampling, token_at
from nanogrove.model.gpt import GPT


class Draw(NamedTuple):
    """How the tokens of one row are chosen, and its stream of random numbers."""

    settings: Sampling
    generator: torch.Generator


class OpenRows:
    """Texts that a single model continues side by side, numbered from 0 without a gap.

    A row that leaves gives its number to the last one. Weights are to be packed by the caller, and gradients off.

    Args:
        model: One without a rolling memory.
        room: Rows at most.
    """

    def __init__(self, model: GPT, room: int) -> None:
        self.model, self.room = model, room
        self.texts: list[list[int]] = []
        self._cache = model.cache(room)
        self._programs: dict[int, OneToken | None] = {}
        self.clear()

    def admit(self, prompt: Sequence[int]) -> Tensor:
        """Reads a prompt, of one token or more, as a new row, the last: the scores `[1, V]` of its next token.

        Of a prompt longer than the context the last tokens are read.
        """
        hidden = self._read(len(self.texts), prompt, self.model.config.block_size)
        self.texts.append(list(prompt))
        return self.model.logits(hidden)[:, 0]

    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Appends a token to each of the n rows and reads it: the scores `[n, V]` of the next ones.

        Where a row's context is full the last half of its text is read anew, as in `decoding/reading.py`.
        """
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)
        size = self.model.config.block_size
        full = [row for row, length in enumerate(self._cache.lengths.tolist()) if length >= size]
        if full:
            self._cache.restart(full)  # the call below may write there: they are read again after it
        hidden = self._call(torch.tensor(tokens, device=self.model.embed.weight.device))
        for row in full:
            hidden[row] = self._read(row, self.texts[row], max(size // 2, 1))[0]
        return self.model.logits(hidden)[:, 0]

    def leave(self, row: int) -> None:
        """Forgets a row; the last one takes its number."""
        self._cache.drop(row)
        last = self.texts.pop()
        if row < len(self.texts):
            self.texts[row] = last

    def clear(self) -> None:
        """Forgets all rows, in whatever state an error has left them."""
        self._cache.clear()
        self.texts.clear()

    def _read(self, row: int, text: Sequence[int], limit: int) -> Tensor:
        """Reads the last `limit` tokens of a text into the cache: the states `[1, 1, C]` after them."""
        hidden, cache = read(self.model, *pad([text], self.model.embed.weight.device), limit)
        self._cache.put(row, cache)
        return hidden

    def _call(self, tokens: Tensor) -> Tensor:
        """The states `[n, 1, C]` after `tokens [n]`, one of each row."""
        count = len(tokens)
        if count not in self._programs:
            self._programs[count] = one_token(self.model, count)
        program = self._programs[count]
        return self.model.hidden(tokens[:, None], self._cache) if program is None else program.read(tokens, self._cache)


def choose(logits: Tensor, draws: Sequence[Draw], texts: Sequence[Sequence[int]]) -> list[int]:
    """The next token of each of R rows, as a `Sampler` of its settings alone chooses it.

    Args:
        logits: `[R, V]`.
        draws: How each row is drawn; rows of equal settings are computed together.
        texts: What each row has read.
    """
    groups: dict[Sampling, list[int]] = {}
    for row, draw in enumerate(draws):
        groups.setdefault(draw.settings, []).append(row)
    chosen = [0] * len(draws)
    for settings, rows in groups.items():
        lengths = torch.tensor([len(texts[row]) for row in rows], device=logits.device)
        before = _padded([texts[row] for row in rows], logits.device) if settings.looks_back else lengths[:, None]
        sampler = Sampler(settings.transforms(), settings.temperature)
        scores = sampler.scores(logits if len(rows) == len(draws) else logits[rows], before, lengths)
        tokens = scores.argmax(-1) if sampler.greedy else token_at(scores, _numbers([draws[row] for row in rows]))
        for row, token in zip(rows, tokens.tolist(), strict=True):
            chosen[row] = token
    return chosen


def _padded(texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Texts as `[R, T]`, with −1 past the end of each, as transforms read them."""
    tokens, lengths = pad(texts, device)
    return tokens.masked_fill(torch.arange(tokens.shape[1], device=device) >= lengths[:, None], -1)


def _numbers(draws: Sequence[Draw]) -> Tensor:
    """A number `[R, 1]` between 0 and 1 from the stream of each row."""
    streams = [draw.generator for draw in draws]
    return torch.cat([torch.rand(1, 1, dtype=torch.float64, device=each.device, generator=each) for each in streams])
