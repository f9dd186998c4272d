"""What an ensemble predicts: the loss of averaged probabilities, what each further member brings, and disagreement.

Disagreement is the mutual information of the next token and the member that predicts it, H(mean p) − mean H(p)
(Depeweg 2018; BALD of Houlsby 2011): 0 where all members say the same. Where the true distribution is known, both it
and the entropy of the mean are compared with the exact error of a position, ½ Σ |p_mean − p_true|, by rank.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.model.ensemble import Ensemble, mean_log_probs
from nanogrove.model.gpt import GPT, MAX_LOGITS_PER_CHUNK
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Values
from nanogrove.record.measures import derived

EQUAL_DECIMALS = 9  # values that differ by less differ by rounding, and share a rank


class Losses(NamedTuple):
    """Mean NLL per scored token, in nats: `members [P]` of each, and `by_count [P]` of 1, 2, … P of them together.

    The latter are means over the P ensembles of consecutive members, those after the last one going on with the first;
    the first is the mean over members, and the last the ensemble's.
    """

    members: Tensor
    by_count: Tensor
    tokens: int


@torch.inference_mode()
def ensemble_losses(members: GPT, batches: Iterable[Batch]) -> Losses:
    """The losses of a population by itself and together on `batches`, without dropout; sums in float64."""
    count, device = members.population or 1, members.embed.weight.device
    alone, together = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    tokens = 0
    with evaluating(members):
        for batch in batches:
            shown = batch.to(device).expand(count)
            scores = -members(shown.tokens, shown.targets).double()[shown.mask].view(count, -1)
            alone -= scores.sum(-1).cpu()
            sums = [together_nll(scores.roll(-first, 0)).sum(-1) for first in range(count)]
            together += torch.stack(sums).mean(0).cpu()
            tokens += int(batch.mask.sum())
    return Losses(alone / max(tokens, 1), together / max(tokens, 1), tokens)


def together_nll(log_probs: Tensor) -> Tensor:
    """The NLL `[P, N]` of the mean probability of the first 1, 2, … P members, of log-probabilities `[P, N]`."""
    counts = torch.arange(1, len(log_probs) + 1, dtype=log_probs.dtype, device=log_probs.device)
    return counts.log()[:, None] - torch.logcumsumexp(log_probs, 0)


def score_ensemble(members: GPT, corpus: Corpus, split: str, limit: int | None = None) -> Values:
    """The values of an `eval` event of an ensemble on a split, or on about `limit` tokens of it.

    Those of `evaluate_split`, of the mean of probabilities; `member_loss`, the mean over members of their losses, and
    `member_losses`; `losses_by_count`, the loss of 1, 2, … P members together.
    """
    losses = ensemble_losses(members, corpus.eval_batches(split, limit))
    values = {"split": split, "loss": float(losses.by_count[-1]), "tokens": losses.tokens}
    if corpus.has_answers or corpus.true_distributions(split, 1) is not None:
        values = evaluate_split(Ensemble(members), corpus, split, limit)
    else:
        values |= derived(values, bytes_per_token=corpus.bytes_per_token(split))
    return {
        **values,
        "member_loss": float(losses.members.mean()),
        "member_losses": losses.members.tolist(),
        "losses_by_count": losses.by_count.tolist(),
    }


@torch.inference_mode()
def mean_logits_loss(members: GPT, batches: Iterable[Batch]) -> float:
    """The mean NLL per scored token of the softmax of mean logits, nats: the other way to average, to compare with."""
    total, tokens = 0.0, 0
    with evaluating(members):
        for rows in _in_chunks(members, batches):
            logits = members(rows.tokens.expand(members.population or 1, *rows.tokens.shape)).float()
            scores = F.log_softmax(logits.mean(0).double(), -1)
            total -= float((scores.gather(-1, rows.targets[..., None])[..., 0] * rows.mask).sum())
            tokens += int(rows.mask.sum())
    return total / max(tokens, 1)


def disagreement(log_probs: Tensor) -> Tensor:
    """The mutual information `[…]`, nats, of token and member, of log-probabilities `[P, …, V]`; at least 0."""
    each = torch.special.entr(log_probs.exp()).sum(-1).mean(0)
    together = torch.special.entr(log_probs.exp().mean(0)).sum(-1)
    return torch.clamp(together - each, min=0)


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's correlation of two lists `[N]`; equal values share the mean of their ranks. NaN where one is flat."""
    ranks = torch.stack([_ranks(x), _ranks(y)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(x: Tensor) -> Tensor:
    _, place, count = torch.unique(x, return_inverse=True, return_counts=True)
    mean = count.cumsum(0).double() - (count.double() - 1) / 2
    return torch.index_select(mean, 0, place)


@torch.inference_mode()
def uncertainty(members: GPT, batches: Iterable[Batch], truths: Iterator[Tensor]) -> Values:
    """How well disagreement and entropy rank the positions whose prediction is wrong, where `truths` are exact.

    Spearman's correlation with ½ Σ |p_mean − p_true| over scored positions: `disagreement_rank` and `entropy_rank`.
    """
    figures: list[Tensor] = []  # [3, N]
    ensemble = Ensemble(members)
    with evaluating(members):
        for batch, truth in zip(batches, truths, strict=True):
            rows = batch.to(members.embed.weight.device)
            scores = ensemble.member_log_probs(rows.tokens).double()
            mean = mean_log_probs(scores).exp()
            exact = F.pad(truth.to(mean), (0, mean.shape[-1] - truth.shape[-1]))
            error = (mean - exact).abs().sum(-1) / 2
            each = torch.stack([error, disagreement(scores), torch.special.entr(mean).sum(-1)])
            figures.append(each[:, rows.mask].cpu())
    error, apart, entropy = torch.cat(figures, -1).round(decimals=EQUAL_DECIMALS)  # the same contexts, the same rank
    ranks = {"disagreement_rank": rank_correlation(apart, error), "entropy_rank": rank_correlation(entropy, error)}
    return {name: value for name, value in ranks.items() if math.isfinite(value)}


def _in_chunks(members: GPT, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches on the members' device, cut so that the logits of all members fit."""
    for batch in batches:
        numbers = (members.population or 1) * batch.tokens.shape[-1] * (members.config.vocab_size or 1)
        rows = max(MAX_LOGITS_PER_CHUNK // numbers, 1)
        yield from batch.to(members.embed.weight.device).split(-(-len(batch.tokens) // rows))
