"""LoRA (Hu 2021): W = W0 + (alpha / rank)·B·A, where W0 stays and A `[rank, n_in]` and B `[n_out, rank]` are trained.

A begins uniform within ±1/√n_in and B at 0, as in `peft`. Maps that a family of `transformers` stores apart, such as q,
k and v, have an A and a B each; those that it stores as one have one.

The model holds W itself, so that kernels, scores, samples and references read plain weights. After a backward pass the
gradient of W becomes those of A and B (dA = s·Bᵀ·dW, dB = s·dW·Aᵀ, s = alpha / rank), and after an update W is set
anew. Here the file deviates from the paper: the gradient of W is computed whole, so that a step does the products of a
step of all weights, in the same kernels; moments, and what is kept, are as small as there.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from nanogrove.data.rng import derived_seed
from nanogrove.model.gpt import GPT
from nanogrove.model.layers import Linear
from nanogrove.model.storage import Part, storage_of
from nanogrove.settings import MAX_WIDTH, Settings
from nanogrove.train.weights import check_weights

Target = Literal["qkv", "out", "up", "down"]


class LoraConfig(Settings):
    """Adapters of low rank, trained in place of all weights; see `Adapter`."""

    rank: int = Field(0, ge=0, le=MAX_WIDTH, description="rank of the adapters; 0 trains all weights instead")
    alpha: float = Field(16.0, gt=0, description="what an adapter adds is scaled by alpha / rank")
    targets: list[Target] = Field(
        ["qkv", "out", "up", "down"], min_length=1, description="the maps of each block that have adapters"
    )

    @property
    def scale(self) -> float:
        """The factor of B·A."""
        return self.alpha / self.rank


class LowRank:
    """The A and B of one part of a map's rows."""

    def __init__(self, part: Part, n_in: int, rank: int, model: GPT) -> None:
        device = model.embed.weight.device
        self.part = part
        self.a = Linear(n_in, (rank,), bias=False, population=model.population).to(device)
        self.b = Linear(rank, (part.stop - part.start,), bias=False, population=model.population).to(device)


class Adapter:
    """The adapters of a model, the weights that they adapt, and modules that are trained whole beside them.

    All other weights of the model stop asking for gradients.

    Args:
        model: whose weights are adapted, as they are now.
        config: rank, scale and which maps.
        source: what the weights are called, for those who use the adapters elsewhere.
        whole: modules that are trained whole since something of them is new, such as the output of a reward model, or a
            table with more tokens.
    """

    def __init__(self, model: GPT, config: LoraConfig, source: str, whole: Sequence[str] = ()) -> None:
        self.config, self.source = config, source
        self.whole = {path: model.get_submodule(path) for path in whole}
        self.maps: dict[str, list[LowRank]] = {}
        self.base: dict[str, Tensor] = {}
        for path, parts in storage_of(model.config).parts.items():
            if path.startswith("blocks.") and path.rpartition(".")[2] in config.targets:
                weight = model.get_parameter(f"{path}.weight")
                self.maps[path] = [LowRank(part, weight.shape[-1], config.rank, model) for part in parts]
                self.base[path] = weight.detach().clone()
        for name, parameter in model.named_parameters():
            path = name.rpartition(".")[0]
            parameter.requires_grad_(name == f"{path}.weight" if path in self.maps else path in self.whole)

    @torch.no_grad()
    def initialize(self, seeds: Sequence[int]) -> Self:
        """Draws each A, that of a member of a population from its seed alone; each B becomes 0."""
        for member, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(derived_seed(seed, "lora"))
            for each in self.low_rank():
                a = each.a.weight if each.a.weight.dim() == 2 else each.a.weight[member]
                a.copy_((torch.rand(a.shape, generator=generator) * 2 - 1) / a.shape[1] ** 0.5)
        for each in self.low_rank():
            each.b.weight.zero_()
        return self

    def twin(self, model: GPT) -> "Adapter":
        """Adapters of the same weights for a copy of the model, each A and B a new one that nothing trains."""
        other = copy.copy(self)
        other.whole = {path: model.get_submodule(path) for path in self.whole}
        other.maps = {
            path: [LowRank(each.part, each.a.weight.shape[-1], self.config.rank, model) for each in maps]
            for path, maps in self.maps.items()
        }
        for each in other.low_rank():
            each.a.requires_grad_(False)
            each.b.requires_grad_(False)
        return other

    def described(self) -> str:
        """For a person: how many weights are trained, and which."""
        count = sum(parameter.numel() for _, parameter in self.named_parameters())
        maps = ", ".join(self.config.targets)
        whole = f"; {', '.join(self.whole)} trained whole, since something of it is new" if self.whole else ""
        return f"trains {count:,} weights: adapters of rank {self.config.rank} on {maps}{whole}"

    def low_rank(self) -> Iterator[LowRank]:
        """Every A and B."""
        for maps in self.maps.values():
            yield from maps

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """What is trained: each A and B, named after the map that it adapts, and the modules that are trained whole."""
        for path, maps in self.maps.items():
            for number, each in enumerate(maps):
                yield f"{path}.lora_A.{number}", each.a
                yield f"{path}.lora_B.{number}", each.b
        yield from self.whole.items()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All trained parameters by name, such as `blocks.0.mlp.up.lora_A.0.weight`."""
        for name, module in self.named_modules():
            yield from module.named_parameters(prefix=name)

    @torch.no_grad()
    def take_gradients(self, model: GPT) -> None:
        """Turns the gradients of adapted weights into those of A and B."""
        for path, maps in self.maps.items():
            weight = model.get_parameter(f"{path}.weight")
            if weight.grad is None:
                continue
            for each in maps:
                gradient = each.part.rows(weight.grad) * self.config.scale
                each.a.weight.grad = each.b.weight.mT @ gradient
                each.b.weight.grad = gradient @ each.a.weight.mT
            weight.grad = None

    @torch.no_grad()
    def apply(self, model: GPT) -> None:
        """Sets the adapted weights of a model to W0 + s·B·A."""
        for path, maps in self.maps.items():
            weight = model.get_parameter(f"{path}.weight")
            for each in maps:
                base, change = each.part.rows(self.base[path]), each.b.weight @ each.a.weight
                each.part.rows(weight).copy_(base.add(change, alpha=self.config.scale))

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the model to go on: each A and B, and each W0 as `base/NAME`."""
        low_rank = {name: p.detach() for name, p in self.named_parameters() if ".lora_" in name}
        return low_rank | {f"base/{path}": tensor for path, tensor in self.base.items()}

    def load(self, tensors: Mapping[str, Tensor], where: Path) -> None:
        """Takes what `tensors` gave. Raises CheckpointError, naming the file `where`, for tensors that do not fit."""
        present = self.tensors()
        check_weights(tensors, {name: tuple(tensor.shape) for name, tensor in present.items()}, where)
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
