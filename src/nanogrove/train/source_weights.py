"""Losses by source, and weights of sources that follow from them.

The loss of a source is that of its own tokens (`Batch.source`), summed over the steps of an interval. Behind each
interval of tokens a strategy proposes weights π, which are mixed with those before and kept within bounds:

    loss               π ∝ loss: what is hard is shown more, noise too
    learning_progress  π ∝ what the loss fell by since the interval before, where it fell
    excess_loss        π ∝ π·exp(η·excess), excess = max(loss − loss of a reference model, 0)      (DoReMi)
    odm                R̂ += loss/π, ε = min(1/K, √(ln K / (K t))), π = (1 − Kε) softmax(ε R̂) + ε

DoReMi: Xie et al. 2023, arXiv 2305.10429, where excess is taken token by token; here a reference's loss is that on held
out text of the source. ODM: Albalak et al. 2023, arXiv 2312.02406; there t counts steps, here intervals. Nobody has
shown a strategy that beats fixed weights throughout (Aioli, arXiv 2411.05735).

All that is known of the past is in the state's notes, so a resumed run draws the same batches.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import TextCorpus
from nanogrove.data.mixture import Phase, Weighted
from nanogrove.record.events import Event
from nanogrove.train.objective import Loss, scored, weighted
from nanogrove.train.state import TrainState

ETA = 1.0  # step size of excess_loss, as published

Strategy = Literal["loss", "learning_progress", "excess_loss", "odm"]


class AdaptiveConfig(BaseModel):
    """How weights of sources adapt; they begin equal, or as `data.source_weights` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: Strategy = "loss"
    interval: int = Field(5_000_000, ge=1, description="tokens between two updates")
    least: float = Field(0.05, ge=0, lt=1, description="share of a source, at least")
    most: float = Field(1.0, gt=0, le=1, description="share of a source, at most")
    smoothing: float = Field(0.5, ge=0, lt=1, description="share of the weights before in the new ones")
    reference: str | None = Field(None, description="excess_loss: a run whose model is compared with")

    @model_validator(mode="after")
    def _check(self) -> "AdaptiveConfig":
        if self.least > self.most:
            raise ValueError(f"least {self.least:g} is above most {self.most:g}")
        if (self.reference is not None) != (self.strategy == "excess_loss"):
            raise ValueError("strategy excess_loss and a reference belong together; give both or none")
        return self


def by_source(nll: Tensor, batch: Batch, sources: int) -> Loss:
    """`weighted`, with each source's part of the loss and of the scored tokens among the parts."""
    told, counted = nll.detach(), batch.mask.float()
    parts = {}
    for source in range(sources):
        mine = (batch.source == source)[..., None] * counted
        parts[f"nll {source}"] = (mine * told).sum((-2, -1)) / scored(batch)
        parts[f"share {source}"] = mine.sum((-2, -1)) / scored(batch)
    return Loss(weighted(nll, batch).total, parts)


class Mixing:
    """The losses of a corpus's sources as training goes on and, where `config` asks for it, weights that adapt."""

    def __init__(
        self, state: TrainState, corpus: TextCorpus, config: AdaptiveConfig | None, reference: list[float] | None
    ) -> None:
        self.state, self.corpus, self.config = state, corpus, config
        count = len(corpus.names)
        zeros = [0.0] * count
        self.told: dict[str, Any] = state.notes.setdefault(
            "sources",
            {"phases": [list(phase) for phase in corpus.weighted.phases], "nll": zeros, "share": zeros, "begun": 0}
            | {"before": None, "returns": zeros, "updates": 0, "given": zeros, "reference": reference},
        )
        self._mix()

    def _mix(self) -> None:
        phases = [Phase(start, tuple(weights)) for start, weights in self.told["phases"]]
        self.mixture = Weighted(phases, self.corpus.seed)

    def batches(self, step: int) -> Batch:
        """Batch number `step` under the weights as they are."""
        return self.corpus.batches(step) if self.config is None else self.corpus.mixed(step, self.mixture)

    def observe(self, event: Event) -> None:
        """Takes the losses by source out of a `step` event."""
        for name in ("nll", "share"):
            parts = [event.values.pop(f"{name} {source}") for source in range(len(self.corpus.names))]
            self.told[name] = [a + b for a, b in zip(self.told[name], parts, strict=True)]

    @property
    def due(self) -> bool:
        """Whether an interval is over."""
        return self.config is not None and self.state.tokens - self.told["begun"] >= self.config.interval

    def update(self) -> Event:
        """Ends an interval: its losses by source as an event, and the weights of the next one."""
        told, total = self.told, sum(self.told["share"])
        losses = [n / s if s else None for n, s in zip(told["nll"], told["share"], strict=True)]
        weights = np.array(told["phases"][-1][1], dtype=float)
        values: dict[str, Any] = {
            "names": self.corpus.names,
            "loss": losses,
            "share": [share / total if total else 0.0 for share in told["share"]],
            "passes": self._passes(),
            "seen": self.state.tokens,
        }
        if self.config is not None:
            told["updates"] += 1
            new = self._proposed(weights / weights.sum(), losses, self.config)
            told["phases"].append([self.state.step * self.corpus.batch_size, new.tolist()])
            self._mix()
            values["weights"] = new.tolist()
        told |= {"nll": [0.0] * len(losses), "share": [0.0] * len(losses), "begun": self.state.tokens}
        told["before"] = [
            old if new is None else new for old, new in zip(told["before"] or losses, losses, strict=True)
        ]
        return Event("sources", self.state.step, values)

    def _passes(self) -> list[float | None]:
        """How often each source has been seen so far; None of one that streams, whose size nobody knows."""
        step = self.corpus.batch_size * self.corpus.length
        self.told["given"] = [a + b * step for a, b in zip(self.told["given"], self.told["share"], strict=True)]
        known = [
            None if source.index["streamed"] else source.index["splits"]["train"]["tokens"]
            for source in self.corpus.sources
        ]
        return [size and given / size for given, size in zip(self.told["given"], known, strict=True)]

    def _proposed(self, weights: np.ndarray, losses: list[float | None], config: AdaptiveConfig) -> np.ndarray:
        """The weights of the next interval, smoothed and within bounds."""
        told = self.told
        before = told["before"] or losses
        known = np.array([math.nan if loss is None else loss for loss in losses])
        target = propose(config.strategy, weights, known, np.array(before, dtype=float), told["reference"], told)
        mixed = config.smoothing * weights + (1 - config.smoothing) * target
        return bounded(mixed, config.least, config.most)


def propose(
    strategy: Strategy,
    weights: np.ndarray,
    loss: np.ndarray,
    before: np.ndarray,
    reference: list[float] | None,
    told: dict[str, Any],
) -> np.ndarray:
    """Weights `[K]` after the header's equations; `loss` and `before` are NaN where a source was not seen.

    `told` holds the returns of odm, which are updated, and the number of updates so far.
    """
    seen = np.isfinite(loss)
    if strategy == "loss":
        return _shares(np.where(seen, loss, np.nanmean(loss)))
    if strategy == "learning_progress":
        fell = np.where(seen & np.isfinite(before), np.maximum(before - loss, 0.0), 0.0)
        return _shares(fell) if fell.any() else weights
    if strategy == "excess_loss":
        excess = np.where(seen, np.maximum(loss - np.array(reference), 0.0), 0.0)
        return _shares(weights * np.exp(ETA * excess))
    returns = np.array(told["returns"]) + np.where(seen, loss / np.maximum(weights, 1e-12), 0.0)
    told["returns"] = returns.tolist()
    count, t = len(weights), told["updates"]
    epsilon = min(1 / count, math.sqrt(math.log(count) / (count * t)))
    powers = np.exp(epsilon * (returns - returns.max()))
    return (1 - count * epsilon) * _shares(powers) + epsilon


def _shares(values: np.ndarray) -> np.ndarray:
    shares: np.ndarray = values / values.sum()
    return shares


def bounded(weights: np.ndarray, least: float, most: float) -> np.ndarray:
    """Shares that sum to one: all scaled by one factor, then cut to the bounds; the factor is found by bisection."""
    count = len(weights)
    least, most, weights = min(least, 1 / count), max(most, 1 / count), _shares(weights) + 1e-9
    low, high = 0.0, most / float(weights.min())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weights, least, most).sum() < 1 else (low, middle)
    return _shares(np.clip(high * weights, least, most))


@torch.inference_mode()
def reference_losses(model: nn.Module, corpus: TextCorpus, limit: int) -> list[float]:
    """A model's mean NLL on held-out text of each source, on about `limit` tokens in all; NaN where one has none."""
    device = next(model.parameters()).device
    sums, counts = np.zeros(len(corpus.names)), np.zeros(len(corpus.names))
    for batch in corpus.windows("validation", limit):
        nll = model(batch.tokens.to(device), batch.targets.to(device)).double().cpu()
        for source in sorted(set(batch.source.tolist())):
            mine = batch.source == source
            sums[source] += float(nll[mine].sum())
            counts[source] += nll[mine].numel()
    return [float(s / c) if c else math.nan for s, c in zip(sums, counts, strict=True)]
