"""THE training loop, shared by every method: a generator that yields one event a step.

Step n reads batch n, sets the rates of step n and draws its dropout from a seed that is a function of n; nothing
depends on how the loop came there, so a resumed run is the uninterrupted one, bit for bit on a CPU.

Dropout of a member is a function of (seed, step, member). Each of several ranks (`Plan.ranks`) trains on its rows of
the batch and draws its own dropout; gradients, losses and their parts are summed over all, so that every rank makes
the same update and yields the same figures. Where ranks share a population instead
(`Plan.num_members_across_ranks`, see `parallel/members.py`), a rank's state holds its members alone, and only the
figures are brought together.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from nanogrove.data.batch import Batches
from nanogrove.data.rng import derived_seed
from nanogrove.errors import DivergedError
from nanogrove.record.events import Event
from nanogrove.train.objective import Objective, scored
from nanogrove.train.parallel.ranks import ALONE, Ranks
from nanogrove.train.plan import Plan
from nanogrove.train.precision import Precision, autocast
from nanogrove.train.state import TrainState

RUN = 4096  # numbers of a gradient whose squares are added by one thread
BUDGETS = ("steps", "tokens", "epochs", "minutes")  # settings of `train` of which one is given


class TrainConfig(BaseModel):
    """How much to train, and how. One of `BUDGETS` says how much, where the method does not count its steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(None, ge=1, description="optimizer steps to train")
    tokens: int | None = Field(None, ge=1, description="tokens to train on, whole steps")
    epochs: float | None = Field(None, gt=0, allow_inf_nan=False, description="passes over the training split")
    minutes: float | None = Field(
        None, gt=0, le=10_000_000, allow_inf_nan=False, description="of training; timed steps turn it into `steps`"
    )
    batch_size: int = Field(16, ge=1, description="sequences a step, all micro-batches together")
    accumulation: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="micro-batches a step")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm, for each member by itself")
    precision: Literal["auto"] | Precision = Field(
        "auto", description="of matrix products; auto takes the fastest that is sound on this device"
    )
    compile: Literal["auto"] | bool = Field("auto", description="with torch.compile; auto where that pays")
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="of the CPU; auto times a few")
    shard: bool = Field(False, description="shard weights and moments, one shard for each rank")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one")
    divergence: float = Field(5.0, gt=0, description="nats above a uniform guess at which a run is stopped")

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.accumulation != "auto" and self.accumulation > self.batch_size:
            raise ValueError(f"accumulation {self.accumulation} is more than batch_size {self.batch_size}")
        return self

    @property
    def budgets(self) -> list[str]:
        """Which of the budgets are given."""
        return [name for name in BUDGETS if getattr(self, name) is not None]


def fit(state: TrainState, batches: Batches, objective: Objective, plan: Plan) -> Iterator[Event]:
    """Trains from `state.step` to `plan.steps`, yielding a `step` event behind each update.

    Micro-batches, and ranks, are weighted by their scored tokens, so either changes memory and time and nothing else.
    Raises PeerError where another rank is gone, and DivergedError, before the update, when a loss or gradient norm is
    NaN or infinite, or the loss exceeds `plan.divergence`: that of any member, or, with
    `plan.tolerate_diverged_members`, that of all.
    """
    parameters = [parameter for _, parameter in state.named_parameters()]
    device = parameters[0].device
    forward = cast(nn.Module, torch.compile(state.model)) if plan.compile else state.model
    ranks = plan.ranks
    apart = [ranks.rank] if ranks.rank and plan.num_members_across_ranks is None else []
    while state.step < plan.steps:
        began = time.perf_counter()
        state.model.train()
        state.optimizer.set_rate(plan.lr_factor(state.step))
        if state.model.dropout.active:
            members = range(plan.first_member, plan.first_member + (state.model.population or 1))
            seeds = [derived_seed(plan.seed, "dropout", state.step, member, *apart) for member in members]
            state.model.dropout.seed(seeds, device)
            torch.manual_seed(seeds[0])  # of kernels that draw for themselves
        batch = batches(state.step).to(device).expand(state.model.population)
        count = scored(batch)
        totals: list[Tensor] = []
        parts: dict[str, list[Tensor]] = defaultdict(list)
        rows = batch if plan.num_members_across_ranks else batch.part(ranks.rank, ranks.world)
        micros = rows.split(plan.accumulation)
        if plan.sharded:  # shards meet at each micro-batch, so all ranks go through as many
            most = max(len(batch.part(n, ranks.world).split(plan.accumulation)) for n in (0, ranks.world - 1))
            micros += [replace(micros[0], mask=torch.zeros_like(micros[0].mask))] * (most - len(micros))
        for micro in micros:
            with autocast(device, plan.precision):
                loss = objective(forward, micro)
            share = scored(micro).to(loss.total.dtype) / count
            (loss.total * share).sum().backward()  # type: ignore[no-untyped-call]
            totals.append((loss.total * share).detach())
            for name, part in loss.parts.items():
                parts[name].append((part * share).detach())
        total = torch.stack(totals).sum(0)
        told = {name: torch.stack(part).sum(0) for name, part in parts.items()}
        gradients = state.gradients()
        if plan.num_members_across_ranks is None:
            ranks.sum([*(() if plan.sharded else gradients), total, *told.values()])
        norm = clip_gradients(gradients, count.shape, plan.clip, ranks if plan.sharded else ALONE)
        lr = state.optimizer.groups[0].lr
        if plan.num_members_across_ranks is not None:
            by_member = {"loss": total, "norm": norm, "lr": lr, **told}
            total, norm, lr, *others = _of_all(list(by_member.values()), plan.num_members_across_ranks, ranks)
            told = dict(zip(told, others, strict=True))
        sound = (total <= plan.divergence) & norm.isfinite()
        if not bool(sound.any() if plan.tolerate_diverged_members else sound.all()):
            state.optimizer.zero_grad()
            raise DivergedError(
                f"training diverged at step {state.step + 1}: loss {_shown(total)}, gradient norm {_shown(norm)}, "
                f"learning rate {_shown(torch.as_tensor(lr))}; lower optimizer.lr or lengthen schedule.warmup"
            )
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        tokens = batch.tokens.shape[-2] * batch.tokens.shape[-1]
        state.tokens += tokens
        elapsed = time.perf_counter() - began
        state.seconds += elapsed
        values = {
            "loss": total.tolist(),
            "lr": lr.tolist() if isinstance(lr, Tensor) else lr,
            "grad_norm": norm.tolist(),
            "tokens": state.tokens,
        }
        values |= {name: part.tolist() for name, part in told.items()}
        rate = tokens * len(total.view(-1)) / elapsed
        yield Event("step", state.step, values, {"seconds": state.seconds, "tokens_per_second": rate})


def _of_all(figures: list[Any], population: int, ranks: Ranks) -> list[Any]:
    """Figures of all members, `[P]`, from those of each rank's; a number is that of all already."""
    whole: list[Any] = []
    for figure in figures:
        if isinstance(figure, Tensor):
            own, figure = figure, figure.new_zeros(population)
            figure[ranks.share(population)] = own
        whole.append(figure)
    ranks.sum([figure for figure in whole if isinstance(figure, Tensor)])
    return whole


def clip_gradients(gradients: list[Tensor], members: torch.Size, limit: float | None, ranks: Ranks = ALONE) -> Tensor:
    """Scales the gradients `[*P, …]` in place so that no member's norm exceeds `limit`; the norms before, `[*P]`.

    Of a sharded model each of the `ranks` gives the gradients of its shards.
    """
    norms = [_norm(gradient.flatten(len(members))) for gradient in gradients]
    norm = _norm(torch.stack(norms, -1))
    if ranks.world > 1:
        square = norm.square()
        ranks.sum([square])
        norm = square.sqrt()
    if limit is not None:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.view(*members, *[1] * (gradient.dim() - len(members))))
    return norm


def _norm(x: Tensor) -> Tensor:
    """The 2-norm `[*P]` of `x [*P, N]`, by runs of RUN numbers, which no two threads divide between them."""
    while x.shape[-1] > RUN:
        runs = F.pad(x, (0, -x.shape[-1] % RUN)).view(*x.shape[:-1], -1, RUN)
        x = torch.linalg.vector_norm(runs, dim=-1)
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm


def _shown(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.flatten().tolist())
