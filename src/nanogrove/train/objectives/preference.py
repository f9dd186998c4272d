"""Objectives that compare a policy with a frozen reference: DPO and KTO.

    DPO   −log σ(β(Δ chosen − Δ rejected))               Rafailov et al. 2023, arXiv 2305.18290, eq. 7
          with Δ/n for Δ of a text of n tokens           length-normalised; Meng et al. 2024, arXiv 2405.14734
          − w log π(chosen) per token                    anchored; Pang et al. 2024, arXiv 2404.19733
    KTO   w₊(1 − σ(β(Δ − z))) or w₋(1 − σ(β(z − Δ)))     Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8

Δ is log π(text | prompt) − log π_ref(text | prompt), summed over scored tokens. z ≥ 0 is the mean Δ of texts after
prompts of other texts, without a gradient: an estimate of KL(π ‖ π_ref), one for the whole batch.

DPO learns a difference, which may grow while both of its texts become less likely, so their log-probabilities are parts
of it for the record. Where one side is longer the difference is one of lengths as well; dividing each Δ by its length
takes that out, and unlike the cited method keeps the reference. The anchor is the next-token loss of the chosen texts.

A batch for DPO holds pairs, the chosen row before the rejected one; `kto_batch` makes one for KTO.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.train.objective import Loss, Objective

SIDES = ("chosen", "rejected")  # of a pair, in its order


def log_ratio(model: nn.Module, reference: nn.Module, batch: Batch) -> Tensor:
    """Δ of each row, `[B]`, nats."""
    ours, theirs = _losses(model, reference, batch)
    return (theirs - ours).sum(-1)


def _losses(model: nn.Module, reference: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The NLL `[B, T]` of scored positions by the model and by its reference, the latter without a gradient; else 0."""
    with torch.no_grad():
        theirs: Tensor = reference(batch.tokens, batch.targets)
    ours: Tensor = model(batch.tokens, batch.targets)
    return ours * batch.mask, theirs * batch.mask


class Pairs(NamedTuple):
    """Pairs of texts by a policy, and next to its reference.

    nll         [2N, T]  of the policy, 0 where nothing is scored
    lengths     [2N]     scored tokens of each text, 1 at least
    difference  [N]      Δ chosen − Δ rejected, nats
    """

    nll: Tensor
    lengths: Tensor
    difference: Tensor


def compare(model: nn.Module, reference: nn.Module, batch: Batch, length_normalised: bool = False) -> Pairs:
    """The pairs of a batch of `[2N, T]` tokens; with `length_normalised` each Δ is per token of its text."""
    ours, theirs = _losses(model, reference, batch)
    ratio, lengths = (theirs - ours).sum(-1), batch.mask.sum(-1).clamp(min=1)
    chosen, rejected = (ratio / lengths if length_normalised else ratio).view(-1, 2).unbind(-1)
    return Pairs(ours, lengths, chosen - rejected)


def dpo_loss(pairs: Pairs, beta: float, nll_weight: float = 0.0) -> Loss:
    """The mean over pairs, and `nll_weight` times the mean NLL of the chosen texts' tokens.

    Parts are the reward margin, the share of pairs in the right order, and for each side the mean over texts of log π,
    summed over a text and per token.
    """
    ours, lengths, margin = pairs.nll, pairs.lengths, beta * pairs.difference
    total = -F.logsigmoid(margin).mean()
    if nll_weight:
        total = total + nll_weight * ours[::2].sum() / lengths[::2].sum()
    with torch.no_grad():
        parts = {"margin": margin.mean(), "in_order": (margin > 0).float().mean()}
        log_probs = -ours.sum(-1)
        for first, side in enumerate(SIDES):
            parts[f"{side}_log_prob"] = log_probs[first::2].mean()
            parts[f"{side}_log_prob_per_token"] = (log_probs / lengths)[first::2].mean()
    return Loss(total, parts)


def dpo(reference: nn.Module, beta: float, length_normalised: bool = False, nll_weight: float = 0.0) -> Objective:
    """The objective of `dpo_loss`, next to this reference."""

    def objective(model: nn.Module, batch: Batch) -> Loss:
        return dpo_loss(compare(model, reference, batch, length_normalised), beta, nll_weight)

    return objective


def kto(reference: nn.Module, beta: float, wanted: float = 1.0, unwanted: float = 1.0) -> Objective:
    """The mean over texts; wanted ones have the weight `wanted` and others `unwanted`. The recorded part is z."""

    def objective(model: nn.Module, batch: Batch) -> Loss:
        ratio, mismatched = log_ratio(model, reference, batch), batch.extra["mismatched"]
        sign = torch.where(batch.extra["wanted"], 1.0, -1.0)
        z = ratio[mismatched].mean().detach().clamp(min=0)
        ratio, sign = ratio[~mismatched], sign[~mismatched]
        share = torch.where(sign > 0, wanted, unwanted)
        return Loss((share * (1 - torch.sigmoid(beta * sign * (ratio - z)))).mean(), {"z": z})

    return objective


def kto_batch(texts: Batch, wanted: Tensor, mismatched: Batch) -> Batch:
    """Rows of `texts`, of which `wanted [B]` says which are wanted, followed by mismatched ones, at least as wide.

    `extra` has `wanted` and `mismatched`, `[2B]`. The texts are padded with positions that are not scored.
    """
    wider = mismatched.tokens.shape[1] - texts.tokens.shape[1]
    none = torch.zeros_like(wanted)

    def rows(first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([F.pad(first, (0, wider)), second])

    return Batch(
        rows(texts.tokens, mismatched.tokens),
        rows(texts.targets, mismatched.targets),
        rows(texts.mask, mismatched.mask),
        rows(texts.weight, mismatched.weight),
        torch.cat([texts.source, mismatched.source]),
        {"wanted": torch.cat([wanted, none]), "mismatched": torch.cat([none, torch.ones_like(none)])},
    )
