"""A curriculum by difficulty: at first only the easiest rows of each batch are trained on, later all of them.

Difficulty is the loss the model itself has on a row as it stands, the mean over the row's scored tokens, and the share
of the rows that stay, those below that percentile of the batch, rises in a straight line from `start` at step 0 to all
of them once `until` of the steps are done: self-paced learning (Kumar 2010) with a percentile instead of a threshold,
so that no scale of losses needs to be known. Rows left out are read once, forward, and cost no backward pass.

Which rows stay follows from the model and the batch alone, so a resumed run trains on the same ones, and micro-batches
and ranks, which are parts of what stays, change nothing.
"""

import math

import torch
from pydantic import Field

from nanogrove.data.batch import Batch, Batches
from nanogrove.model.mode import evaluating
from nanogrove.settings import Settings
from nanogrove.train.plan import Plan
from nanogrove.train.precision import autocast
from nanogrove.train.state import TrainState


class CurriculumConfig(Settings):
    """Which share of a batch is trained on, and when it reaches all rows."""

    start: float = Field(0.5, gt=0, le=1, description="share of a batch's rows at step 0, the easiest")
    until: float = Field(0.5, gt=0, le=1, description="share of the steps after which all rows are trained on")

    def share(self, step: int, steps: int) -> float:
        """The share of the rows of batch number `step` that is trained on."""
        return min(self.start + (1 - self.start) * step / (self.until * steps), 1.0)


def easiest(batches: Batches, state: TrainState, config: CurriculumConfig, plan: Plan) -> Batches:
    """The batches with their easiest rows alone, in the order they had; at least one row for each rank."""

    def select(step: int) -> Batch:
        batch, share = batches(step), config.share(step, plan.steps)
        count = min(max(math.ceil(share * len(batch.tokens) - 1e-9), plan.ranks.world), len(batch.tokens))
        if count == len(batch.tokens):
            return batch
        local = row_losses(state, batch, plan) if plan.ranks.first or plan.sharded else []  # shards compute together
        losses = torch.tensor(plan.ranks.broadcast_from_main(lambda: local))
        rows = losses.argsort(stable=True)[:count].sort().values
        return batch.take(rows)

    return select


@torch.no_grad()
def row_losses(state: TrainState, batch: Batch, plan: Plan) -> list[float]:
    """The mean loss of each row's scored tokens, without dropout; 0 for a row without any."""
    model, device = state.model, state.model.embed.weight.device
    losses: list[float] = []
    with evaluating(model):
        for part in batch.to(device).split(plan.accumulation):
            with autocast(device, plan.precision):
                nll = model(part.tokens, part.targets)
            losses += ((nll * part.mask).sum(-1) / part.mask.sum(-1).clamp(min=1)).tolist()
    return losses
