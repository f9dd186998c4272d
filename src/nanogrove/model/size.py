"""The tensors of a model that does not exist yet: their names and shapes, from its settings alone."""

from functools import lru_cache
from math import prod

import torch

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT

Shape = tuple[int, ...]
FIRST = "blocks.0."
LAID_OUT = {"within_documents": False, "coupled_tokens": ()}  # on whose tokens no shape depends


def parameter_shapes(config: ModelConfig, population: int | None = None) -> dict[str, Shape]:
    """Shapes by name, those of `GPT(config, population).state_dict()`; one block is laid out, and no memory is taken.

    Raises ValueError when the configuration names no vocabulary.
    """
    outer, block = _shapes(config, population)
    layers = range(config.n_layer)
    return outer | {f"blocks.{layer}.{name}": shape for layer in layers for name, shape in block.items()}


def parameter_count(config: ModelConfig) -> int:
    """Parameters of a model. Raises ValueError when the configuration names no vocabulary."""
    outer, block = _shapes(config, None)
    return sum(map(prod, outer.values())) + config.n_layer * sum(map(prod, block.values()))


@lru_cache(maxsize=8)  # runs of a study ask for the same again and again
def _shapes(config: ModelConfig, population: int | None) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Shapes of the tensors outside of the blocks, and of those of each block, whose names are within the block."""
    with torch.device("meta"):
        model = GPT(config.model_copy(update={**LAID_OUT, "n_layer": 1}), population)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    block = {name.removeprefix(FIRST): shape for name, shape in shapes.items() if name.startswith(FIRST)}
    return {name: shape for name, shape in shapes.items() if not name.startswith(FIRST)}, block


def flops_per_token(config: ModelConfig) -> int:
    """`GPT.flops_per_token` of a model at its full context, which is not built. Raises ValueError as above."""
    one, two = (_flops(config.model_copy(update={**LAID_OUT, "n_layer": layers})) for layers in (1, 2))
    return one + (config.n_layer - 1) * (two - one)


def _flops(config: ModelConfig) -> int:
    with torch.device("meta"):
        return GPT(config).flops_per_token(config.block_size)
