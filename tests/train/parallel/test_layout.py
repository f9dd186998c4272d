"""A layout spreads a state over ranks and brings it up to date: when asked, and at the end of its context."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.parallel.layout import REPLICATED
from nanogrove.train.parallel.members import ByMember
from nanogrove.train.parallel.ranks import Ranks
from nanogrove.train.state import TrainState


class OneOfTwo(Ranks):
    """A rank whose sums are those of two ranks, of which the other adds zeros."""

    def sum(self, tensors: list[Tensor]) -> None:
        pass


@pytest.fixture
def state() -> TrainState:
    """Four members."""
    model = GPT(ModelConfig(vocab_size=5, n_layer=1, n_head=1, n_embd=4, block_size=4), 4).initialize(0, 1, 2, 3)
    return TrainState(model, make_optimizer(model, OptimizerConfig()))


@contextmanager
def changed(layout: ByMember, state: TrainState) -> Iterator[TrainState]:
    """A spread state whose part was changed since: all weights are 7."""
    with layout.spread(state) as part, torch.no_grad():
        for _, parameter in part.named_parameters():
            parameter.fill_(7.0)
        yield part


def values(state: TrainState) -> list[bool]:
    """Of each member, whether all its weights are 7."""
    tensors = [parameter.data.flatten(1) for _, parameter in state.named_parameters()]
    return [bool((torch.cat(tensors, 1)[member] == 7.0).all()) for member in range(len(tensors[0]))]


def test_a_replicated_state_is_trained_as_it_is(state: TrainState) -> None:
    with REPLICATED.spread(state) as part:
        assert part is state


@pytest.mark.parametrize(("rank", "members"), [(0, [True, True, False, False]), (1, [False, False, True, True])])
def test_the_whole_state_stays_as_it_was_until_it_is_gathered(
    state: TrainState, rank: int, members: list[bool]
) -> None:
    layout = ByMember(OneOfTwo(rank, 2))
    with changed(layout, state) as part:
        assert part.model.population == 2
        assert not any(values(state))
        layout.gather()
        assert values(state) == members


def test_the_whole_state_is_up_to_date_at_the_end_of_the_context(state: TrainState) -> None:
    layout = ByMember(OneOfTwo(0, 2))
    with changed(layout, state):
        pass
    assert values(state) == [True, True, False, False]
    with torch.no_grad():
        for _, parameter in state.named_parameters():
            parameter.zero_()
    layout.gather()
    assert not any(values(state)), "what becomes of members after the context is not its part's"


def test_nothing_is_gathered_where_training_fails(state: TrainState) -> None:
    layout = ByMember(OneOfTwo(0, 2))
    with pytest.raises(ValueError, match="diverged"), changed(layout, state):
        raise ValueError("diverged")
    layout.gather()
    assert not any(values(state))
