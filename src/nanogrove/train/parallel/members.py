"""A population trained on next tokens: all members together in one process, or spread over ranks.

Spread, each rank trains a copy of its own members on the same batches, and the whole population, which every rank
holds, stays as it was until `TrainState.gather` brings all members together again: at the end of a phase, and where
somebody is about to score, save or breed. So ranks exchange a few numbers a step, and weights a few times a phase. What
a step yields are figures of all members, as one process would give them.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from nanogrove.data.batch import Batch, Batches
from nanogrove.model.gpt import GPT, unstack
from nanogrove.model.heads import Heads
from nanogrove.record.events import Event
from nanogrove.train.loop import Plan, fit
from nanogrove.train.objective import next_token
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.optim.optimizer import make_optimizer
from nanogrove.train.optim.update_rule import PerMember
from nanogrove.train.parallel.ranks import Ranks
from nanogrove.train.state import TrainState


def difference_from_alone(state: TrainState, batch: Batch, plan: Plan) -> str | None:
    """Why members are not promised to be the same models trained alone, bit for bit; None where they are.

    Settings come first; then the gradients of the last member on `batch` are compared with those of its model alone,
    since a matrix library may round a product in another way where it stands beside others.
    """
    model, device = state.model, state.model.embed.weight.device
    micros = batch.to(device).split(plan.accumulation)
    reasons = {
        f"they train in {plan.precision} on {device.type}": plan.precision != "float32" or device.type != "cpu",
        "compiled kernels add in an order of their own": plan.compile,
        "sums of auxiliary heads are divided among threads": state.heads is not None,
        "a micro-batch is a single sequence": micros[-1].tokens.shape[-2] == 1,
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    member = (model.population or 1) - 1
    alone = GPT(model.config).to(device)
    alone.load_state_dict(unstack(model.state_dict(), member))
    everyone, gradients = micros[-1].expand(model.population), []
    for each, rows in ((model.eval(), everyone), (alone.eval(), everyone.member(member))):
        loss = next_token(each, rows).total.sum()
        gradients.append(torch.autograd.grad(loss, list(each.parameters())))
    model.train()
    same = all(torch.equal(whole[member], single) for whole, single in zip(*gradients, strict=True))
    return None if same else "this processor's matrix products differ by how many there are"


def fit_members(state: TrainState, batches: Batches, plan: Plan) -> Iterator[Event]:
    """`fit` of a population, with its heads if it has any, to `plan.steps`.

    Of several ranks each trains its members. Behind a step that is not the last, the state of all of them is whole
    once `state.gather` was called, on every rank. Raises what `fit` does.
    """
    population, ranks = state.model.population, plan.ranks
    if ranks.world == 1 or population is None:
        yield from fit(state, batches, objective_of(state, plan), plan)
        return
    mine = ranks.share(population)
    own = _taken(state, mine)
    phase = replace(plan, spread=population, first_member=mine.start, rate=lambda step: _of(plan.rate(step), mine))
    state.gather = lambda: _gather(state, own, mine, ranks)
    for event in fit(own, lambda step: batches(step).members(mine), objective_of(own, plan), phase):
        state.step, state.tokens, state.seconds = own.step, own.tokens, own.seconds
        if event.step == plan.steps:
            state.gather()
            state.gather = lambda: None  # what becomes of members from here on is not this phase's
        yield event


def _of(value: PerMember, mine: slice) -> PerMember:
    """Of what may differ from member to member, `[P]`, the part of some of them."""
    return value[mine] if isinstance(value, Tensor) and value.dim() else value


def _taken(state: TrainState, mine: slice) -> TrainState:
    """A copy of some members, with their moments and settings."""
    model, heads = state.model, state.heads
    count = mine.stop - mine.start
    gpt = GPT(model.config, count).to(model.embed.weight.device)
    gpt.dropout.share = _of(model.dropout.share, mine)
    beside = None if heads is None else Heads(heads.config, model.config, count).to(model.embed.weight.device)
    optimizer = make_optimizer(gpt, state.optimizer.config, state.optimizer.precision, beside)
    for group, theirs in zip(optimizer.groups, state.optimizer.groups, strict=True):
        group.weight_decay = _of(theirs.weight_decay, mine)
    own = TrainState(gpt, optimizer, state.step, state.tokens, seconds=state.seconds, heads=beside)
    for (_, parameter), (_, whole) in zip(own.named_parameters(), state.named_parameters(), strict=True):
        parameter.data.copy_(whole.data[mine])
        for name, moment in state.optimizer.state.get(whole, {}).items():
            optimizer.state[parameter][name] = (moment[mine] if moment.dim() else moment).clone()
    return own


@torch.no_grad()
def _gather(state: TrainState, own: TrainState, mine: slice, ranks: Ranks) -> None:
    """Sets the weights and moments of all members to those of the ranks that train them."""
    population = state.model.population or 1
    whole: list[Tensor] = []
    for (_, parameter), (_, ours) in zip(state.named_parameters(), own.named_parameters(), strict=True):
        parameter.zero_()
        parameter[mine] = ours
        whole.append(parameter.data)
        for name, moment in sorted(own.optimizer.state[ours].items()):  # in one order on all ranks, read or made here
            together = moment.clone()
            if moment.dim():
                together = moment.new_zeros(population, *moment.shape[1:])
                together[mine] = moment
                whole.append(together)
            state.optimizer.state[parameter][name] = together
    ranks.sum(whole)
