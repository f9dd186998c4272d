"""Optimizers: AdamW (Loshchilov & Hutter 2019), SGD with momentum, and Muon (Jordan 2024).

Muon replaces the momentum of a weight matrix inside the blocks by the nearest orthogonal matrix, found with five
Newton-Schulz steps, and leaves embeddings, head, norms and biases to AdamW. Here all matrices of one shape, of all
layers and all members of a population, are orthogonalised as one batched product, and fused maps (q, k and v; gate
and value) part by part. It differs from `torch.optim.Muon` in that it works in the precision asked for: bfloat16 is
a hundred times slower than float32 on processors that lack it.

A population may have rates of its own for each member, tensors `[P]`: torch's kernels then write the direction of a
step, and each member goes its own length along it (`set_rate`, `set_decay`).

Weight decay touches matrices and embeddings by what they are, never by their number of axes. AdamW's is decoupled and
SGD's joins the gradient, as in torch, whose fused kernels do the work. `Optimizer` is no `torch.optim.Optimizer`: that
class imports the compiler, which takes as long as torch itself, and its hooks and options are of no use here.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from nanogrove.model.layers import Embedding, Linear

Rule = Literal["adamw", "sgd", "muon"]
Rate = float | Tensor  # one for all members, or `[P]`


class OptimizerConfig(BaseModel):
    """Which optimizer, and its rates. With `muon`, `lr` is for matrices and `adamw_lr` for all else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Rule = "adamw"
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    adamw_lr: float = Field(3e-3, gt=0, allow_inf_nan=False, description="muon: of embeddings, head and vectors")
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd and muon")
    weight_decay: float = Field(0.1, ge=0, description="of matrices and embeddings")


def make_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    precision: torch.dtype = torch.float32,
    heads: nn.Module | None = None,
) -> "Optimizer":
    """The optimizer of all parameters of `model` and of `heads` beside it; `precision` is that of Muon's products.

    A map called `head` is an output map, which Muon leaves to AdamW.
    """
    matrices: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
    tables: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    modules = [*model.named_modules(), *(() if heads is None else heads.named_modules())]
    for name, module in modules:
        for kind, parameter in module.named_parameters(recurse=False):
            if kind != "weight" or not isinstance(module, (Linear, Embedding)):
                vectors.append(parameter)
            elif isinstance(module, Linear) and name.rpartition(".")[2] != "head":
                matrices[module.parts].append(parameter)
            else:
                tables.append(parameter)
    rule: Rule = "sgd" if config.name == "sgd" else "adamw"
    rate = config.adamw_lr if config.name == "muon" else config.lr
    groups = [
        Group(parameters, config.name, config.lr, config.weight_decay, True, parts)
        for parts, parameters in matrices.items()
    ]
    groups += [Group(tables, rule, rate, config.weight_decay, True), Group(vectors, rule, rate, 0.0, False)]
    return Optimizer([group for group in groups if group.parameters], config, precision)


@dataclass
class Group:
    """Parameters that share a rule and its rates; `lr` is set anew at each step, `base_lr` stays."""

    parameters: list[nn.Parameter]
    rule: Rule
    base_lr: float
    weight_decay: Rate
    decays: bool
    parts: tuple[int, ...] = ()  # rows of the maps fused in each parameter, for muon
    lr: Rate = 0.0


class Optimizer:
    """Updates groups of parameters; `state` holds each parameter's moments by name."""

    def __init__(self, groups: list[Group], config: OptimizerConfig, precision: torch.dtype) -> None:
        self.groups, self.config, self.precision = groups, config, precision
        self.state: dict[nn.Parameter, dict[str, Tensor]] = defaultdict(dict)

    def set_rate(self, factor: Rate) -> None:
        """Sets every group's rate to its base rate times `factor`."""
        for group in self.groups:
            group.lr = group.base_lr * factor

    def set_decay(self, decay: Rate) -> None:
        """Sets the weight decay of matrices and embeddings."""
        for group in self.groups:
            if group.decays:
                group.weight_decay = decay

    def zero_grad(self) -> None:
        """Drops all gradients."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        fused: list[tuple[Group, list[Tensor], list[Tensor]]] = []
        for group in self.groups:
            parameters = [p for p in group.parameters if p.grad is not None]
            gradients = [p.grad for p in parameters if p.grad is not None]
            if group.rule == "muon":
                fused.append((group, list(parameters), self._directions(parameters, gradients)))
            elif parameters and (isinstance(group.lr, Tensor) or isinstance(group.weight_decay, Tensor)):
                self._by_member(group, parameters, gradients)
            else:
                self._update(group, parameters, gradients)
        self._muon(fused)

    def _moments(self, parameters: list[nn.Parameter], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]

    def _update(self, group: Group, parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
        """Torch's kernel, with one rate for all."""
        lr, decay = group.lr, group.weight_decay
        assert not isinstance(lr, Tensor)
        assert not isinstance(decay, Tensor)
        if group.rule == "sgd":
            self._sgd(list(parameters), gradients, self._moments(parameters, "momentum_buffer"), lr, decay)
            return
        for parameter in parameters:
            self.state[parameter].setdefault("step", torch.zeros((), device=parameter.device))
        first, second = self._moments(parameters, "exp_avg"), self._moments(parameters, "exp_avg_sq")
        ages = [self.state[parameter]["step"] for parameter in parameters]
        self._adamw(list(parameters), gradients, first, second, ages, lr, decay)

    def _by_member(self, group: Group, parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
        """The same with a rate for each member: the kernel moves zeros at a rate of 1, and that is the direction."""
        directions, decay = [torch.zeros_like(p) for p in parameters], group.weight_decay
        lr = torch.as_tensor(group.lr).to(parameters[0]).expand(len(parameters[0]))
        if group.rule == "sgd":
            for parameter, gradient in zip(parameters, gradients, strict=True):
                _move(gradient, parameter, torch.ones_like(lr) * decay, 0.0)  # SGD's decay joins the gradient
            self._sgd(directions, gradients, self._moments(parameters, "momentum_buffer"), 1.0, 0.0)
            decay = 0.0
        else:
            for parameter in parameters:
                self.state[parameter].setdefault("step", torch.zeros(len(lr), device=lr.device))
            first, second = self._moments(parameters, "exp_avg"), self._moments(parameters, "exp_avg_sq")
            ages = self.state[parameters[0]]["step"].clone()
            for age in (found := torch.unique(ages)):  # members whose moments are equally old go together
                rows = (ages == age).nonzero().flatten()
                parts = [directions, gradients, first, second]
                some = parts if len(found) == 1 else [[tensor[rows] for tensor in part] for part in parts]
                moved, picked, one, two = some
                self._adamw(moved, picked, one, two, [age.clone() for _ in parameters], 1.0, 0.0)
                if len(found) > 1:
                    for part, changed in zip((directions, first, second), (moved, one, two), strict=True):
                        for tensor, values in zip(part, changed, strict=True):
                            tensor[rows] = values
            for parameter in parameters:
                self.state[parameter]["step"].add_(1)
        for parameter, direction in zip(parameters, directions, strict=True):
            _move(parameter, direction, lr, lr * decay)

    def _adamw(
        self,
        moved: list[Tensor],
        gradients: list[Tensor],
        first: list[Tensor],
        second: list[Tensor],
        ages: list[Tensor],
        lr: float,
        decay: float,
    ) -> None:
        adamw(
            moved,
            gradients,
            first,
            second,
            [],
            ages,  # which it counts up
            fused=True,
            amsgrad=False,
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            lr=lr,
            weight_decay=decay,
            eps=self.config.eps,
            maximize=False,
        )

    def _sgd(
        self, moved: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], lr: float, decay: float
    ) -> None:
        sgd(
            moved,
            gradients,
            list(momenta),
            fused=True,
            weight_decay=decay,
            momentum=self.config.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def _directions(self, parameters: list[nn.Parameter], gradients: list[Tensor]) -> list[Tensor]:
        """Nesterov momentum of each gradient; the moments move, the gradients become the directions."""
        if not parameters:
            return []
        buffers, momentum = self._moments(parameters, "momentum_buffer"), self.config.momentum
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        torch._foreach_lerp_(gradients, buffers, momentum)
        return gradients

    def _muon(self, updates: list[tuple[Group, list[Tensor], list[Tensor]]]) -> None:
        """Orthogonalises all directions of one shape together, fused maps part by part, and applies them."""
        by_shape: dict[torch.Size, list[tuple[Group, Tensor, Tensor]]] = defaultdict(list)
        for group, weights, directions in updates:
            for weight, direction in zip(weights, directions, strict=True):
                parts = zip(
                    weight.split_with_sizes(group.parts, -2), direction.split_with_sizes(group.parts, -2), strict=True
                )
                for piece, towards in parts:
                    by_shape[piece.shape].append((group, piece, towards))
        for shape, pieces in by_shape.items():
            together = torch.stack([towards for _, _, towards in pieces])
            together = orthogonalise(together.view(-1, *shape[-2:]), self.precision).view_as(together)
            scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
            for (group, piece, _), direction in zip(pieces, together, strict=True):
                _move(piece, direction, -scale * group.lr, group.lr * group.weight_decay)


def _move(weight: Tensor, direction: Tensor, length: Rate, decay: Rate) -> None:
    """`weight ← (1 − decay)·weight + length·direction` in place, each `[*P, …]`."""
    if isinstance(length, Tensor) or isinstance(decay, Tensor):
        length, decay = (torch.as_tensor(x).to(weight).view(-1, *[1] * (weight.dim() - 1)) for x in (length, decay))
        weight.mul_(1 - decay).addcmul_(direction, length)
    else:
        weight.mul_(1 - decay).add_(direction, alpha=length)


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
