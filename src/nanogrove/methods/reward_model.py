"""A causal reward model: predicts after each token of a text what reward the text will have (Deng & Raffel 2023).

For a text of n tokens, its end mark included and its prompt not, the loss is 2/(n(n+1)) Σ_t t (r̂_t − r)²
(arXiv 2310.09520): the mean square error, late tokens counting more. Rewards are scaled to [0, 1] by the range of the
training texts, which checkpoints store; r̂ is clamped only where it steers decoding. There are no samples, as such a
model generates nothing.
"""

from collections.abc import Iterator
from typing import Literal, NotRequired

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from nanogrove.data.batch import Batch
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.errors import PresetError
from nanogrove.evaluate.reward import Scale, distribution
from nanogrove.methods.contract import Method, MethodConfig
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Event, Values
from nanogrove.train.loop import fit
from nanogrove.train.objective import Loss, Objective, count_scored
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState
from nanogrove.waits import waiting


class Config(MethodConfig):
    """A reward model has no settings beyond those of every method."""

    name: Literal["reward_model"] = "reward_model"


class Kept(TypedDict):
    """`TrainState.method_state` of a run."""

    scale: NotRequired[Scale]


NEEDS = "learns from texts with rewards; set data.type=rewarded"


def check(config: Config, corpus: RewardedCorpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError for data that have no rewards, or one reward only."""
    if corpus.size != 1:
        raise PresetError(f"method reward_model {NEEDS}")
    low, high = scale(corpus)
    if low == high:
        raise PresetError(
            f"{corpus.config.path}: all training texts have the reward {low:g}; there is nothing to learn"
        )
    if model.block_size < 2:
        raise PresetError("model.block_size=1: a reward model reads a prefix and a token; give it 2 or more")


def scale(corpus: RewardedCorpus) -> tuple[float, float]:
    """The least and the greatest reward of the training texts: what becomes 0 and 1."""
    rewards = corpus.rewards[corpus.row_indices("train")]
    return float(rewards.min()), float(rewards.max())


def scaled(corpus: RewardedCorpus) -> Tensor:
    """The rewards of all rows on that scale, `[N]` float32; held-out ones may lie outside [0, 1]."""
    low, high = scale(corpus)
    return torch.from_numpy((corpus.rewards - low) / (high - low)).float()


def batch(corpus: RewardedCorpus, rows: np.ndarray, size: int) -> Batch:
    """Whole texts `[B, W]`, cut to `size` tokens, with their end marks; `extra["row"] [B]` is the row of each.

    The weight of a text's t-th token of n is 2t/(n(n+1)), times the scored tokens per text; the sum over a batch
    divided by its number of scored tokens is the mean over texts, whatever the micro-batches.
    """
    chosen = torch.from_numpy(rows)
    tokens = corpus.tokens[chosen][:, :size].contiguous()
    position = torch.arange(tokens.shape[1])
    counted = (position >= corpus.start[chosen, None]) & (position < corpus.stop[chosen, None])
    n = counted.sum(1, keepdim=True).clamp(min=1)
    weight = counted.cumsum(1) * counted * 2 / (n * (n + 1))
    weight = weight * (counted.sum() / len(rows))
    return Batch(tokens, tokens, counted, weight, torch.zeros_like(chosen), {"row": chosen})


def objective(rewards: Tensor) -> Objective:
    """The weighted square error of a scalar model; `rewards [N]` are those of the rows in `extra["row"]`."""

    def weighted_square_error(model: nn.Module, batch: Batch) -> Loss:
        error = model(batch.tokens) - rewards[batch.extra["row"], None]
        return Loss((batch.mask * batch.weight * error.square()).sum((-2, -1)) / count_scored(batch), {})

    return weighted_square_error


def run(state: TrainState, corpus: RewardedCorpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `rewards` once, a `step` event per step, and `eval` before those that `plan.evaluates` names."""
    size, device = state.model.config.block_size, state.model.embed.weight.device
    state.method_state["scale"] = list(scale(corpus))
    if state.step == 0:
        low, high = scale(corpus)
        figures = distribution(corpus.rewards[corpus.row_indices("train")])
        yield Event("rewards", 0, {**figures, "low": low, "high": high})
    learned = objective(scaled(corpus).to(device))
    for event in fit(state, lambda step: batch(corpus, corpus.batch_rows(step), size), learned, plan):
        if plan.evaluates(event.step) and plan.ranks.first:
            values = score(state.scored, corpus, "validation", plan.evaluate_tokens)
            yield state.eval_event(values)
        yield event


@torch.inference_mode()
def score(model: GPT, corpus: RewardedCorpus, split: str, limit: int | None = None) -> Values:
    """The loss on a split, or on about `limit` tokens of it, and the correlation of final predictions with rewards.

    The loss is in units of the scale squared. The correlation is None for fewer than two texts, or equal numbers.
    """
    rows, device = corpus.spread_rows(split, limit), model.embed.weight.device
    true, losses, last, tokens = scaled(corpus), [], [], 0
    with evaluating(model), waiting(f"scoring {split}", len(rows)) as wait:
        for first in range(0, len(rows), corpus.batch_size):
            part = batch(corpus, rows[first : first + corpus.batch_size], model.config.block_size)
            predicted = model(part.tokens.to(device)).double().cpu()
            error = (part.weight * (predicted - true[part.extra["row"], None]).square()).sum(1)
            losses.append(error * (len(error) / count_scored(part)))
            final = (corpus.stop[part.extra["row"]] - 1).clamp(max=predicted.shape[1] - 1)
            last.append(predicted.gather(1, final[:, None])[:, 0])
            tokens += int(count_scored(part))
            wait.done += len(error)
    pair = np.stack([torch.cat(last).numpy(), true[torch.from_numpy(rows)].double().numpy()])
    known = len(rows) > 1 and bool((pair.std(1) > 0).all())
    return {
        "split": split,
        "loss": float(torch.cat(losses).mean()),
        "correlation": float(np.corrcoef(pair)[0, 1]) if known else None,
        "tokens": tokens,
        "texts": len(rows),
    }


METHOD = Method[Config, RewardedCorpus](
    Config=Config,
    run=run,
    output="scalar",
    corpora=(RewardedCorpus,),
    needs=NEEDS,
    check=check,
    Kept=Kept,
    evaluate=lambda trained, corpus, split, limit: score(trained.model, corpus, split, limit),
    final_split="test",
    ranks_share="batch",
)
