"""The optimizer: groups of parameters, each updated by its rule, and what the rules keep of every parameter.

Weight decay touches matrices and embeddings by what they are, never by their number of axes. A population may have
rates of its own for each member, tensors `[P]` (`set_rate`, `set_decay`), and all settings of its own (`set_members`).

`Optimizer` is not a `torch.optim.Optimizer`: that class imports the compiler, which takes as long as torch itself, and
its hooks and options are of no use here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from nanogrove.model.gpt import GPT
from nanogrove.model.layers import Embedding, Linear
from nanogrove.train.optim.names import NameIn
from nanogrove.train.optim.rules import RULES
from nanogrove.train.optim.update_rule import PerMember, Update, UpdateSettings


class OptimizerConfig(UpdateSettings):
    """Which optimizer, and its rates. With `muon`, `lr` is for matrices and `adamw_lr` for all else."""

    name: Annotated[str, NameIn(RULES)] = Field("adamw", description="the update rule")


def make_optimizer(
    model: GPT,
    config: OptimizerConfig,
    precision: torch.dtype = torch.float32,
    heads: nn.Module | None = None,
    trained: Iterable[tuple[str, nn.Module]] | None = None,
) -> "Optimizer":
    """The optimizer of all parameters of `model` and of `heads` beside it; `precision` is that of a rule's products.

    Where not the model's own parameters are trained, `trained` are the modules, by name, of those that are.

    A map called `head` is an output map, which a rule for whole matrices leaves to its `others`.
    """
    matrices: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)  # of a rule for them
    weights: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    whole_matrices = RULES[config.name].whole_matrices
    modules = [*(trained or model.named_modules()), *(() if heads is None else heads.named_modules())]
    for name, module in modules:
        for kind, parameter in module.named_parameters(recurse=False):
            if kind != "weight" or not isinstance(module, (Linear, Embedding)):
                vectors.append(parameter)
            elif whole_matrices and isinstance(module, Linear) and name.rpartition(".")[2] != "head":
                matrices[module.parts].append(parameter)
            else:
                weights.append(parameter)
    rule = RULES[config.name].others or config.name
    rate, main_rate = base_rate(config, rule), base_rate(config, config.name)
    groups = [
        ParamGroup(parameters, config.name, main_rate, config.weight_decay, True, fused)
        for fused, parameters in matrices.items()
    ]
    groups += [ParamGroup(weights, rule, rate, config.weight_decay, True), ParamGroup(vectors, rule, rate, 0.0, False)]
    return Optimizer([group for group in groups if group.parameters], config, precision, model.population)


def base_rate(config: OptimizerConfig, rule: str) -> float:
    """The peak learning rate of the parameters that a rule updates: the optimizer's own, or that for its others."""
    return config.lr if rule == config.name else config.adamw_lr


def per_member(values: Sequence[float], device: torch.device) -> PerMember:
    """One value where that of all members is the same, else all, `[P]`, in float64."""
    return values[0] if len(set(values)) == 1 else torch.tensor(values, dtype=torch.float64, device=device)


@dataclass
class ParamGroup:
    """Parameters that share a rule, by its name, and rates; `lr` is set anew at each step, `base_lr` stays."""

    parameters: list[nn.Parameter]
    rule: str
    base_lr: PerMember
    weight_decay: PerMember
    decays: bool
    fused: tuple[int, ...] = ()  # rows of the maps that are fused in each parameter, of matrices
    lr: PerMember = 0.0


class Optimizer:
    """Updates groups of parameters; `state` holds each parameter's moments by name, and `step`, their step count."""

    def __init__(
        self, groups: list[ParamGroup], config: OptimizerConfig, precision: torch.dtype, population: int | None
    ) -> None:
        self.groups, self.config, self.precision, self.population = groups, config, precision, population
        self.settings: Sequence[UpdateSettings] = [config]  # for all members, or of each
        self.state: dict[nn.Parameter, dict[str, Tensor]] = defaultdict(dict)

    def set_rate(self, factor: PerMember) -> None:
        """Sets every group's rate to its base rate times `factor`."""
        for group in self.groups:
            group.lr = group.base_lr * factor

    def set_decay(self, decay: PerMember) -> None:
        """Sets the weight decay of matrices and embeddings."""
        for group in self.groups:
            if group.decays:
                group.weight_decay = decay

    def set_members(self, configs: Sequence[OptimizerConfig]) -> None:
        """Gives each member the rates, betas and momentum of its configuration; all are of one name."""
        for group in self.groups:
            device = group.parameters[0].device
            group.base_lr = per_member([base_rate(config, group.rule) for config in configs], device)
            if group.decays:
                group.weight_decay = per_member([config.weight_decay for config in configs], device)
        alike = all(config == configs[0] for config in configs)
        self.settings = configs[:1] if alike else [configs[configs.index(config)] for config in configs]

    def zero_grad(self) -> None:
        """Drops all gradients."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        updates: dict[str, list[Update]] = defaultdict(list)
        for group in self.groups:
            if any(parameter.grad is not None for parameter in group.parameters):
                updates[group.rule].append(self._update(group))
        for rule, together in updates.items():
            RULES[rule].update(together, self.settings, self.precision)

    def _update(self, group: ParamGroup) -> Update:
        """What a rule needs to update the parameters of a group that have a gradient."""
        rule = RULES[group.rule]
        parameters = [p for p in group.parameters if p.grad is not None]
        return Update(
            weights=list(parameters),
            gradients=[p.grad for p in parameters if p.grad is not None],
            moments=[self._moments(parameters, name) for name in rule.moments],
            steps=self._step_counts(group, parameters) if rule.counts_steps else [],
            lr=group.lr,
            weight_decay=group.weight_decay,
            fused=group.fused,
            members=self.population or 1,
        )

    def _moments(self, parameters: list[nn.Parameter], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]

    def _step_counts(self, group: ParamGroup, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Counts the updates of the moments up: `[]`, or once members have had rates of their own, `[P]`."""
        by_member = isinstance(group.lr, Tensor) or isinstance(group.weight_decay, Tensor)
        by_member |= any(self.state[p]["step"].dim() > 0 for p in parameters if "step" in self.state[p])
        shape = (self.population or 1,) if by_member else ()
        for p in parameters:
            step = self.state[p].get("step")
            if step is None:
                self.state[p]["step"] = torch.zeros(shape, device=p.device)
            elif step.shape != shape:
                self.state[p]["step"] = step.expand(shape).clone()
        steps = [self.state[p]["step"] for p in parameters]
        torch._foreach_add_(steps, 1)
        return steps
