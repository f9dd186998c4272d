"""Lookahead decoding: the next token is the one with the likeliest continuation, as two heads estimate it.

Greedy decoding takes the likeliest next token whatever comes after it; lookahead seeks a text that is likely as a
whole. The n-step value v(s) of a state s is the mean NLL expected of the next K tokens: for the first n of them that of
the likeliest continuation, imagined by the dynamics head, and for the rest what the value head predicts. A token a
after h scores

    score(a) = log p(a) − K·v(s_a),      K = Σ_k γ^k,

its own log-probability and that of K tokens after it. A search spends a budget of N model calls on each token, a call
being one token that the trunk reads for one row; plain decoding spends one.

1. Of the model's distribution, after all transforms, 2N candidates are drawn without replacement by Gumbel-top-k
   (Kool 2019): those of the largest g(a) + log p(a); at temperature 0 the likeliest.
2. In imagination: s_a is one step of the dynamics from h, which costs no call. The better half of the candidates stays,
   by g + score / temperature.
3. The model reads these N at once, as candidates for one position over one cache. Now s_a is the true state, and the
   dynamics imagine one step more. The best is the token; it has been read, and the next search begins from its state.

The halving and the choice by g + score are those of Gumbel MuZero (Danihelka 2022, algorithm 2) with two rounds, one in
imagination; there the value is learned from rewards and σ is a schedule, here both are nats. An end of text is judged
as any token is, by the text after it: stopping early gains nothing.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.decoding.loop import Sequences, Strategy
from nanogrove.decoding.reading import Context
from nanogrove.decoding.sampling import Sampler
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.model.elementwise import at_least_float32
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads


def horizon(heads: Heads) -> float:
    """The sum of the discounts of the tokens up to the value's horizon: K of the header."""
    return sum(heads.config.value_discount**k for k in range(heads.config.value_horizon))


def n_step_value(model: GPT, heads: Heads, states: Tensor, steps: int) -> Tensor:
    """The mean NLL `[*P, …]`, nats per token, expected after `states [*P, …, C]`; the first `steps` are imagined."""
    assert heads.step is not None
    assert heads.value is not None
    discount, length = heads.config.value_discount, heads.config.value_horizon
    steps = min(steps, length)
    total = torch.zeros((), device=states.device)
    for number in range(steps):
        likeliest, tokens = F.log_softmax(at_least_float32(model.logits(states)), -1).max(-1)
        total = total - discount**number * likeliest
        states = heads.step(states, heads.action_embedding(model.embed(tokens)))
    rest = sum(discount**number for number in range(steps, length))
    expected: Tensor = (total + rest * heads.value(states)) / horizon(heads)
    return expected


def lookahead(model: GPT, heads: Heads | None, budget: int) -> Strategy:
    """Decoding of a single model by search; `budget` is N of the header.

    Raises CheckpointError without value and dynamics heads, and PresetError for a budget below 1.
    """
    if heads is None or heads.value is None or heads.step is None:
        raise CheckpointError(
            "lookahead: this model has no value and dynamics heads; train one with auxiliary.enable_value=true "
            "auxiliary.enable_dynamics=true"
        )
    if budget < 1:
        raise PresetError(f"lookahead: {budget} model calls per token write nothing; give 1 or more")
    return Strategy(steps=partial(_steps, model, heads, budget), modules=(model, heads), tokens_per_call=budget)


def _steps(model: GPT, heads: Heads, budget: int, rows: Sequences, sampler: Sampler) -> Iterator[None]:
    context, temperature = Context(model, rows, budget), sampler.temperature
    while True:
        context.renew()  # the first time too: candidates need a position
        likely = sampler.scores(context.logits(), rows.tokens, rows.lengths).log_softmax(-1)
        if temperature:
            noise = torch.rand(likely.shape, dtype=torch.float64, device=likely.device, generator=sampler.generator)
            likely = likely - noise.log().neg().log().to(likely)
        candidates, perturbed = _best_imagined(model, heads, context.hidden, likely, budget, temperature)
        states = model.hidden(candidates, context.cache, candidates=True)
        index = _scored(model, heads, states, perturbed, heads.config.dynamics_rollouts, temperature).argmax(-1)
        token = candidates.gather(1, index[:, None])[:, 0]
        rows.append(token)
        yield
        context.cache.take(index, token)
        context.hidden = states.gather(1, index.view(-1, 1, 1).expand(-1, 1, states.shape[-1]))


def _best_imagined(
    model: GPT, heads: Heads, hidden: Tensor, likely: Tensor, budget: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """The N tokens `[B, N]` of the best scores in imagination, and their part of `likely [B, V]`.

    Args:
        model: Embeds the candidates, and gives the logits of imagined states.
        heads: Imagine and value the state after each candidate.
        hidden: The states `[B, 1, C]` that the tokens follow.
        likely: Log-probabilities `[B, V]`, with noise where tokens are drawn.
        budget: N.
        temperature: That of the draw; 0 for the likeliest.
    """
    assert heads.step is not None
    vocabulary = likely.shape[-1]
    likely, candidates = likely.topk(min(2 * budget, vocabulary), -1)
    states = heads.step(hidden, heads.action_embedding(model.embed(candidates)))
    scores = _scored(model, heads, states, likely, heads.config.dynamics_rollouts - 1, temperature)
    best = scores.topk(min(budget, vocabulary), -1).indices
    return candidates.gather(1, best), likely.gather(1, best)


def _scored(model: GPT, heads: Heads, states: Tensor, likely: Tensor, steps: int, temperature: float) -> Tensor:
    """The scores `[B, N]` of the header, over the temperature.

    Args:
        model: Gives the logits of imagined states.
        heads: Imagine and value what follows.
        states: The states `[B, N, C]` after the candidates.
        likely: Log-probabilities `[B, N]` of the candidates, with noise where tokens are drawn.
        steps: Steps to imagine after `states`.
        temperature: That of the draw; 0 for the likeliest.
    """
    return likely - horizon(heads) * n_step_value(model, heads, states, steps) / (temperature or 1.0)
