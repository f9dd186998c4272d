"""THE training loop, shared by every method: a generator that yields one event per step.

Step n reads batch n, sets the rates of step n and draws its dropout, and offsets of coupled positions, from a seed: all
are functions of n alone, so a run that is resumed from a checkpoint equals the uninterrupted one, bit for bit on a CPU.

Dropout of a member is a function of (seed, step, member). Each of several ranks (`Plan.ranks`) trains on its rows of
the batch and draws its own dropout; gradients, losses and their parts are summed over all, so that every rank makes
the same update and yields the same figures. Where ranks share a population instead
(`Plan.num_members_across_ranks`, see `parallel/members.py`), a rank's state holds its members alone, and only the
figures are gathered.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from nanogrove.data.batch import Batch, Batches
from nanogrove.data.rng import derived_seed
from nanogrove.errors import DivergedError
from nanogrove.paths import OnDisk
from nanogrove.record.events import Event
from nanogrove.settings import Settings
from nanogrove.train.average import AverageConfig
from nanogrove.train.lora import LoraConfig
from nanogrove.train.objective import Objective, count_scored
from nanogrove.train.optim.update_rule import PerMember
from nanogrove.train.parallel.ranks import ALONE, Ranks
from nanogrove.train.plan import Plan
from nanogrove.train.precision import Precision, autocast
from nanogrove.train.state import TrainState

NORM_CHUNK = 4096  # numbers of a gradient whose squares are added by one thread
BUDGETS = ("steps", "tokens", "epochs", "minutes")  # settings of `train` of which one is given


class TrainConfig(Settings):
    """How much to train, and how. One of `BUDGETS` says how much, where the method does not count its steps."""

    steps: int | None = Field(None, ge=1, description="optimizer steps to train")
    tokens: int | None = Field(None, ge=1, description="tokens to train on, whole steps")
    epochs: float | None = Field(None, gt=0, description="passes over the training split")
    minutes: float | None = Field(
        None,
        gt=0,
        le=10_000_000,
        description="minutes of training, which timed steps turn into `steps`",
    )
    batch_size: int = Field(16, ge=1, description="sequences per step, all micro-batches together")
    accumulation: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="micro-batches per step")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm, per member")
    init: Annotated[str | list[str] | None, OnDisk()] = Field(
        None,
        description="what training begins with: a run, a checkpoint, or a model of transformers in a folder or by its "
        "hub name; for a population one, or one for each member",
    )
    init_noise: float = Field(
        0.0, ge=0, description="noise added to each member's first weights, over their root mean square"
    )
    lora: LoraConfig = Field(LoraConfig(), description="adapters of low rank, trained in place of all weights")
    average: AverageConfig = Field(
        AverageConfig(), description="an average of what is trained along training, scored and kept in its place"
    )
    precision: Literal["auto"] | Precision = Field(
        "auto", description="number format of matrix products; auto takes the fastest that is sound on this device"
    )
    compile: Literal["auto"] | bool = Field("auto", description="use torch.compile; auto where that pays")
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto", description="CPU threads; auto follows from the size of a step"
    )
    shard: bool = Field(False, description="shard weights and moments, one shard for each rank")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one")
    divergence: float = Field(5.0, gt=0, description="nats above a uniform guess at which a run stops")

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.accumulation != "auto" and self.accumulation > self.batch_size:
            raise ValueError(f"accumulation {self.accumulation} is more than batch_size {self.batch_size}")
        if self.init is not None and not all(self.sources or [""]):
            raise ValueError("init names nothing; give a folder or a name on the hub, or leave init out")
        if self.init_noise and not self.sources:
            raise ValueError("init_noise is added to the weights of init; set that too")
        return self

    @property
    def sources(self) -> list[str]:
        """What training begins with: nothing, one for all members, or one for each."""
        return self.init if isinstance(self.init, list) else [self.init] if self.init else []

    @property
    def budgets(self) -> list[str]:
        """Which of the budgets are given."""
        return [name for name in BUDGETS if getattr(self, name) is not None]


class _Figures(NamedTuple):
    """What a step reports: the loss, the gradient norm before clipping and the parts, each `[*P]`, and the rate."""

    loss: Tensor
    norm: Tensor
    lr: PerMember
    parts: dict[str, Tensor]


def fit(state: TrainState, batches: Batches, objective: Objective, plan: Plan) -> Iterator[Event]:
    """Trains from `state.step` to `plan.steps`, yielding a `step` event after each update.

    Micro-batches, and ranks, are weighted by their scored tokens, so without dropout the update is that of the whole
    batch, up to rounding.

    Raises PeerError where another rank is gone, and DivergedError, before the update, when a loss or gradient norm is
    NaN or infinite, or the loss exceeds `plan.max_loss`: that of any member, or, with
    `plan.tolerate_diverged_members`, that of all.
    """
    forward = cast(nn.Module, torch.compile(state.model)) if plan.compile else state.model
    device = next(parameter for _, parameter in state.named_parameters()).device
    while state.step < plan.steps:
        began = time.perf_counter()
        state.model.train()
        state.optimizer.set_rate(plan.lr_factor(state.step))
        _seed_streams(state, plan, device)
        batch = batches(state.step).to(device).expand(state.model.population)
        figures = _compute_gradients(state, forward, batch, objective, plan)
        _check_divergence(state, figures, plan)
        state.optimizer.step()
        state.apply_adapter()
        state.optimizer.zero_grad()
        state.step += 1
        if state.average is not None:
            averaged = (parameter for _, parameter in state.named_parameters())
            state.average.update(averaged, state.step - plan.average_from)
        tokens = batch.tokens.shape[-2] * batch.tokens.shape[-1]
        state.tokens += tokens
        elapsed = time.perf_counter() - began
        state.seconds += elapsed
        values = {
            "loss": figures.loss.tolist(),
            "lr": figures.lr.tolist() if isinstance(figures.lr, Tensor) else figures.lr,
            "grad_norm": figures.norm.tolist(),
            "tokens": state.tokens,
        }
        values |= {name: part.tolist() for name, part in figures.parts.items()}
        rate = tokens * len(figures.loss.view(-1)) / elapsed
        yield Event("step", state.step, values, {"seconds": state.seconds, "tokens_per_second": rate})


def _seed_streams(state: TrainState, plan: Plan, device: torch.device) -> None:
    """Seeds each member's dropout and offsets by (seed, step, member), and by the rank where ranks read other rows."""
    model = state.model
    by_rank = [plan.ranks.rank] if plan.ranks.rank and plan.num_members_across_ranks is None else []
    members = range(plan.first_member, plan.first_member + (model.population or 1))
    names = [(seed, 0) for seed in plan.member_seeds] or [(plan.seed, member) for member in members]

    def seeds(purpose: str) -> list[int]:
        return [derived_seed(seed, purpose, state.step, member, *by_rank) for seed, member in names]

    if model.coupled is not None and model.coupled.active:
        model.coupled.seed(seeds("coupled positions"), device)
    if model.dropout.active:
        model.dropout.seed(seeds("dropout"), device)
        # Kernels that draw for themselves. `torch.manual_seed` goes through all kinds of devices, some 0.4 ms.
        seed_default = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
        seed_default(seeds("dropout")[0])


def _compute_gradients(
    state: TrainState, forward: nn.Module, batch: Batch, objective: Objective, plan: Plan
) -> _Figures:
    """Sets the gradients of a whole batch, summed over micro-batches and ranks, and clips them."""
    ranks, count = plan.ranks, count_scored(batch)
    loss, parts = _backward(forward, _micro_batches(batch, plan), count, objective, plan)
    state.take_gradients()
    gradients = state.gradients()
    if plan.num_members_across_ranks is None:
        ranks.sum([*(() if plan.sharded else gradients), loss, *parts.values()])
    norm = clip_gradients(gradients, count.shape, plan.clip, ranks if plan.sharded else ALONE)
    lr = state.optimizer.groups[0].lr
    if plan.num_members_across_ranks is None:
        return _Figures(loss, norm, lr, parts)
    rates = {"lr": lr} if isinstance(lr, Tensor) else {}
    figures = _gather_members({"loss": loss, "norm": norm, **rates, **parts}, plan.num_members_across_ranks, ranks)
    return _Figures(figures["loss"], figures["norm"], figures.get("lr", lr), {name: figures[name] for name in parts})


def _micro_batches(batch: Batch, plan: Plan) -> list[Batch]:
    """The micro-batches of this rank, as many on each rank of a sharded model; the mask of those added is all false."""
    ranks = plan.ranks
    rows = batch if plan.num_members_across_ranks else batch.part(ranks.rank, ranks.world)
    micros = rows.split(plan.accumulation)
    if plan.sharded:
        most = max(len(batch.part(n, ranks.world).split(plan.accumulation)) for n in (0, ranks.world - 1))
        micros += [replace(micros[0], mask=torch.zeros_like(micros[0].mask))] * (most - len(micros))
    return micros


def _backward(
    forward: nn.Module, micros: Sequence[Batch], count: Tensor, objective: Objective, plan: Plan
) -> tuple[Tensor, dict[str, Tensor]]:
    """Adds up gradients, loss and parts of micro-batches, each weighted by its share of `count [*P]` scored tokens."""
    losses: list[Tensor] = []
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for micro in micros:
        with autocast(count.device, plan.precision):
            loss = objective(forward, micro)
        share = count_scored(micro).to(loss.total.dtype) / count
        (loss.total * share).sum().backward()  # type: ignore[no-untyped-call]
        losses.append((loss.total * share).detach())
        for name, part in loss.parts.items():
            parts[name].append((part * share).detach())
    return torch.stack(losses).sum(0), {name: torch.stack(part).sum(0) for name, part in parts.items()}


def _check_divergence(state: TrainState, figures: _Figures, plan: Plan) -> None:
    """Raises DivergedError, without gradients left, where the run is to stop; see `fit`."""
    sound = (figures.loss <= plan.max_loss) & figures.norm.isfinite()
    if bool(sound.any() if plan.tolerate_diverged_members else sound.all()):
        return
    state.optimizer.zero_grad()
    rates = torch.as_tensor(figures.lr).expand_as(figures.loss)
    rows = list(zip(figures.loss, figures.norm, rates, strict=True)) if figures.loss.dim() else []
    alone = {n: _diverged(state.step, *row) for n, row in enumerate(rows) if not sound[n]}
    raise DivergedError(_diverged(state.step, figures.loss, figures.norm, torch.as_tensor(figures.lr)), alone)


def _diverged(step: int, loss: Tensor, norm: Tensor, lr: Tensor) -> str:
    return (
        f"training diverged at step {step + 1}: loss {_shown(loss)}, gradient norm {_shown(norm)}, learning rate "
        f"{_shown(lr)}; lower optimizer.lr or lengthen schedule.warmup"
    )


def _gather_members(figures: dict[str, Tensor], population: int, ranks: Ranks) -> dict[str, Tensor]:
    """Figures of all members, `[P]`, from those of each rank's members."""
    gathered = {}
    for name, figure in figures.items():
        gathered[name] = figure.new_zeros(population)
        gathered[name][ranks.share(population)] = figure
    ranks.sum(list(gathered.values()))
    return gathered


def clip_gradients(gradients: list[Tensor], members: torch.Size, limit: float | None, ranks: Ranks = ALONE) -> Tensor:
    """Scales the gradients `[*P, …]` in place so that no member's norm exceeds `limit`; the norms before, `[*P]`.

    Each of the `ranks` of a sharded model gives the gradients of its shards.
    """
    norms = [_norm(gradient.flatten(len(members))) for gradient in gradients]
    norm = _norm(torch.stack(norms, -1))
    if ranks.world > 1:
        square = norm.square()
        ranks.sum([square])
        norm = square.sqrt()
    if limit is not None:
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        scales = [scale.view(*members, *[1] * (gradient.dim() - len(members))) for gradient in gradients]
        torch._foreach_mul_(gradients, scales)
    return norm


def _norm(x: Tensor) -> Tensor:
    """The 2-norm `[*P]` of `x [*P, N]`, by chunks that no two threads divide between them, whatever their number."""
    while x.shape[-1] > NORM_CHUNK:
        chunks = F.pad(x, (0, -x.shape[-1] % NORM_CHUNK)).view(*x.shape[:-1], -1, NORM_CHUNK)
        x = torch.linalg.vector_norm(chunks, dim=-1)
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm


def _shown(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.flatten().tolist())
