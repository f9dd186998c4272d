"""Optimizers: AdamW (Loshchilov & Hutter 2019), SGD with momentum, and Muon (Jordan 2024).

Muon replaces the momentum of a weight matrix inside the blocks by the nearest orthogonal matrix, found with five
Newton-Schulz steps, and leaves embeddings, head, norms and biases to AdamW. Here all matrices of one shape, of all
layers and all members of a population, are orthogonalised as one batched product, and fused maps (q, k and v; gate
and value) part by part. It differs from `torch.optim.Muon` in that it works in the precision asked for: bfloat16 is
a hundred times slower than float32 on processors that lack it.

A population may have rates of its own for each member, tensors `[P]` (`set_rate`, `set_decay`); torch's kernels then
take one member after the other.

A member is updated as the same model alone is, bit for bit. On a CPU torch's kernels round what does not fill a vector
register in another way than the rest, and what that is differs between one model and several; so tensors are filled up
where a member's numbers do not fill registers.

Weight decay touches matrices and embeddings by what they are, never by their number of axes. AdamW's is decoupled and
SGD's joins the gradient, as in torch, whose fused kernels do the work. `Optimizer` is no `torch.optim.Optimizer`: that
class imports the compiler, which takes as long as torch itself, and its hooks and options are of no use here.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from nanogrove.model.gpt import GPT
from nanogrove.model.layers import Embedding, Linear

REGISTER = 16  # float32 numbers in the widest vector register
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
    model: GPT,
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
    return Optimizer([group for group in groups if group.parameters], config, precision, model.population)


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

    def __init__(
        self, groups: list[Group], config: OptimizerConfig, precision: torch.dtype, population: int | None
    ) -> None:
        self.groups, self.config, self.precision, self.population = groups, config, precision, population
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
            elif parameters:
                self._update(group, parameters, gradients)
        self._muon(fused)

    def _moments(self, parameters: list[nn.Parameter], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]

    def _update(self, group: Group, parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
        """AdamW or SGD on all parameters of a group."""
        names = ("momentum_buffer",) if group.rule == "sgd" else ("exp_avg", "exp_avg_sq")
        tensors = [list[Tensor](parameters), gradients, *(self._moments(parameters, name) for name in names)]
        aged = any(self.state[p]["step"].dim() for p in parameters if "step" in self.state[p])
        if aged or isinstance(group.lr, Tensor) or isinstance(group.weight_decay, Tensor):
            self._update_by_member(group, parameters, tensors)
            return
        members = self.population or 1
        odd = [n for n, p in enumerate(parameters) if p.numel() // members % REGISTER and p.device.type == "cpu"]
        filled = [list(column) for column in tensors]
        for column, rows in zip(tensors, filled, strict=True):
            for n in odd:
                rows[n] = _filled(column[n], members)
        self._kernel(group.rule, filled, self._steps(group, parameters, ()), group.lr, group.weight_decay)
        for column, rows in zip(tensors, filled, strict=True):
            for n in odd:
                _take_back(column[n], rows[n])

    def _update_by_member(self, group: Group, parameters: list[nn.Parameter], tensors: list[list[Tensor]]) -> None:
        """The same with a rate for each member, whose numbers are laid side by side for it."""
        members = self.population or 1
        rates, decays = (
            torch.as_tensor(rate, dtype=torch.float64).expand(members).tolist()
            for rate in (group.lr, group.weight_decay)
        )
        steps = self._steps(group, parameters, (members,))
        ages = steps[0].unbind() if steps else ()
        filled = [[_filled(tensor, members) for tensor in column] for column in tensors]
        rows = [torch.cat(column, 1) for column in filled]
        by_member = zip(rates, decays, *(row.unbind() for row in rows), strict=True)
        for member, (rate, decay, *numbers) in enumerate(by_member):
            step = [ages[member]] if steps else []  # moments of a member are equally old
            self._kernel(group.rule, [[number] for number in numbers], step, rate, decay)
        sizes = [tensor.shape[1] for tensor in filled[0]]
        del tensors[1], rows[1]  # gradients stay as they are
        for column, row in zip(tensors, rows, strict=True):
            targets = [tensor.view(members, -1) for tensor in column]
            values = [
                part[:, : target.shape[1]] for part, target in zip(torch.split(row, sizes, 1), targets, strict=True)
            ]
            torch._foreach_copy_(targets, values)

    def _steps(self, group: Group, parameters: list[nn.Parameter], shape: tuple[int, ...]) -> list[Tensor]:
        """Counts the updates of AdamW's moments up, of all members alike or of each, `shape`; none for SGD."""
        if group.rule == "sgd":
            return []
        for p in parameters:
            step = self.state[p].get("step", torch.zeros(shape, device=p.device))
            self.state[p]["step"] = step if step.shape == shape else step.expand(shape).clone()
        steps = [self.state[p]["step"] for p in parameters]
        torch._foreach_add_(steps, 1)
        return steps

    def _kernel(self, rule: Rule, tensors: list[list[Tensor]], steps: list[Tensor], lr: float, decay: float) -> None:
        """Torch's fused update of lists of weights, gradients and moments, of age `steps`.

        The kernels themselves, without the checks and groupings before them, which take longer than a small update.
        """
        config = self.config
        if rule == "sgd":
            weights, gradients, momenta = tensors
            torch._fused_sgd_(
                weights,
                gradients,
                momenta if config.momentum else [],
                weight_decay=decay,
                momentum=config.momentum,
                lr=lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )
            return
        weights, gradients, first, second = tensors
        torch._fused_adamw_(
            weights,
            gradients,
            first,
            second,
            [],
            steps,
            lr=lr,
            beta1=config.betas[0],
            beta2=config.betas[1],
            weight_decay=decay,
            eps=config.eps,
            amsgrad=False,
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


def _filled(tensor: Tensor, members: int) -> Tensor:
    """A parameter's numbers as a row for each member, `[P, n]`, n filled up with zeros to whole registers."""
    rows = tensor.detach().reshape(members, -1)
    return F.pad(rows, (0, -rows.shape[1] % REGISTER)) if rows.shape[1] % REGISTER else rows


def _take_back(tensor: Tensor, filled: Tensor) -> None:
    """Sets a parameter's numbers to those of `_filled`."""
    rows = tensor.detach().view(len(filled), -1)
    rows.copy_(filled[:, : rows.shape[1]])


def _move(weight: Tensor, direction: Tensor, length: Rate, decay: Rate) -> None:
    """`weight ← (1 − decay)·weight + length·direction` in place, each `[*P, …]`; rates are float64 until then."""
    if isinstance(length, Tensor) or isinstance(decay, Tensor):
        axes = [-1, *[1] * (weight.dim() - 1)]
        length, kept = (torch.as_tensor(x, dtype=torch.float64).to(weight).view(axes) for x in (length, 1 - decay))
        weight.mul_(kept).addcmul_(direction, length)
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
    rows, columns = x.shape[-2:]
    x = F.pad(x, (0, -columns % 4, 0, -rows % 4))  # so that each product fills lines of the cache; zeros change nothing
    x = x / (x.norm(dim=-1).norm(dim=-1)[:, None, None] + 1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x[:, :rows, :columns]
    return (x.mT if tall else x).to(matrices.dtype)
