"""The loss of a token from its logits, with label smoothing where members of a population may differ in it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.model.members import equal_runs

Smoothing = float | Sequence[float]  # one for all members, or one for each


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: Smoothing = 0.0) -> Tensor:
    """`(1 − s)·nll + s·mean over the vocabulary of −log p`, `[*P, N]`, of `logits [*P, N, V]` for `targets [*P, N]`.

    The cross-entropy to the target mixed with a share s of the uniform distribution (Szegedy 2016); 0 gives the NLL.
    """
    if isinstance(smoothing, float):
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none", label_smoothing=smoothing)
        return loss.view(targets.shape)
    runs = equal_runs(smoothing)
    return torch.cat([cross_entropy(logits[a:b], targets[a:b], smoothing[a]) for a, b in runs])


def smoothing_of(smoothing: Smoothing, first: int, stop: int) -> Smoothing:
    """That of some consecutive members."""
    return smoothing if isinstance(smoothing, float) else smoothing[first:stop]
