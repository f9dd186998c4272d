"""Exact regret of a policy where all of its texts can be enumerated, against the optimum of KL-regularised rewards.

The texts of at most T tokens over v symbols are those of T tokens, and the shorter ones that an end mark ends:
N = 1 + v + … + v^T in all. Of a model μ, the reference, and a reward r, in units of which β is given,

    J(π) = E_π[r] − β KL(π ‖ μ)        what a policy is worth
    π*   ∝ μ exp(r/β)                  the policy of the greatest J
    J*   = β log Σ_x μ(x) exp(r(x)/β)
    J* − J(π) = β KL(π ‖ π*)           its regret, so KL(π ‖ π*) is the regret in nats

(Levine 2018, arXiv 1805.00909; Korbak et al. 2022, arXiv 2205.11275.) Sums are over all texts, in float64; only the
logits of a model are float32. A text of probability 0 has the log-probability −∞ and adds nothing to any sum.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanogrove.decoding.sampling import Transform
from nanogrove.errors import StudyError
from nanogrove.evaluate.reward import Reward
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating

MAX_TEXTS = 1 << 20  # that are enumerated at most
ROWS_AT_ONCE = 4096  # prefixes that a model reads at one time


def text_count(v: int, length: int) -> int:
    """N, how many texts of at most `length` of v symbols there are."""
    return sum(v**n for n in range(length + 1))


def texts(v: int, length: int) -> Iterator[tuple[int, ...]]:
    """All texts of at most `length` of the symbols 0 … v − 1, shorter ones first, in the order of their numbers.

    Raises StudyError where there are more than MAX_TEXTS.
    """
    if text_count(v, length) > MAX_TEXTS:
        raise StudyError(f"{v}^{length} texts are too many to enumerate, {MAX_TEXTS:,} at most; take fewer symbols")
    return itertools.chain.from_iterable(itertools.product(range(v), repeat=n) for n in range(length + 1))


@torch.inference_mode()
def text_log_probs(model: GPT, v: int, length: int, transforms: Sequence[Transform] = ()) -> Tensor:
    """The log-probability of each of `texts(v, length)`, float64 `[N]`; they sum to one.

    Args:
        model: a single model of v + 1 tokens, of which the last is the end mark, which begins and may end a text.
        v: symbols.
        length: T, the tokens after which a text is cut.
        transforms: what changes the logits when a text is decoded, such as steering.
    """
    device = model.embed.weight.device
    prefixes = torch.full((1, 1), v, device=device)
    reached, ended = torch.zeros(1, dtype=torch.float64), []
    with evaluating(model):
        for _ in range(length):
            step = torch.cat([_next(model, rows, transforms) for rows in torch.split(prefixes, ROWS_AT_ONCE)])
            ended.append(reached + step[:, v])
            reached = (reached[:, None] + step[:, :v]).flatten()
            symbols = torch.arange(v, device=device).repeat(len(prefixes))[:, None]
            prefixes = torch.cat([prefixes.repeat_interleave(v, 0), symbols], 1)
    return torch.cat([*ended, reached])


def _next(model: GPT, rows: Tensor, transforms: Sequence[Transform]) -> Tensor:
    """The log-probabilities `[R, v + 1]` of the token after each of `rows [R, t]`, float64 on the CPU."""
    scores = model.logits(model.hidden(rows)[:, -1]).float()
    lengths = torch.full((len(rows),), rows.shape[1], device=rows.device)
    for transform in transforms:
        scores = transform(scores, rows, lengths)
    return scores.double().log_softmax(-1).cpu()


def text_rewards(reward: Reward, v: int, length: int) -> Tensor:
    """The reward of each of `texts(v, length)`, written as numbers between spaces, float64 `[N]`."""
    return torch.tensor(reward([" ".join(map(str, text)) for text in texts(v, length)]), dtype=torch.float64)


class Optimum(NamedTuple):
    """The policy of the greatest J: `value` J*, in units of the reward, and its `log_probs [N]`."""

    value: float
    log_probs: Tensor


def optimum(reference: Tensor, rewards: Tensor, beta: float) -> Optimum:
    """π* and J* for the log-probabilities `reference [N]` of μ, `rewards [N]` and β > 0."""
    weighed = reference + rewards / beta
    total = weighed.logsumexp(0)
    return Optimum(beta * float(total), weighed - total)


def expected(policy: Tensor, values: Tensor) -> float:
    """The mean of `values [N]` under a policy of log-probabilities `[N]`; a text of probability 0 adds nothing."""
    return float((policy.exp() * values).masked_fill(policy == -torch.inf, 0.0).sum())


def divergence(policy: Tensor, other: Tensor) -> float:
    """KL(policy ‖ other) of log-probabilities `[N]`, nats; infinite where the other lacks a text of the policy."""
    return max(expected(policy, policy - other), 0.0)


def worth(policy: Tensor, reference: Tensor, rewards: Tensor, beta: float) -> float:
    """J of a policy, in units of the reward."""
    return expected(policy, rewards) - beta * divergence(policy, reference)


def best_of(reference: Tensor, rewards: Tensor, n: int) -> Tensor:
    """The log-probabilities `[N]` of the best of n independent texts of μ; of texts of equal rewards the first one.

    With F(r) the probability of a reward of at most r and F(r−) that of a lesser one, the best has reward r with
    probability F(r)ⁿ − F(r−)ⁿ, and given r it is distributed as μ is: which of several equal ones came first says
    nothing about them.
    """
    levels, numbers = np.unique(rewards.numpy(), return_inverse=True)
    level = torch.from_numpy(numbers)
    mass = torch.zeros(len(levels), dtype=torch.float64).index_add(0, level, reference.exp())
    up_to = mass.cumsum(0) / mass.sum()
    wins = (up_to**n).diff(prepend=torch.zeros(1, dtype=up_to.dtype))
    return reference + (wins.log() - (mass / mass.sum()).log())[level]


def imitated(reference: Tensor, weights: Tensor) -> Tensor:
    """The log-probabilities `[N]` of the policy ∝ μ·w, the optimum of imitating texts of μ with weights `[N]` ≥ 0."""
    weighed = reference + weights.log()
    return weighed - weighed.logsumexp(0)
