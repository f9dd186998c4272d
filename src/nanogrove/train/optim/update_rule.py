"""The contract of an optimizer: a rule that moves lists of weights by their gradients and moments.

A rule is one file, with an `UpdateRule`, and one line in `rules.RULES`. Its name is then a value of `optimizer.name`;
it trains populations, with rates by member too, is sharded where it treats each number by itself, and its moments are
saved, resumed, bred and counted by `--dry-run`.

A member is updated as the same model alone is, bit for bit. On a CPU torch's kernels round what does not fill a vector
register in another way than the rest, and which numbers these are differs between one model and several; so
`elementwise` pads tensors where a member's numbers do not fill registers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from nanogrove.model.members import equal_runs
from nanogrove.settings import Settings

REGISTER = 16  # float32 numbers in the widest vector register
PerMember = float | Tensor  # one for all members, or `[P]`


class UpdateSettings(Settings):
    """The settings that rules share. A rule of matrices has `lr` for them, and `adamw_lr` for all else."""

    name: str = Field("adamw", description="the update rule")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    adamw_lr: float = Field(3e-3, gt=0, description="muon: learning rate of embeddings, head and vectors")
    betas: tuple[float, float] = Field((0.9, 0.95), description="adamw: decay per step of the mean and of the square")
    eps: float = Field(1e-8, gt=0, description="adamw: added to the root of the mean square")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd and muon: momentum")
    weight_decay: float = Field(0.1, ge=0, description="weight decay of matrices and embeddings")


@dataclass
class Update:
    """What one group of parameters is updated from, all lists of one length and in one order.

    Args:
        weights: `[*P, …]`, changed in place.
        gradients: of the same shapes; a rule may overwrite them.
        moments: a list for each of the rule's moments, of the same shapes, changed in place.
        steps: how many updates the moments have seen with this one, `[]` or `[P]`; empty for a rule that counts none.
        lr: the learning rate.
        weight_decay: that of these weights.
        fused: rows of the maps that are fused in each weight, one below the other; empty where it is not a matrix.
        members: P, or 1.
    """

    weights: list[Tensor]
    gradients: list[Tensor]
    moments: list[list[Tensor]]
    steps: list[Tensor]
    lr: PerMember
    weight_decay: PerMember
    fused: tuple[int, ...] = ()
    members: int = 1

    def split(self, sizes: Sequence[int]) -> list["Update"]:
        """The updates of so many consecutive members each, without a copy; rates stay those of all."""
        if len(sizes) == 1 and not any(step.dim() for step in self.steps):
            return [self]
        columns = [self.weights, self.gradients, *self.moments]
        parts = [list(zip(*(torch.split(tensor, list(sizes)) for tensor in column), strict=True)) for column in columns]
        firsts = [sum(sizes[:n]) for n in range(len(sizes))]
        counts = [step.expand(self.members).unbind() for step in self.steps[:1]]  # all of its tensors have seen as many
        return [
            replace(
                self,
                weights=list(weights),
                gradients=list(gradients),
                moments=[list(moment) for moment in moments],
                steps=[each[first] for each in counts for _ in weights],
                members=size,
            )
            for size, first, weights, gradients, *moments in zip(sizes, firsts, *parts, strict=True)
        ]


UpdateFunction = Callable[[Sequence[Update], Sequence[UpdateSettings], torch.dtype], None]
"""Updates all groups of a rule by settings for all members, one, or for each, P of them; products of matrices may be
computed in the precision given."""


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """How an optimizer updates weights.

    Args:
        moments: names of the tensors that it keeps of each weight, of the weight's shape and at first zero.
        update: what it does with them.
        counts_steps: whether it needs to know how many updates the moments have seen.
        whole_matrices: whether it is for matrices inside the blocks, which then cannot be sharded.
        others: the rule for all other weights, where there is such a rule.
    """

    moments: tuple[str, ...]
    update: UpdateFunction
    counts_steps: bool = False
    whole_matrices: bool = False
    others: str | None = None


@dataclass
class Numbers:
    """An `Update` with one rate for all: what a kernel changes in place, lists of tensors of one length."""

    weights: list[Tensor]
    gradients: list[Tensor]
    moments: list[list[Tensor]]
    steps: list[Tensor]
    lr: float
    weight_decay: float


Kernel = Callable[[Numbers, UpdateSettings], None]


class Alike(NamedTuple):
    """Consecutive members, number `first` to `stop`, the latter not included, that are updated in the same way."""

    first: int
    stop: int
    lr: float
    weight_decay: float
    settings: UpdateSettings


def elementwise(kernel: Kernel) -> UpdateFunction:
    """The update by a kernel that treats each number by itself, so that tensors may have any shape.

    It is called once for all consecutive members that are updated alike.
    """

    def update(updates: Sequence[Update], settings: Sequence[UpdateSettings], precision: torch.dtype) -> None:
        for each in updates:
            groups = alike_members(each, settings)
            parts = each.split([group.stop - group.first for group in groups])
            for part, group in zip(parts, groups, strict=True):
                _apply(kernel, part, group)

    return update


def alike_members(update: Update, settings: Sequence[UpdateSettings]) -> list[Alike]:
    """All members, grouped where consecutive ones have the same rates, settings and counts of updates."""
    by_member = any(step.dim() for step in update.steps)
    lr, weight_decay = update.lr, update.weight_decay
    if len(settings) == 1 and not by_member and not isinstance(lr, Tensor) and not isinstance(weight_decay, Tensor):
        return [Alike(0, update.members, lr, weight_decay, settings[0])]
    rates, decays = (
        torch.as_tensor(rate, dtype=torch.float64).expand(update.members).tolist() for rate in (lr, weight_decay)
    )
    counts = update.steps[0].tolist() if by_member else [0.0] * update.members  # the same of each of its tensors
    each = settings if len(settings) > 1 else [settings[0]] * update.members
    return [
        Alike(first, stop, rates[first], decays[first], each[first])
        for first, stop in equal_runs(list(zip(rates, decays, counts, each, strict=True)))
    ]


def _apply(kernel: Kernel, update: Update, alike: Alike) -> None:
    """Updates members that are alike; tensors that do not fill registers are filled up before, on a CPU."""
    columns, members = [update.weights, update.gradients, *update.moments], update.members
    partial = [n for n, w in enumerate(update.weights) if w.numel() // members % REGISTER and w.device.type == "cpu"]
    filled = [list(column) for column in columns]
    for column, rows in zip(columns, filled, strict=True):
        for n in partial:
            rows[n] = _filled(column[n], members)
    weights, gradients, *moments = filled
    kernel(Numbers(weights, gradients, moments, update.steps, alike.lr, alike.weight_decay), alike.settings)
    for column, rows in zip([update.weights, *update.moments], [weights, *moments], strict=True):
        for n in partial:
            _copy_back(column[n], rows[n])


def _filled(tensor: Tensor, members: int) -> Tensor:
    """A parameter's numbers as a row for each member, `[P, n]`, n filled up with zeros to whole registers."""
    rows = tensor.detach().reshape(members, -1)
    return F.pad(rows, (0, -rows.shape[1] % REGISTER)) if rows.shape[1] % REGISTER else rows


def _copy_back(tensor: Tensor, filled: Tensor) -> None:
    """Sets a parameter's numbers to those of `_filled`."""
    rows = tensor.detach().view(len(filled), -1)
    rows.copy_(filled[:, : rows.shape[1]])
