"""Optimizers: AdamW (Loshchilov & Hutter 2019), SGD with momentum, and Muon (Jordan 2024).

Muon replaces the momentum of a weight matrix inside the blocks by the nearest orthogonal matrix, found with five
Newton-Schulz steps, and leaves embeddings, head, norms and biases to AdamW. Here all matrices of one shape, of all
layers and all members of a population, are orthogonalised as one batched product, and fused maps (q, k and v; gate
and value) part by part. It differs from `torch.optim.Muon` in that it works in the precision asked for: bfloat16 is
a hundred times slower than float32 on processors that lack it.

Weight decay touches matrices and embeddings by what they are, never by their number of axes.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.adamw import adamw

from nanogrove.model.layers import Embedding, Linear


class OptimizerConfig(BaseModel):
    """Which optimizer, and its rates. With `muon`, `lr` is for matrices and `adamw_lr` for all else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["adamw", "sgd", "muon"] = "adamw"
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    adamw_lr: float = Field(3e-3, gt=0, allow_inf_nan=False, description="muon: of embeddings, head and vectors")
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd and muon")
    weight_decay: float = Field(0.1, ge=0, description="of matrices and embeddings")


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, precision: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """The optimizer of all parameters of `model`, each group with its base rate under `base_lr`."""
    matrices: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
    tables: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            if kind != "weight" or not isinstance(module, (Linear, Embedding)):
                vectors.append(parameter)
            elif isinstance(module, Linear) and name != "head":
                matrices[module.parts].append(parameter)
            else:
                tables.append(parameter)
    decay = config.weight_decay
    others: list[dict[str, Any]] = [
        {"params": tables, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    inner: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay, "parts": parts} for parts, group in matrices.items()
    ]
    optimizer: torch.optim.Optimizer
    if config.name == "muon":
        groups = [{**group, "lr": config.lr} for group in inner]
        groups += [{**group, "lr": config.adamw_lr, "parts": None} for group in others if group["params"]]
        optimizer = Muon(groups, config.momentum, config.betas, config.eps, precision)
    else:
        groups = [{**group, "lr": config.lr} for group in inner + others if group["params"]]
        if config.name == "adamw":
            optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
        else:
            optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def orthogonalise(matrices: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """The orthogonal factors of `matrices [N, rows, columns]`, roughly: singular values land in about .7 to 1.2.

    Five steps of X ← aX + (bA + cA²)X with A = XXᵀ and the coefficients of Jordan 2024, in `precision`.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(precision)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for groups with `parts`, sizes of the fused maps along the rows; AdamW for groups whose `parts` is None."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        precision: torch.dtype,
    ) -> None:
        super().__init__(groups, {"momentum": momentum, "betas": betas, "eps": eps})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor, dict[str, Any]]]] = defaultdict(list)
        for group in self.param_groups:
            if group["parts"] is None:
                self._adamw(group)
                continue
            for weight, update in self._directions(group):
                by_shape[update.shape[-2:]].append((weight, update, group))
        for (rows, columns), pieces in by_shape.items():
            flat = torch.cat([update.reshape(-1, rows, columns) for _, update, _ in pieces])
            counts = [update.numel() // (rows * columns) for _, update, _ in pieces]
            directions = torch.split(orthogonalise(flat, self.precision), counts)
            scale = max(1.0, rows / columns) ** 0.5
            for (weight, _, group), direction in zip(pieces, directions, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction.view_as(weight), alpha=-group["lr"] * scale)

    def _directions(self, group: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each fused part of each weight, a view, with its Nesterov momentum."""
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            update = parameter.grad.lerp(buffer, group["momentum"])
            yield from zip(parameter.split(group["parts"], -2), update.split(group["parts"], -2), strict=True)

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
