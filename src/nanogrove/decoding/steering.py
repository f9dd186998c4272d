"""Reward-augmented decoding (Deng & Raffel 2023, arXiv 2310.09520) as a logit transform.

At each step the k most likely tokens stay, β times what a reward says of `prefix + token` is added to the logit of
each, and all others get −∞. What says it is a `Score`: a causal reward model, which is clamped to [0, 1] as published
and has a cache of its own, or any function of whole sequences, which is taken as it is.

The k candidates are k queries at one position over one cache: the cache is not copied, and the token that was chosen
is not read again. A score that keeps a cache is made for one call of `generate`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nanogrove.decoding.loop import Transform, read
from nanogrove.model.gpt import GPT
from nanogrove.model.layers import Cache

TOP_K = 20  # candidates a step, as published

Score = Callable[[Tensor, Tensor, Tensor], Tensor]  # tokens [R, T], lengths [R], candidates [R, k] -> rewards [R, k]


def reward_augmented(score: Score, beta: float, k: int = TOP_K) -> Transform:
    """The k largest logits plus `beta` times the rewards of their tokens behind what was written; elsewhere −∞."""

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        kept, candidates = logits.topk(min(k, logits.shape[-1]))
        steered = kept + beta * score(tokens, lengths, candidates).to(kept)
        return torch.full_like(logits, -torch.inf).scatter(-1, candidates, steered)

    return transform


def model_score(model: GPT) -> Score:
    """What a scalar model says of each candidate, clamped to [0, 1].

    It reads as `generate` does: where its context is full, the last half of it is read again.
    """
    cache: Cache | None = None
    rivals = torch.empty(0, 0, dtype=torch.int64)
    size = model.config.block_size

    def score(tokens: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        nonlocal cache, rivals
        rows, device = len(candidates), model.embed.weight.device
        tokens, lengths, candidates = (t.to(device) for t in (tokens, lengths, candidates))
        if cache is not None:
            chosen = tokens.gather(1, lengths[:, None] - 1)  # −1 in a row that has ended, of which nothing is asked
            cache.take((rivals == chosen).int().argmax(1), chosen[:, 0].clamp(min=0))
        if cache is None or cache.longest >= size:
            limit = size - 1 if cache is None else max(size // 2, 1)
            _, cache = read(model, tokens, lengths, rows, limit, candidates.shape[1])
        rivals = candidates
        return model.values(model.hidden(candidates, cache, rivals=True)).clamp(0, 1)

    return score


def sequence_score(reward: Callable[[Sequence[Sequence[int]]], Sequence[float]]) -> Score:
    """What a plain function of token ids says of `prefix + token`, R·k sequences a step, with no clamp."""

    def score(tokens: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        written = [[token for token in row if token >= 0] for row in tokens.tolist()]
        whole = [[*row, token] for row, some in zip(written, candidates.tolist(), strict=True) for token in some]
        return torch.tensor(list(reward(whole)), dtype=torch.float32).view(candidates.shape)

    return score
