"""The divergence of a policy from its reference: the mean KL per token, on texts."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from nanogrove.data.batch import Batch
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating


def divergence(model: GPT, reference: GPT, batches: Iterable[Batch]) -> float:
    """The mean of KL(model ‖ reference) over the scored positions of `batches`, nats per token, for single models."""
    (mean,) = divergences(model, reference, batches)
    return mean


@torch.inference_mode()
def divergences(model: GPT, reference: GPT, batches: Iterable[Batch]) -> list[float]:
    """The same for each member of two populations, or for the only two models."""
    device, members = model.embed.weight.device, model.population or 1
    sums, tokens = [0.0] * members, 0
    with evaluating(model):
        for batch in batches:
            counted = batch.mask.to(device)
            rows = batch.tokens.to(device)
            shown = rows if model.population is None else rows.expand(members, *rows.shape)
            ours, theirs = (F.log_softmax(m(shown).double(), -1) for m in (model, reference))
            each = (ours.exp() * (ours - theirs)).sum(-1).view(members, *rows.shape) * counted
            sums = [known + float(member.sum()) for known, member in zip(sums, each, strict=True)]
            tokens += int(counted.sum())
    return [known / max(tokens, 1) for known in sums]
