"""Objectives that compare a policy with a frozen reference: DPO and KTO.

    DPO   −log σ(β(Δ chosen − Δ rejected))               Rafailov et al. 2023, arXiv 2305.18290, eq. 7
    KTO   w₊(1 − σ(β(Δ − z))) or w₋(1 − σ(β(z − Δ)))     Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8

Δ is log π(text | prompt) − log π_ref(text | prompt), summed over scored tokens. z ≥ 0 is the mean Δ of texts behind
prompts that are not theirs, without a gradient: an estimate of KL(π ‖ π_ref) that all of a batch share.

A batch for DPO holds pairs, the chosen row ahead of the rejected one. In one for KTO a row's weights are 1 where
its text is wanted and −1 where it is not, and `source` is 1 for mismatched rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.train.objective import Loss, Objective


def log_ratio(model: nn.Module, reference: nn.Module, batch: Batch) -> Tensor:
    """Δ of each row, `[B]`, nats."""
    counted = batch.mask.float()
    with torch.no_grad():
        theirs: Tensor = reference(batch.tokens, batch.targets)
    ours: Tensor = model(batch.tokens, batch.targets)
    return ((theirs - ours) * counted).sum(-1)


def dpo(reference: nn.Module, beta: float) -> Objective:
    """The mean over pairs; parts are the reward margin and the share of pairs in the right order."""

    def objective(model: nn.Module, batch: Batch) -> Loss:
        chosen, rejected = log_ratio(model, reference, batch).view(-1, 2).unbind(-1)
        margin = beta * (chosen - rejected)
        parts = {"margin": margin.detach().mean(), "in_order": (margin.detach() > 0).float().mean()}
        return Loss(-F.logsigmoid(margin).mean(), parts)

    return objective


def kto(reference: nn.Module, beta: float, wanted: float = 1.0, unwanted: float = 1.0) -> Objective:
    """The mean over texts, of which the wanted ones count `wanted` and the others `unwanted`; the part is z."""

    def objective(model: nn.Module, batch: Batch) -> Loss:
        ratio, sign = log_ratio(model, reference, batch), batch.weight[:, 0]
        mismatched = batch.source == 1
        z = ratio[mismatched].mean().detach().clamp(min=0)
        ratio, sign = ratio[~mismatched], sign[~mismatched]
        share = torch.where(sign > 0, wanted, unwanted)
        return Loss((share * (1 - torch.sigmoid(beta * sign * (ratio - z)))).mean(), {"z": z})

    return objective
