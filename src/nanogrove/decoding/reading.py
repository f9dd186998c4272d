"""What a strategy reads: prompts as one tensor, and the sliding context of rows that grow.

When a row's context is full, its last `block_size // 2` tokens are read again into an empty cache and decoding goes
on: one extra read every half context, where cropping at each token would cost a full read every time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nanogrove.decoding.loop import Sequences
from nanogrove.model.cache import Cache
from nanogrove.model.gpt import GPT
from nanogrove.model.layers import leading


def pad(prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token lists, none or more, as `tokens [B, T]`, padded on the right with 0, and their `lengths [B]`.

    Raises ValueError for an empty prompt: a model needs a first token.
    """
    if not all(prompts):
        raise ValueError("a prompt needs at least one token")
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64)
    tokens = torch.zeros(len(prompts), max(map(len, prompts), default=1), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    return tokens.to(device), lengths.to(device)


def read(model: GPT, tokens: Tensor, lengths: Tensor, limit: int, spare: int = 0) -> tuple[Tensor, Cache]:
    """Reads each row's last `limit` tokens into an empty cache with room for `spare` more than the context holds.

    `tokens [R, T]` holds `lengths [R]` tokens per row. Returns the states `[*P, B, 1, C]` after them, and the cache.
    """
    keep = lengths.clamp(max=limit)
    at = (lengths - keep)[:, None] + torch.arange(int(keep.max()), device=lengths.device)
    window = tokens.gather(1, at.clamp(max=tokens.shape[1] - 1)).clamp(min=0)
    shape = (*leading(model.population), len(tokens) // (model.population or 1))
    cache = model.cache(shape[-1], min(tokens.shape[1], model.config.block_size) + spare)
    hidden = model.hidden(window.view(*shape, -1), cache, keep)
    last = (keep - 1).view(*shape, 1, 1).expand(*shape, 1, hidden.shape[-1])
    return hidden.gather(-2, last), cache


class Context:
    """What a model has read of growing rows: the states `[*P, B, 1, C]` after their latest tokens, and the cache.

    With `copies` each row is read so many times, all rows after all rows: by each member of an ensemble.
    """

    def __init__(self, model: GPT, rows: Sequences, spare: int = 0, copies: int = 1) -> None:
        self.model, self.rows, self.spare, self.copies = model, rows, spare, copies
        self.hidden, self.cache = self._read(model.config.block_size)

    def _read(self, limit: int) -> tuple[Tensor, Cache]:
        tokens, lengths = self.rows.tokens.repeat(self.copies, 1), self.rows.lengths.repeat(self.copies)
        return read(self.model, tokens, lengths, limit, self.spare)

    def renew(self) -> bool:
        """Reads the last half of a full context into an empty cache; whether it was full."""
        size = self.model.config.block_size
        full = self.cache.longest >= size
        if full:
            self.hidden, self.cache = self._read(max(size // 2, 1))
        return full

    def logits(self) -> Tensor:
        """The model's scores `[copies * R, V]` of each row's next token."""
        return self.model.logits(self.hidden).reshape(self.copies * len(self.rows.tokens), -1)
