"""A population trained on next tokens: all members together in one process, or spread over ranks.

Spread over ranks (`ByMember`), each of them trains a copy of its members on the same batches, and the whole population,
which every rank holds, stays as it was until `gather` brings all members together: at the end of a phase, and before
they are scored, saved or bred. So ranks exchange a few numbers per step, and weights a few times per phase. The events
of a step hold the figures of all members, as one process would give them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanogrove.data.batch import Batch, Batches
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.model.members import unstack
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Event
from nanogrove.train.average import Average
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.optim.optimizer import make_optimizer
from nanogrove.train.optim.update_rule import PerMember
from nanogrove.train.parallel.ranks import Ranks
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

LINE = 16  # float32 numbers of a line of the cache


def difference_from_alone(state: TrainState, batch: Batch, plan: Plan) -> str | None:
    """Why members may differ from the same models trained alone; None where they are equal bit for bit.

    Settings are checked first; then the gradients of `compared_members` on `batch` are compared with those of their
    models alone, since a matrix library may round a product in another way where it is one of several.
    """
    model, device = state.model, state.model.embed.weight.device
    micros = batch.to(device).split(plan.accumulation)
    reasons = {
        f"they train in {plan.precision} on {device.type}": plan.precision != "float32" or device.type != "cpu",
        "compiled kernels add in an order of their own": plan.compile,
        "sums of auxiliary heads are divided among threads": state.heads is not None,
        "they train adapters": state.adapter is not None,
        "a micro-batch is a single sequence": micros[-1].tokens.shape[-2] == 1,
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    everyone = micros[-1].expand(model.population)
    with evaluating(model):
        stacked = _gradients(model, everyone)
        for member in compared_members(model, everyone.tokens[0].numel()):
            alone = GPT(model.config).to(device)
            alone.load_state_dict(unstack(model.state_dict(), member))
            with evaluating(alone):
                single = _gradients(alone, everyone.member(member))
            if not all(torch.equal(each[member], gradient) for each, gradient in zip(stacked, single, strict=True)):
                return "this processor's matrix products differ by how many there are"
    return None


def compared_members(model: GPT, tokens: int = LINE) -> list[int]:
    """The members of a population of which one differs from its model alone where any does: the last.

    Where the numbers of a member, or its `tokens`, do not fill lines of the cache, members begin at different places
    in a line, which come again after as many members as it has numbers: then those are compared too.
    """
    members = model.population or 1
    sizes = [parameter.numel() // members for parameter in model.parameters()]
    return sorted({members - 1, *(range(min(members, LINE)) if any(size % LINE for size in (*sizes, tokens)) else ())})


def _gradients(model: GPT, batch: Batch) -> tuple[Tensor, ...]:
    return torch.autograd.grad(next_token(model, batch).total.sum(), list(model.parameters()))


def fit_members(state: TrainState, batches: Batches, plan: Plan) -> Iterator[Event]:
    """`fit` of a population, with its heads if it has any, to `plan.steps`.

    Each of several ranks trains its members. After the last step the state of all members is up to date on every rank,
    and after any other once `plan.layout.gather` was called. Raises what `fit` does.
    """
    population, ranks = state.model.population, plan.ranks
    if ranks.world == 1 or population is None:
        yield from fit(state, batches, objective_of(state, plan), plan)
        return
    members, last = ranks.share(population), None
    phase = replace(
        plan,
        num_members_across_ranks=population,
        first_member=members.start,
        lr_factor=lambda step: _of(plan.lr_factor(step), members),
    )
    with plan.layout.spread(state) as part:
        for event in fit(part, lambda step: batches(step).members(members), objective_of(part, plan), phase):
            state.step, state.tokens, state.seconds = part.step, part.tokens, part.seconds
            if event.step == plan.steps:
                last = event
            else:
                yield event
    if last is not None:
        yield last


@dataclass
class ByMember:
    """Each of several ranks trains a copy of its members of a population; see `layout.py`."""

    ranks: Ranks
    spread_now: tuple[TrainState, TrainState] | None = None  # a whole state, and this rank's part of it

    @contextmanager
    def spread(self, state: TrainState) -> Iterator[TrainState]:
        """A state of this rank's members alone."""
        part = _copy_members(state, self.ranks.share(state.model.population or 1))
        self.spread_now = state, part
        try:
            yield part
            self.gather()
        finally:
            self.spread_now = None

    def gather(self) -> None:
        """Sets the weights and moments of all members to those of the ranks that train them."""
        if self.spread_now is not None:
            _gather(*self.spread_now, self.ranks)


def _of(value: PerMember, members: slice) -> PerMember:
    """The values of some members, where `value` differs from member to member, `[P]`."""
    return value[members] if isinstance(value, Tensor) and value.dim() else value


def _copy_members(state: TrainState, members: slice) -> TrainState:
    """A copy of some members, with their moments and settings."""
    model, heads = state.model, state.heads
    count = members.stop - members.start
    gpt = GPT(model.config, count).to(model.embed.weight.device)
    gpt.dropout.share = _of(model.dropout.share, members)
    beside = None if heads is None else Heads(heads.config, model.config, count).to(model.embed.weight.device)
    optimizer = make_optimizer(gpt, state.optimizer.config, state.optimizer.precision, beside)
    for group, source in zip(optimizer.groups, state.optimizer.groups, strict=True):
        group.weight_decay = _of(source.weight_decay, members)
    part = TrainState(gpt, optimizer, state.step, state.tokens, seconds=state.seconds, heads=beside)
    for (_, parameter), (_, stacked) in zip(part.named_parameters(), state.named_parameters(), strict=True):
        parameter.data.copy_(stacked.data[members])
        for name, moment in state.optimizer.state.get(stacked, {}).items():
            optimizer.state[parameter][name] = (moment[members] if moment.dim() else moment).clone()
    if state.average is not None:
        part.average = Average.of(part.modules, state.average.config)
        averages = {name: average[members] for name, average in state.average.parameters.items()}
        part.average.take(averages, state.average.count)
    return part


@torch.no_grad()
def _gather(state: TrainState, part: TrainState, ranks: Ranks) -> None:
    """Sets the weights, their averages and the moments of all members to those of the ranks that train them."""
    population = state.model.population or 1
    members = ranks.share(population)
    tensors: list[Tensor] = []
    if state.average is not None and part.average is not None:
        for name, average in state.average.parameters.items():
            average.zero_()
            average[members] = part.average.parameters[name]
            tensors.append(average.data)
        state.average.count = part.average.count
    for (_, parameter), (_, trained) in zip(state.named_parameters(), part.named_parameters(), strict=True):
        parameter.zero_()
        parameter[members] = trained
        tensors.append(parameter.data)
        for name, moment in sorted(part.optimizer.state[trained].items()):  # in the same order on all ranks
            stacked = moment.clone()
            if moment.dim():
                stacked = moment.new_zeros(population, *moment.shape[1:])
                stacked[members] = moment
                tensors.append(stacked)
            state.optimizer.state[parameter][name] = stacked
    ranks.sum(tensors)
