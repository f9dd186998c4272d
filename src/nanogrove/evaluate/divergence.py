"""The divergence of a policy from its reference: the mean KL per token, on texts."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from nanogrove.data.batch import Batch
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating


@torch.inference_mode()
def divergence(model: GPT, reference: GPT, batches: Iterable[Batch]) -> float:
    """The mean of KL(model ‖ reference) over the scored positions of `batches`, nats per token, for single models."""
    device = model.embed.weight.device
    total, tokens = 0.0, 0
    with evaluating(model):
        for batch in batches:
            rows = batch.to(device)
            ours, theirs = (F.log_softmax(m(rows.tokens).double(), -1) for m in (model, reference))
            counted = rows.mask
            total += float(((ours.exp() * (ours - theirs)).sum(-1) * counted).sum())
            tokens += int(counted.sum())
    return total / max(tokens, 1)
