"""The contract of an optimizer: a rule that moves lists of weights by their gradients and moments.

A rule is one file, with an `UpdateRule`, and one line in `rules.RULES`. Its name is then a value of `optimizer.name`;
it trains populations, with rates by member too, is sharded where it treats each number by itself, and its moments are
saved, resumed, bred and counted by `--dry-run`.

A member is updated as the same model alone is, bit for bit. On a CPU torch's kernels round what does not fill a vector
register in another way than the rest, and which numbers these are differs between one model and several; so
`elementwise` pads tensors where a member's numbers do not fill registers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

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


UpdateFunction = Callable[[Sequence[Update], UpdateSettings, torch.dtype], None]
"""Updates all groups of a rule; products of matrices may be computed in the precision given."""


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


def elementwise(kernel: Kernel) -> UpdateFunction:
    """The update by a kernel that treats each number by itself, so that tensors may have any shape.

    With rates by member it takes one member after the other, whose numbers are laid side by side for it.
    """

    def update(updates: Sequence[Update], settings: UpdateSettings, precision: torch.dtype) -> None:
        for each in updates:
            by_member = any(step.dim() for step in each.steps)
            if by_member or isinstance(each.lr, Tensor) or isinstance(each.weight_decay, Tensor):
                _one_member_after_the_other(kernel, each, settings)
            else:
                _all_members_together(kernel, each, settings, each.lr, each.weight_decay)

    return update


def _all_members_together(
    kernel: Kernel, update: Update, settings: UpdateSettings, lr: float, weight_decay: float
) -> None:
    """Updates with the same rates for all; tensors that do not fill registers are filled up before, on a CPU."""
    columns, members = [update.weights, update.gradients, *update.moments], update.members
    partial = [n for n, w in enumerate(update.weights) if w.numel() // members % REGISTER and w.device.type == "cpu"]
    filled = [list(column) for column in columns]
    for column, rows in zip(columns, filled, strict=True):
        for n in partial:
            rows[n] = _filled(column[n], members)
    weights, gradients, *moments = filled
    kernel(Numbers(weights, gradients, moments, update.steps, lr, weight_decay), settings)
    for column, rows in zip([update.weights, *update.moments], [weights, *moments], strict=True):
        for n in partial:
            _copy_back(column[n], rows[n])


def _one_member_after_the_other(kernel: Kernel, update: Update, settings: UpdateSettings) -> None:
    """Updates with a rate for each member, whose numbers are laid side by side."""
    columns, members = [update.weights, update.gradients, *update.moments], update.members
    rates, decays = (
        torch.as_tensor(rate, dtype=torch.float64).expand(members).tolist() for rate in (update.lr, update.weight_decay)
    )
    counts = update.steps[0].unbind() if update.steps else ()
    filled = [[_filled(tensor, members) for tensor in column] for column in columns]
    rows = [torch.cat(column, 1) for column in filled]
    by_member = zip(rates, decays, *(row.unbind() for row in rows), strict=True)
    for member, (lr, weight_decay, weight, gradient, *moments) in enumerate(by_member):
        step = [counts[member]] if counts else []  # all moments of a member have seen as many updates
        kernel(Numbers([weight], [gradient], [[m] for m in moments], step, lr, weight_decay), settings)
    sizes = [tensor.shape[1] for tensor in filled[0]]
    for column, row in zip([update.weights, *update.moments], [rows[0], *rows[2:]], strict=True):
        targets = [tensor.view(members, -1) for tensor in column]
        pieces = torch.split(row, sizes, 1)
        values = [piece[:, : target.shape[1]] for piece, target in zip(pieces, targets, strict=True)]
        torch._foreach_copy_(targets, values)


def _filled(tensor: Tensor, members: int) -> Tensor:
    """A parameter's numbers as a row for each member, `[P, n]`, n filled up with zeros to whole registers."""
    rows = tensor.detach().reshape(members, -1)
    return F.pad(rows, (0, -rows.shape[1] % REGISTER)) if rows.shape[1] % REGISTER else rows


def _copy_back(tensor: Tensor, filled: Tensor) -> None:
    """Sets a parameter's numbers to those of `_filled`."""
    rows = tensor.detach().view(len(filled), -1)
    rows.copy_(filled[:, : rows.shape[1]])
