"""Where documents begin in rows of tokens, and the mask that keeps attention inside them.

Text is packed: a window is cut from a stream of documents, each begun by a mark, so it holds the end of one, then
whole ones, then the beginning of another. What stands before the first mark of a window is a document too.
"""

import torch
from torch import Tensor


def document_starts(
    tokens: Tensor, mark: int, positions: Tensor, before: Tensor | int = 0, candidates: bool = False
) -> Tensor:
    """For each of `tokens [R, T]` at `positions [R, T]` or `[T]` the position where its document begins, `[R, T]`.

    That is the position of the latest `mark`, itself included, or `before [R, 1]` where there is none yet. Of
    `candidates` for one position none follows another.
    """
    starts = torch.where(tokens == mark, positions, before)
    return starts if candidates else starts.cummax(-1).values


def document_mask(starts: Tensor, like: Tensor) -> Tensor:
    """What to add to scores, `[R, 1, T, T]`, 0 or −inf: causal, and within documents that begin at `starts [R, T]`.

    In the format that attention has from states `like`, so that no layer makes and keeps a copy of its own.
    """
    kind, key = like.device.type, torch.arange(starts.shape[1], device=starts.device)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    seen = (key >= starts[..., None]) & (key <= key[:, None])
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -torch.inf)[:, None]
