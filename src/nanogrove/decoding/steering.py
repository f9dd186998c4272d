"""Reward-augmented decoding (Deng & Raffel 2023, arXiv 2310.09520) as a logit transform.

At each step the k most likely tokens stay, β times the reward of `prefix + token` is added to the logit of each, and
all others get −∞. The rewards come from a `Score`: a causal reward model, clamped to [0, 1] as published and with a
cache of its own, or any function of whole sequences, which is taken as it is.

The k candidates are k queries at one position over one cache: the cache is not copied, and the token that was chosen
is not read again. A score that keeps a cache is made for one call of `decode`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nanogrove.decoding.reading import read
from nanogrove.decoding.sampling import Transform
from nanogrove.model.cache import Cache
from nanogrove.model.gpt import GPT

TOP_K = 20  # candidates per step, as published

Score = Callable[[Tensor, Tensor, Tensor], Tensor]  # tokens [R, T], lengths [R], candidates [R, k] -> rewards [R, k]


def reward_augmented(score: Score, beta: float, k: int = TOP_K) -> Transform:
    """The k largest logits plus `beta` times the rewards of the text that ends with each; elsewhere −∞."""

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        kept, candidates = logits.topk(min(k, logits.shape[-1]))
        steered = kept + beta * score(tokens, lengths, candidates).to(kept)
        return torch.full_like(logits, -torch.inf).scatter(-1, candidates, steered)

    return transform


def model_score(model: GPT) -> Score:
    """The number that a scalar model gives each candidate, clamped to [0, 1].

    It reads as plain decoding does: where its context is full, the last half of it is read again.
    """
    cache: Cache | None = None
    previous = torch.empty(0, 0, dtype=torch.int64)
    size = model.config.block_size

    def score(tokens: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        nonlocal cache, previous
        device = model.embed.weight.device
        tokens, lengths, candidates = (t.to(device) for t in (tokens, lengths, candidates))
        if cache is not None:
            chosen = tokens.gather(1, lengths[:, None] - 1)  # −1 in a row that has ended, whose scores nobody reads
            cache.take((previous == chosen).int().argmax(1), chosen[:, 0].clamp(min=0))
        if cache is None or cache.longest >= size:
            limit = size - 1 if cache is None else max(size // 2, 1)
            _, cache = read(model, tokens, lengths, limit, candidates.shape[1])
        previous = candidates
        return model.values(model.hidden(candidates, cache, candidates=True)).clamp(0, 1)

    return score


def sequence_score(reward: Callable[[Sequence[Sequence[int]]], Sequence[float]]) -> Score:
    """The number that a plain function of token ids gives `prefix + token`, R·k sequences per step, with no clamp."""

    def score(tokens: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        prefixes = [[token for token in row if token >= 0] for row in tokens.tolist()]
        pairs = zip(prefixes, candidates.tolist(), strict=True)
        sequences = [[*prefix, token] for prefix, following in pairs for token in following]
        return torch.tensor(list(reward(sequences)), dtype=torch.float32).view(candidates.shape)

    return score
