"""Rolling memory: a text is read in segments, and a few vectors written behind one are read ahead of the next.

The Recurrent Memory Transformer (Bulatov 2022), of whose form AutoCompressors (Chevalier 2023) are a relative. With S
tokens a segment and m vectors of memory, the blocks see of segment i, under plain causal attention,

    M_{i−1} [m]   the segment's tokens [S]   M_{i−1} + w [m]

The states at the last m places are M_i: they have seen the segment and the memory before it, and begin as the old
memory, so that what is not overwritten stays. w is learned, as is M_0; nothing else is added to the model. A token sees
its own segment up to itself and, through memory alone, all segments before it. Nobody reads the memory behind the last
segment, so a whole window does not write it.

Positions count within a segment: rotary ones over all S + 2m places, learned ones over the S tokens, since slots are
told apart by vectors of their own. Token shift reaches across the border of segments. Gradients flow through all
segments of a window. Where this deviates: a memory is the model's final normalised state, so it is as long as what the
output map reads; a first memory and w begin small.

While decoding, a cache holds one memory and one segment, so no text is too long for it. The memory is written when a
token is to follow a full segment. Rows get there at different times: all rows compute the new memory, and those with a
full segment take it. Shapes are named in `layers.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nanogrove.model.layers import Cache, Embedding

Run = Callable[[Tensor, Cache | None], Tensor]  # inputs `[*P, B, N, C]` behind what a cache holds -> their states


class Memory(nn.Module):
    """The learned vectors of a memory of `tokens` vectors, and how it rolls over segments of `segment` tokens."""

    def __init__(self, tokens: int, segment: int, n_embd: int, population: int | None = None) -> None:
        super().__init__()
        self.tokens, self.segment = tokens, segment
        self.first = Embedding(tokens, n_embd, population)
        self.write = Embedding(tokens, n_embd, population)

    def places(self) -> int:
        """Places that a segment takes, both memories included."""
        return self.segment + 2 * self.tokens

    def read(
        self, x: Tensor, run: Run, caches: Callable[[], Cache] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Cache | None]:
        """States `[*P, B, T, C]` and memories `[*P, B, N, m, C]` of token inputs `x [*P, B, T, C]` from the start.

        The memories are those behind all segments but the last. `caches` makes an empty cache, and one comes back that
        holds each row's latest segment behind its memory, of rows with true `lengths [R]`.
        """
        memory = self.first.weight[..., None, :, :].expand(*x.shape[:-2], -1, -1)
        write, kept = self.write.weight[..., None, :, :], None
        states, memories = [], []
        begins = range(0, x.shape[-2], self.segment)
        for begin, piece in zip(begins, x.split(self.segment, -2), strict=True):
            parts = [memory, piece] if begin == begins[-1] else [memory, piece, memory + write]
            cache = caches() if caches else None
            y = run(torch.cat(parts, -2), cache)
            if cache is not None and lengths is not None:
                rows = lengths > begin
                there = self.tokens + (lengths - begin).clamp(max=self.segment)
                kept = kept or caches()
                kept.adopt(rows, cache, there, memory)
            states.append(y[..., self.tokens : self.tokens + piece.shape[-2], :])
            memory = y[..., self.tokens + piece.shape[-2] :, :]
            memories.append(memory)
        written = torch.stack(memories[:-1], -3) if len(memories) > 1 else x.new_empty(*x.shape[:-2], 0, *memory.shape[-2:])
        return torch.cat(states, -2), written, kept

    def roll(self, cache: Cache, run: Run, caches: Callable[[], Cache]) -> None:
        """Makes room: rows with a full segment write their memory, and go on behind it alone."""
        full = cache.lengths == self.tokens + self.segment
        if not bool(full.any()):
            return
        assert cache.memory is not None
        memory = run(cache.memory + self.write.weight[..., None, :, :], cache)
        fresh = caches()
        run(memory, fresh)
        cache.adopt(full, fresh, torch.full_like(cache.lengths, self.tokens), memory)
