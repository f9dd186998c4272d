"""Weights of unknown origin: whether they are those of a model, before they are copied into it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nanogrove.errors import CheckpointError
from nanogrove.model.size import Shape


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Copies weights into a model. Raises CheckpointError as `check_weights` does."""
    check_weights(weights, shapes_of(model), where)
    model.load_state_dict(weights)


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Shape], where: Path) -> None:
    """Raises CheckpointError naming the first weight that is missing, extra, misshapen or not of 32-bit numbers."""
    for name in sorted(expected.keys() | weights.keys()):
        shape = tuple(weights[name].shape) if name in weights else "missing"
        expected_shape = expected.get(name, "none")
        if shape != expected_shape:
            raise CheckpointError(f"{where}: weight {name} is {shape}, and the configuration asks for {expected_shape}")
        if weights[name].dtype != torch.float32:
            kind = str(weights[name].dtype).removeprefix("torch.")
            raise CheckpointError(f"{where}: weight {name} holds {kind}, and a checkpoint holds float32")


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    """The shapes of a module's tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
