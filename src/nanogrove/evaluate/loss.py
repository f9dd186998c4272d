"""The loss of a model on held-out data, and, where the true distribution is known, how far above the best it is."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.evaluate.accuracy import answered
from nanogrove.model.ensemble import Ensemble
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Values
from nanogrove.record.measures import derived


class Score(NamedTuple):
    """`loss [*P]` in nats per token, the mean over `tokens` scored ones, and `losses [*P, N]`, whose mean it is.

    Each of the N sequences has a loss in proportion to the sum over its scored tokens.
    """

    loss: Tensor
    tokens: int
    losses: Tensor


@torch.inference_mode()
def mean_nll(model: GPT | Ensemble, batches: Iterable[Batch]) -> Score:
    """The mean NLL over all scored tokens of `batches`, in float32, sums in float64, without dropout."""
    device = model.embed.weight.device
    sums: list[Tensor] = []  # [*P, B]
    tokens = 0
    with evaluating(model):
        for batch in batches:
            rows = batch.to(device).expand(model.population)
            nll = model(rows.tokens, rows.targets) * rows.mask
            sums.append(nll.double().sum(-1).cpu())
            tokens += int(batch.mask.sum())
    losses = torch.cat(sums, -1)
    return Score(losses.sum(-1) / max(tokens, 1), tokens, losses * (losses.shape[-1] / max(tokens, 1)))


@torch.inference_mode()
def against_truth(model: GPT | Ensemble, batches: Iterable[Batch], truths: Iterator[Tensor]) -> tuple[Values, Tensor]:
    """Compares a model with the exact distributions `truths` `[B, T, V′]`, V′ ≤ V, of the targets of `batches`.

    Figures, and the losses `[*P, N]` of a `Score`. Over scored tokens, nats: `loss`; `bayes_loss`, that of the exact
    distributions on the same tokens; `excess`, their difference, with its standard error over sequences; `accuracy` and
    `bayes_accuracy` of the likeliest token; `kl`, for each scored position the mean of KL(truth ‖ model). Figures of a
    population are lists.
    """
    device = model.embed.weight.device
    rows: list[Tensor] = []  # [*P, B, 4]: sums over a sequence's scored tokens
    kl: Tensor | float = 0.0
    weights = torch.zeros(())
    with evaluating(model):
        for batch, truth in zip(batches, truths, strict=True):
            shown, truth = batch.to(device).expand(model.population), truth.to(device)
            counted = batch.mask.to(device).double()
            scores = F.log_softmax(model(shown.tokens).double(), -1)
            nll = -scores.gather(-1, shown.targets[..., None])[..., 0]
            best = -truth.double().gather(-1, batch.targets.to(device)[..., None])[..., 0].log()
            hit = (scores.argmax(-1) == shown.targets).double()
            best_hit = (truth.argmax(-1) == batch.targets.to(device)).double().expand_as(hit)
            figures = torch.stack([nll, best.expand_as(nll), hit, best_hit], -1)
            rows.append(_by_member(_sum_of_rows, figures * counted[..., None], 3).cpu())
            inner = torch.special.entr(truth.double()).sum(-1) + (truth * scores[..., : truth.shape[-1]]).sum(-1)
            kl = kl - _by_member(_sum_of_rows, inner * counted, 2).cpu()
            weights = weights + counted.sum(0).cpu()
    sums, tokens = torch.cat(rows, -2), weights.sum()
    loss, bayes, accuracy, bayes_accuracy = (_by_member(_sum_of_rows, sums, 2) / tokens).unbind(-1)
    losses, bests = (sums[..., :2] * (sums.shape[-2] / tokens)).unbind(-1)
    excess, scored = losses - bests, weights > 0
    values = {
        "loss": loss.tolist(),
        "bayes_loss": bayes.flatten()[0].item(),
        "excess": _by_member(torch.mean, excess, 1).tolist(),
        "excess_error": (_by_member(torch.std, excess, 1) / excess.shape[-1] ** 0.5).tolist(),
        "accuracy": accuracy.tolist(),
        "bayes_accuracy": bayes_accuracy.flatten()[0].item(),
        "kl": (torch.as_tensor(kl)[..., scored] / weights[scored]).tolist(),
        "positions": (scored.nonzero()[:, 0] + 1).tolist(),
        "tokens": int(tokens),
    }
    return values, losses


def _by_member(sums: Callable[[Tensor], Tensor], x: Tensor, axes: int) -> Tensor:
    """`sums` of `x`, member by member where it has more than `axes`: several may be added in another order than one."""
    return sums(x) if x.dim() == axes else torch.stack([sums(each) for each in x])


def _sum_of_rows(x: Tensor) -> Tensor:
    return x.sum(-2)


def evaluate_split(model: GPT | Ensemble, corpus: Corpus, split: str, limit: int | None = None) -> Values:
    """The loss on a split, or on about `limit` tokens of it, as values of an `eval` event.

    With bits per byte where tokens are text, with the figures of `against_truth` where the truth is known, and with
    exact match where scored tokens are answers.
    """
    return score_split(model, corpus, split, limit)[0]


def score_split(model: GPT | Ensemble, corpus: Corpus, split: str, limit: int | None = None) -> tuple[Values, Tensor]:
    """The values of `evaluate_split`, and the losses `[*P, N]` of the split's sequences, whose mean is the loss."""
    truths = corpus.true_distributions(split, limit)
    if truths is not None:
        figures, losses = against_truth(model, corpus.eval_batches(split, limit), truths)
        values = {"split": split, **figures}
        return values | derived(values), losses
    score = mean_nll(model, corpus.eval_batches(split, limit))
    values = {"split": split, "loss": score.loss.tolist(), "tokens": score.tokens}
    if corpus.has_answers:
        values |= answered(model, corpus, split, limit, score.losses)
    return values | derived(values, bytes_per_token=corpus.bytes_per_token(split)), score.losses
