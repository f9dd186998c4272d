"""How well a policy tells the chosen text of a held-out pair from the rejected one, next to its frozen reference."""

import numpy as np
import torch

from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.evaluate.accuracy import with_error
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Values
from nanogrove.train.objectives.preference import compare, dpo_loss
from nanogrove.waits import waiting


@torch.inference_mode()
def held_out_pairs(
    model: GPT,
    reference: GPT,
    corpus: RewardedCorpus,
    split: str,
    beta: float,
    length_normalised: bool = False,
    nll_weight: float = 0.0,
) -> tuple[float, Values]:
    """The DPO loss on all pairs of a split, and figures of these.

    `margin`, the mean of β(Δ chosen − Δ rejected), nats, and `in_order`, the share of pairs where it is above 0, each
    with its standard error, where prompts are independent; and the mean log-probabilities of both sides, per text and
    per token.

    Args:
        model: the policy.
        reference: what it is compared with.
        corpus: pairs of texts.
        split: which of its pairs.
        beta: of the DPO loss.
        length_normalised: whether Δ is per token.
        nll_weight: of the anchor in the loss.
    """
    rows, device = corpus.row_indices(split), model.embed.weight.device
    size = max(corpus.batch_size // 2 * 2, 2)
    losses, parts, margins, counts = [], [], [], []
    with evaluating(model), waiting(f"scoring {split}", len(rows)) as wait:
        for first in range(0, len(rows), size):
            batch = corpus.batch_of(rows[first : first + size]).to(device)
            pairs = compare(model, reference, batch, length_normalised)
            loss = dpo_loss(pairs, beta, nll_weight)
            losses.append(float(loss.total))
            parts.append({name: float(part) for name, part in loss.parts.items()})
            margins.append(beta * pairs.difference.double().cpu())
            counts.append(len(batch.tokens))
            wait.done += len(batch.tokens)
    means = {name: float(np.average([part[name] for part in parts], weights=counts)) for name in parts[0]}
    margin, documents = torch.cat(margins), corpus.documents(split)[::2]
    errors = {**with_error("margin", margin, documents), **with_error("in_order", margin > 0, documents)}
    return float(np.average(losses, weights=counts)), {**errors, **means}
