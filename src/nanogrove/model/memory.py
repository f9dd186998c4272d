"""Rolling memory: vectors that a model writes after each segment of a text and reads before the next one.

A window is read in segments of S tokens. Attention sees, in this order, the m vectors of the memory, the tokens of the
segment, and m positions where the next memory is written; it is causal, so a token sees the memory and the segment up
to itself, and a written vector all of both. What the last layer gives at these positions is the memory of the next
segment (Recurrent Memory Transformer, Bulatov 2022). Their input is the old memory plus a learned vector each, so that
a memory that is to stay the same can. The first memory is learned. Gradients flow through all segments of a window.

Nothing limits how many segments a text has; what one costs does not depend on those before it. Positions count within
a segment: 0 … m − 1 for what is read, then the tokens, then what is written.
"""

import torch
from torch import Tensor, nn

from nanogrove.model.layers import leading


class Memory(nn.Module):
    """The first memory, and what stands at the positions where the next one is written; m vectors each."""

    def __init__(self, tokens: int, n_embd: int, population: int | None = None) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.empty(*leading(population), tokens, n_embd))
        self.write = nn.Parameter(torch.empty(*leading(population), tokens, n_embd))

    def first(self, rows: int) -> Tensor:
        """`[*P, rows, m, C]`: what a text begins with."""
        start = self.start[..., None, :, :]
        return start.expand(*start.shape[:-3], rows, *start.shape[-2:])

    def inputs(self, memory: Tensor) -> Tensor:
        """Inputs `[*P, B, m, C]` of the positions at which what follows `memory [*P, B, m, C]` is written."""
        return memory + self.write[..., None, :, :]
