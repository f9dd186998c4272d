"""Weights, gradients and moments cut in as many pieces as there are ranks, for a model that does not fit one device.

Torch's FSDP2 (Zhao 2023, `fully_shard`) does it: each rank holds a piece of every tensor, cut along its first axis, and
brings a block together just before it is computed, forward and again backward, where gradients are added and cut in the
same way. Losses and norms are those of one process. The optimizer updates pieces, which asks for one that treats each
number by itself, as AdamW and SGD do.

The whole state lies in the memory of the processor. It is what runs begin from and what is saved, so checkpoints know
nothing of pieces, and `TrainState.gather` brings it up to date.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from nanogrove.train.optim.optimizer import make_optimizer
from nanogrove.train.optim.rules import RULES
from nanogrove.train.parallel.ranks import Ranks
from nanogrove.train.state import TrainState


@dataclass
class Sharded(TrainState):
    """This rank's pieces as a training state: plain tensors that share memory with the model's, the `cut` ones.

    Those are kept here, since a module holds whole ones while it is computed.
    """

    pieces: dict[str, nn.Parameter] = field(default_factory=dict)
    cut: list[nn.Parameter] = field(default_factory=list)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The shards of this rank under the names of the whole parameters."""
        yield from self.pieces.items()

    def gradients(self) -> list[Tensor]:
        """The gradients of the pieces, added over all ranks."""
        for piece, parameter in zip(self.pieces.values(), self.cut, strict=True):
            gradient, parameter.grad = parameter.grad, None
            piece.grad = None if gradient is None else _local(gradient)
        return super().gradients()


def sharded(state: TrainState, ranks: Ranks, device: torch.device) -> Sharded:
    """Cuts a whole state, which lies on the processor, in pieces on `device`; `state.gather` then brings it together.

    `gather` is for all ranks, and fills the state of rank 0 alone.
    """
    # Its objectives return views of what a module gave, and change none of them in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (ranks.world,))
    model = copy.deepcopy(state.model)
    optimizer = make_optimizer(model, state.optimizer.config, state.optimizer.precision)
    places = {parameter: n for n, parameter in enumerate(model.parameters())}
    order = [[places[parameter] for parameter in group.parameters] for group in optimizer.groups]
    for module in [*model.blocks, model]:
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # a rank counts by its scored tokens, as `fit` sees to
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other factor
    pieces = {name: nn.Parameter(_local(parameter)) for name, parameter in model.named_parameters()}
    held = list(pieces.values())
    for group, numbers in zip(optimizer.groups, order, strict=True):
        group.parameters = [held[n] for n in numbers if held[n].numel()]
    own = Sharded(model, optimizer, state.step, state.tokens, seconds=state.seconds, notes=state.notes)
    own.pieces, own.cut = pieces, list(model.parameters())
    for (_, whole), piece, parameter in zip(state.named_parameters(), held, own.cut, strict=True):
        for name, moment in state.optimizer.state.get(whole, {}).items():
            optimizer.state[piece][name] = _cut(moment, parameter) if moment.dim() else moment.clone().to(device)
    state.gather = lambda: _gather(state, own, ranks)
    return own


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local().detach()


def _cut(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's piece of a tensor that every rank has whole."""
    assert isinstance(like, DTensor)
    there = distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return _local(there).clone()


@torch.no_grad()
def _gather(state: TrainState, own: Sharded, ranks: Ranks) -> None:
    """Sets the whole state of rank 0, one tensor after the other."""

    def whole(piece: Tensor, like: DTensor) -> Tensor:
        made = DTensor.from_local(
            piece, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return made.full_tensor()

    for (_, target), piece, parameter in zip(state.named_parameters(), own.pieces.values(), own.cut, strict=True):
        assert isinstance(parameter, DTensor)
        full = whole(piece.detach(), parameter)
        if ranks.first:
            target.copy_(full)
        for name in _moments(own):
            moment = own.optimizer.state[piece].get(name)
            moment = torch.zeros_like(piece) if moment is None else moment  # of an empty piece
            full = whole(moment, parameter)
            if ranks.first:
                state.optimizer.state[target][name] = full.cpu()
        if ranks.first and "step" in own.optimizer.state[piece]:
            state.optimizer.state[target]["step"] = own.optimizer.state[piece]["step"].cpu().clone()


def _moments(own: Sharded) -> tuple[str, ...]:
    """The moments that this optimizer keeps, in one order on all ranks."""
    if not own.step:
        return ()
    return RULES[own.optimizer.config.name].moments
