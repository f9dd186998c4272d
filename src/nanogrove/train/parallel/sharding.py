"""Weights, gradients and moments sharded over the ranks, for a model that does not fit one device.

Torch's FSDP2 (Zhao 2023, `fully_shard`) does it: each rank holds a shard of every tensor, split along its first axis. A
block's weights are gathered just before it is computed, forward and again backward, and its gradients are summed and
sharded in the same way. Losses and norms are those of one process. The optimizer updates shards, so it must be one that
treats each number by itself, as AdamW and SGD do.

The whole state lies in the memory of the CPU. Runs begin from it and checkpoints are made of it, so checkpoints know
nothing of shards; `Sharding.gather` brings it up to date.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from nanogrove.model.gpt import GPT
from nanogrove.train.average import Average, Modules
from nanogrove.train.optim.optimizer import make_optimizer
from nanogrove.train.optim.rules import RULES
from nanogrove.train.parallel.ranks import Ranks
from nanogrove.train.state import TrainState


@dataclass
class ShardedState(TrainState):
    """This rank's shards as a training state: plain tensors that share memory with the model's parameters.

    The model's parameters are kept in `distributed`, since a module holds gathered ones while it is computed.
    """

    shards: dict[str, nn.Parameter] = field(default_factory=dict)
    distributed: list[nn.Parameter] = field(default_factory=list)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The shards of this rank under the names of the whole parameters."""
        yield from self.shards.items()

    def gradients(self) -> list[Tensor]:
        """The gradients of the shards, summed over all ranks."""
        for shard, parameter in zip(self.shards.values(), self.distributed, strict=True):
            gradient, parameter.grad = parameter.grad, None
            shard.grad = None if gradient is None else _local(gradient)
        return super().gradients()


@dataclass
class Sharding:
    """Each rank trains its shard of every tensor on `device`; `gather` fills the state of rank 0 alone."""

    ranks: Ranks
    device: torch.device
    spread_now: tuple[TrainState, ShardedState] | None = None  # a whole state, and this rank's shards of it

    @contextmanager
    def spread(self, state: TrainState) -> Iterator[TrainState]:
        """A state of this rank's shards."""
        shards = shard_state(state, self.ranks, self.device)
        self.spread_now = state, shards
        try:
            yield shards
            self.gather()
        finally:
            self.spread_now = None

    def gather(self) -> None:
        """Sets the whole state of rank 0 to what the shards hold."""
        if self.spread_now is not None:
            _gather(*self.spread_now, self.ranks)


def shard_state(state: TrainState, ranks: Ranks, device: torch.device) -> ShardedState:
    """This rank's shards on `device` of a whole state, which lies on the CPU."""
    # Objectives return views of a module's outputs and change none of them in place, so this warning is needless.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (ranks.world,))
    model = copy.deepcopy(state.model)
    optimizer = make_optimizer(model, state.optimizer.config, state.optimizer.precision)
    positions = {parameter: n for n, parameter in enumerate(model.parameters())}
    order = [[positions[parameter] for parameter in group.parameters] for group in optimizer.groups]
    _shard_model(model, mesh)
    shards = {name: nn.Parameter(_local(parameter)) for name, parameter in model.named_parameters()}
    in_order = list(shards.values())
    for group, numbers in zip(optimizer.groups, order, strict=True):
        group.parameters = [in_order[n] for n in numbers if in_order[n].numel()]
    sharded = ShardedState(
        model, optimizer, state.step, state.tokens, seconds=state.seconds, method_state=state.method_state
    )
    sharded.shards, sharded.distributed = shards, list(model.parameters())
    for (_, source), shard, parameter in zip(state.named_parameters(), in_order, sharded.distributed, strict=True):
        for name, moment in state.optimizer.state.get(source, {}).items():
            optimizer.state[shard][name] = _shard(moment, parameter) if moment.dim() else moment.clone().to(device)
    if state.average is not None:
        sharded.average = _shard_average(state.average, mesh)
    return sharded


def _shard_model(model: GPT, mesh: DeviceMesh, reshard: bool | None = None) -> None:
    """Shards a model in place; `reshard` frees what was gathered after each pass, of the output too."""
    for module in [*model.blocks, model]:
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # a rank counts by its scored tokens, as `fit` sees to
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other factor


def _shard_average(average: Average, mesh: DeviceMesh) -> Average:
    """This rank's shards of an average. No backward pass frees what its model gathered, so that each pass does."""
    model = copy.deepcopy(average.modules.model)
    _shard_model(model, mesh, reshard=True)
    shards = {name: _local(parameter) for name, parameter in model.named_parameters()}
    return Average(average.config, Modules(model), shards, average.count)


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local().detach()


def _shard(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's shard, placed as that of `like`, of a tensor that every rank holds in full."""
    assert isinstance(like, DTensor)
    distributed = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return _local(distributed).clone()


@torch.no_grad()
def _gather(state: TrainState, sharded: ShardedState, ranks: Ranks) -> None:
    """Sets the whole state of rank 0 from the shards, one tensor after the other."""

    def unsharded(shard: Tensor, like: DTensor) -> Tensor:
        distributed = DTensor.from_local(
            shard, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return distributed.full_tensor()

    if state.average is not None and sharded.average is not None:
        state.average.count = sharded.average.count
    tensors = zip(state.named_parameters(), sharded.shards.values(), sharded.distributed, strict=True)
    for (parameter_name, target), shard, parameter in tensors:
        assert isinstance(parameter, DTensor)
        if state.average is not None and sharded.average is not None:
            full = unsharded(sharded.average.parameters[parameter_name], parameter)
            if ranks.first:
                state.average.parameters[parameter_name].copy_(full)
        full = unsharded(shard.detach(), parameter)
        if ranks.first:
            target.copy_(full)
        for name in _moments(sharded):
            moment = sharded.optimizer.state[shard].get(name)
            moment = torch.zeros_like(shard) if moment is None else moment  # of an empty shard
            full = unsharded(moment, parameter)
            if ranks.first:
                state.optimizer.state[target][name] = full.cpu()
        if ranks.first and "step" in sharded.optimizer.state[shard]:
            state.optimizer.state[target]["step"] = sharded.optimizer.state[shard]["step"].cpu().clone()


def _moments(sharded: ShardedState) -> tuple[str, ...]:
    """The moments that this optimizer keeps, in one order on all ranks."""
    if not sharded.step:
        return ()
    return RULES[sharded.optimizer.config.name].moments
