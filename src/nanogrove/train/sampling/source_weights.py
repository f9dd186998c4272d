"""Losses by source, and weights of sources that follow from them.

The loss of a source is that of its tokens (`Batch.source`), summed over the steps of an interval. After each interval
of tokens a strategy proposes weights π, which are mixed with those before and kept within bounds:

    loss               π ∝ loss: what is hard is shown more, noise too
    learning_progress  π ∝ max(fall − error, 0) + π₀ Σ error, π₀ the weights at the start
    excess_loss        π ∝ π·exp(η·excess), excess = max(loss − loss of a reference model, 0)      (DoReMi)

fall is the slope, with its sign changed, of the line through a source's losses by step, weighted by their tokens, over
this interval and the one before; error is its standard error (`numpy.polyfit` with `cov=True`). Progress counts as far
as it exceeds its error, and the share of the errors is divided as at the start, so noise alone moves no weight.

`odm` updates after each step instead, as published: with ε₀ = 1/K, ε_t = min(1/K, √(ln K / (K t))) and R̂ = 0 at first,

    π_t = (1 − K ε_t) softmax(ε_{t−1} R̂) + ε_t
    R̂_i ← α R̂_i + (1 − α) L_i / π_t(i)      for each source i that was drawn in step t, L_i the sum of its losses

That is the algorithm of Albalak et al. 2023, arXiv 2312.02406. There a step draws a source for each of G
micro-batches; here for each row of a batch, so G is `train.batch_size`, and rewards, with how sharply π follows them,
grow with it. The draws are systematic (`data/text/mixture.py`): each row comes from source i with probability π_t(i),
and counts vary less than those of independent draws. α is `smoothing`. Beyond the paper, π is kept within `least` and
`most` (0 and 1 leave it as published), and the weights of step 1 are the corpus's (equal unless given, as π_1 is). The
code released with the paper differs from it: means for sums, exp(loss) as reward, no division by π, no softmax.

DoReMi: Xie et al. 2023, arXiv 2305.10429, where excess is taken token by token; here a reference's loss is that on held
out text of the source. Nobody has shown a strategy that beats fixed weights throughout (Aioli, arXiv 2411.05735).

All that is known of the past is in `TrainState.method_state`, so a resumed run draws the same batches.
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import TypedDict

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import MixedCorpus
from nanogrove.data.text.mixture import Phase, Weighted
from nanogrove.paths import OnDisk
from nanogrove.record.events import Event, Values
from nanogrove.settings import Count, Settings
from nanogrove.train.objective import Loss, count_scored, weighted
from nanogrove.train.state import TrainState

ETA = 1.0  # step size of excess_loss, as published
MOMENTS = 7  # sums of a source by which a line is fitted to its losses
BY_SOURCE: tuple[Literal["nll", "share", "moments", "moments_before", "rewards", "given"], ...]
BY_SOURCE = ("nll", "share", "moments", "moments_before", "rewards", "given")

Strategy = Literal["loss", "learning_progress", "excess_loss", "odm"]


class AdaptiveConfig(Settings):
    """How weights of sources adapt; they begin equal, or as `data.source_weights` says."""

    strategy: Strategy = Field(
        "loss",
        description="what raises the weight of a source: its loss, progress, excess loss, or a bandit",
    )
    interval: int = Field(5_000_000, ge=1, description="tokens between two updates; of odm between two records")
    least: float = Field(0.05, ge=0, lt=1, description="share of a source, at least")
    most: float = Field(1.0, gt=0, le=1, description="share of a source, at most")
    smoothing: float = Field(0.5, ge=0, lt=1, description="share of the old in new weights; of odm, in new rewards")
    reference: Annotated[str | None, OnDisk()] = Field(
        None, description="excess_loss: a run whose model is compared with"
    )

    @model_validator(mode="after")
    def _check(self) -> "AdaptiveConfig":
        if self.least > self.most:
            raise ValueError(f"least {self.least:g} is above most {self.most:g}")
        if (self.reference is not None) != (self.strategy == "excess_loss"):
            raise ValueError("strategy excess_loss and a reference belong together; give both or none")
        return self


def by_source(nll: Tensor, batch: Batch, sources: int) -> Loss:
    """`weighted`, with each source's part of the loss and of the scored tokens among the parts."""
    detached, counted = nll.detach(), batch.mask.float()
    parts = {}
    for source in range(sources):
        mask = (batch.source == source)[..., None] * counted
        parts[f"nll {source}"] = (mask * detached).sum((-2, -1)) / count_scored(batch)
        parts[f"share {source}"] = mask.sum((-2, -1)) / count_scored(batch)
    return Loss(weighted(nll, batch).total, parts)


Finite = Annotated[float, Field(allow_inf_nan=False)]
BySource = list[Finite]


class History(TypedDict):
    """All that is known of the past, JSON; lists have an entry for each source.

    Args:
        phases: first sequence and weights, of this phase and the one before.
        number: of phases that are over and dropped.
        counts: of sequences in those.
        nll: sums of the losses of this interval, times shares.
        share: sums of the shares of its tokens.
        begun: `TrainState.tokens` when it began.
        moments: sums of it, `[K, MOMENTS]`.
        moments_before: those of the interval before.
        rewards: of odm.
        turns: of odm.
        given: tokens until then.
        reference: the losses of the reference model, where there is one.
    """

    phases: list[tuple[Count, list[Annotated[Finite, Field(ge=0)]]]]
    number: Count
    counts: list[Count]
    nll: BySource
    share: BySource
    begun: Count
    moments: list[BySource]
    moments_before: list[BySource]
    rewards: BySource
    turns: Count
    given: BySource
    reference: BySource | None


def check_history(history: History, corpus: MixedCorpus, step: int, config: AdaptiveConfig | None) -> None:
    """Raises ValueError where a history is not one of this corpus and of the steps until `step`."""
    weights = [weights for _, weights in history["phases"]]
    rows = [*weights, history["counts"], history["reference"], *(history[name] for name in BY_SOURCE)]
    if any(len(row) != len(corpus.names) for row in rows if row is not None):
        raise ValueError(f"its sources are not the {len(corpus.names)} of data")
    if any(len(row) != MOMENTS for name in ("moments", "moments_before") for row in history[name]):
        raise ValueError("its moments of the losses of sources are cut short")
    starts = [start for start, _ in history["phases"]]
    if not starts or starts != sorted(starts) or starts[-1] > step * corpus.batch_size or not all(map(any, weights)):
        raise ValueError("its weights of sources are none, zero or out of order")
    if config is not None and config.strategy == "excess_loss" and history["reference"] is None:
        raise ValueError("it lacks the losses of method.adaptive.reference")


class Mixing:
    """The losses of a corpus's sources as training goes on and, where `config` asks for it, weights that adapt."""

    def __init__(
        self, state: TrainState, corpus: MixedCorpus, config: AdaptiveConfig | None, reference: list[float] | None
    ) -> None:
        self.state, self.corpus, self.config = state, corpus, config
        count = len(corpus.names)
        zeros = [0.0] * count
        empty = [[0.0] * MOMENTS for _ in range(count)]
        self.history: Values = {
            "phases": [list(phase) for phase in corpus.weighted.phases],  # this one and the one before
            "number": 0,  # of phases that are over and dropped
            "counts": [0] * count,  # of sequences of each source in those
            "nll": zeros,
            "share": zeros,
            "begun": 0,
            "moments": empty,
            "moments_before": empty,
            "rewards": zeros,
            "turns": 0,
            "given": zeros,
            "reference": reference,
        } | state.method_state.get("sources", {})
        state.method_state["sources"] = self.history
        self.start = _shares(np.array(corpus.weighted.phases[0].weights))
        self._mix()

    def _mix(self) -> None:
        """Sets the mixture of the phases, and drops all but two: the last step's batch may be read again."""
        history = self.history
        phases = [Phase(start, tuple(weights)) for start, weights in history["phases"]]
        self.mixture = Weighted(phases, self.corpus.seed, history["number"], history["counts"])
        over = max(len(phases) - 2, 0)
        history["counts"] = self.mixture.before[over].tolist()
        history["phases"], history["number"] = history["phases"][over:], history["number"] + over

    def _begin(self, weights: np.ndarray) -> None:
        """Draws by these weights from the next step on."""
        self.history["phases"].append([self.state.step * self.corpus.batch_size, weights.tolist()])
        self._mix()

    @property
    def weights(self) -> np.ndarray:
        """The current weights, which sum to one."""
        return _shares(np.array(self.history["phases"][-1][1]))

    def batch(self, step: int) -> Batch:
        """Batch number `step` under the current weights."""
        return self.corpus.batch(step) if self.config is None else self.corpus.mixed(step, self.mixture)

    def observe(self, event: Event) -> None:
        """Moves the losses by source from a `step` event to the history."""
        history = self.history
        nll, share = (
            np.array([event.values.pop(f"{name} {source}") for source in range(len(self.corpus.names))])
            for name in ("nll", "share")
        )
        history["nll"] = (np.array(history["nll"]) + nll).tolist()
        history["share"] = (np.array(history["share"]) + share).tolist()
        if self.config is not None:
            history["moments"] = (np.array(history["moments"]) + moments(event.step, nll, share)).tolist()
            if self.config.strategy == "odm":
                self._play(nll * self.corpus.batch_size, self.config)

    def _play(self, sums: np.ndarray, config: AdaptiveConfig) -> None:
        """One turn of odm: the rewards after a step, from each source's sum of losses, and the next step's weights."""
        history = self.history
        history["turns"] += 1
        rewards = rewarded(np.array(history["rewards"]), sums, self.weights, config.smoothing)
        history["rewards"] = rewards.tolist()
        self._begin(bounded(bandit(rewards, history["turns"] + 1), config.least, config.most))

    @property
    def due(self) -> bool:
        """Whether an interval is over."""
        return self.config is not None and self.state.tokens - self.history["begun"] >= self.config.interval

    def update(self) -> Event:
        """Ends an interval: its losses by source as an event, and the weights of the next one."""
        history, total = self.history, sum(self.history["share"])
        losses = [n / s if s else None for n, s in zip(history["nll"], history["share"], strict=True)]
        values: Values = {
            "names": self.corpus.names,
            "loss": losses,
            "share": [share / total if total else 0.0 for share in history["share"]],
            "passes": self._passes(),
            "seen": self.state.tokens,
        }
        if self.config is not None:
            if self.config.strategy != "odm":
                self._begin(self._proposed(losses, self.config))
            values["weights"] = self.weights.tolist()
        history |= {"nll": [0.0] * len(losses), "share": [0.0] * len(losses), "begun": self.state.tokens}
        history["moments_before"], history["moments"] = history["moments"], [[0.0] * MOMENTS for _ in losses]
        return Event("sources", self.state.step, values)

    def _passes(self) -> list[float | None]:
        """How often each source has been seen so far; None for one that streams, whose size is unknown."""
        step = self.corpus.batch_size * self.corpus.length
        history = self.history
        history["given"] = [a + b * step for a, b in zip(history["given"], history["share"], strict=True)]
        sizes = self.corpus.source_tokens()
        return [size and given / size for given, size in zip(history["given"], sizes, strict=True)]

    def _proposed(self, losses: list[float | None], config: AdaptiveConfig) -> np.ndarray:
        """The weights of the next interval, smoothed and within bounds."""
        loss = np.array([math.nan if loss is None else loss for loss in losses])
        if config.strategy == "loss":
            target = by_loss(loss)
        elif config.strategy == "learning_progress":
            sums = np.array(self.history["moments"]) + np.array(self.history["moments_before"])
            target = by_progress(*falls(sums), self.start)
        else:
            target = by_excess(self.weights, loss, np.array(self.history["reference"]))
        mixed = config.smoothing * self.weights + (1 - config.smoothing) * target
        return bounded(mixed, config.least, config.most)


def by_loss(loss: np.ndarray) -> np.ndarray:
    """Weights `[K]` in proportion to losses, which are NaN where a source was not seen; such a one has the mean."""
    return _shares(np.where(np.isfinite(loss), loss, np.nanmean(loss)))


def by_excess(weights: np.ndarray, loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Weights `[K]` raised by how far each loss exceeds that of the reference, unless it is NaN."""
    excess = np.where(np.isfinite(loss), np.maximum(loss - reference, 0.0), 0.0)
    return _shares(weights * np.exp(ETA * excess))


def by_progress(fall: np.ndarray, error: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Weights `[K]` from falls of the loss and their standard errors, both NaN where a source was not seen.

    The weights at the `start` while an error is infinite, as after too few steps.
    """
    certain, doubt = np.nan_to_num(np.maximum(fall - error, 0.0)), np.nansum(error)
    total = certain.sum() + doubt
    return (certain + doubt * start) / total if 0 < total < np.inf else start


def moments(step: int, nll: np.ndarray, share: np.ndarray) -> np.ndarray:
    """What a step adds to the sums `[K, MOMENTS]` that `falls` needs, from each source's share of loss and tokens."""
    loss = nll / np.where(share > 0, share, 1.0)
    ones = (share > 0).astype(float)
    powers = [ones, step * ones, step**2 * ones, loss, step * loss, loss**2]
    return np.stack([*(share * power for power in powers), ones], -1)


def falls(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much each loss falls per step, and its standard error, by weighted least squares on sums of `moments`.

    Both NaN where a source was not seen; the error is infinite after fewer than three steps.
    """
    weight, by_step, by_square, by_loss, product, loss_square, count = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = by_square - by_step**2 / weight
        slope = (product - by_step * by_loss / weight) / spread
        rest = np.maximum(loss_square - by_loss**2 / weight - slope**2 * spread, 0.0)
        error = np.sqrt(rest / (count - 2) / spread)
    few = (count > 0) & (count < 3)
    return np.where(few, 0.0, -slope), np.where(few, np.inf, error)


def exploration(turn: int, sources: int) -> float:
    """ε of a turn of odm; turn 0 is before the first."""
    return min(1 / sources, math.sqrt(math.log(sources) / (sources * turn))) if turn else 1 / sources


def bandit(rewards: np.ndarray, turn: int) -> np.ndarray:
    """π of a turn of odm from the estimated rewards `[K]` of the turns before."""
    count = len(rewards)
    powers = np.exp(exploration(turn - 1, count) * (rewards - rewards.max()))
    epsilon = exploration(turn, count)
    return (1 - count * epsilon) * _shares(powers) + epsilon


def rewarded(rewards: np.ndarray, sums: np.ndarray, weights: np.ndarray, smoothing: float) -> np.ndarray:
    """The estimated rewards after a turn of draws by `weights`, from sums of losses, 0 for what was not drawn."""
    fresh = smoothing * rewards + (1 - smoothing) * sums / np.where(weights > 0, weights, 1.0)
    return np.where(sums != 0, fresh, rewards)


def _shares(values: np.ndarray) -> np.ndarray:
    shares: np.ndarray = values / values.sum()
    return shares


def bounded(weights: np.ndarray, least: float, most: float) -> np.ndarray:
    """Shares that sum to one: all scaled by one factor, then clipped to the bounds; bisection finds the factor."""
    count = len(weights)
    least, most, weights = min(least, 1 / count), max(most, 1 / count), _shares(weights) + 1e-9
    low, high = 0.0, most / float(weights.min())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weights, least, most).sum() < 1 else (low, middle)
    return _shares(np.clip(high * weights, least, most))


@torch.inference_mode()
def reference_losses(model: nn.Module, corpus: MixedCorpus, limit: int) -> list[float]:
    """A model's mean NLL on held-out text of each source, on about `limit` tokens in all; NaN where one has none."""
    device = next(model.parameters()).device
    sums, counts = np.zeros(len(corpus.names)), np.zeros(len(corpus.names))
    for batch in corpus.eval_batches("validation", limit):
        nll = model(batch.tokens.to(device), batch.targets.to(device)).double().cpu()
        for source in sorted(set(batch.source.tolist())):
            rows = batch.source == source
            sums[source] += float(nll[rows].sum())
            counts[source] += nll[rows].numel()
    return [float(s / c) if c else math.nan for s, c in zip(sums, counts, strict=True)]
