"""Single models trained as one population: their states become views of a stack."""

from collections.abc import Sequence

import torch

from nanogrove.model.gpt import GPT
from nanogrove.model.members import stack
from nanogrove.train.optim.optimizer import make_optimizer, per_member
from nanogrove.train.state import TrainState


def stack_states(members: Sequence[TrainState]) -> TrainState:
    """The population of the `members`, all at one step, each with its settings of optimizer and dropout.

    Their weights become views of it, so that they are trained with it; `lend_moments` does the same for moments.
    """
    first = members[0]
    device = first.model.embed.weight.device
    model = GPT(first.model.config, len(members)).to(device)
    model.load_state_dict(stack([member.model.state_dict() for member in members]))
    model.dropout.share = per_member([member.model.config.dropout for member in members], device)
    optimizer = make_optimizer(model, first.optimizer.config, first.optimizer.precision)
    optimizer.set_members([member.optimizer.config for member in members])
    state = TrainState(model, optimizer, first.step, first.tokens, first.round)
    for parameter, *alone in zip(model.parameters(), *(member.model.parameters() for member in members), strict=True):
        for number, single in enumerate(alone):
            single.data = parameter.data[number]
        moments = [member.optimizer.state[single] for member, single in zip(members, alone, strict=True)]
        for name, moment in moments[0].items():
            tensors = [each[name] for each in moments]
            optimizer.state[parameter][name] = torch.stack(tensors) if moment.dim() else moment.clone()
    return state


def lend_moments(state: TrainState, members: Sequence[TrainState]) -> None:
    """Makes the moments of a population those of its members, as views."""
    population = state.model
    for number, member in enumerate(members):
        for parameter, single in zip(population.parameters(), member.model.parameters(), strict=True):
            for name, moment in state.optimizer.state[parameter].items():
                member.optimizer.state[single][name] = moment[number] if moment.dim() else moment


def separate(member: TrainState) -> None:
    """Gives a member weights and moments of its own, aligned as new tensors are."""
    for parameter in member.model.parameters():
        parameter.data = parameter.data.clone()
        for name, moment in member.optimizer.state[parameter].items():
            member.optimizer.state[parameter][name] = moment.clone()
