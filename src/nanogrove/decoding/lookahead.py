"""Lookahead decoding: the next token is the one whose continuation promises most, as far as two heads can tell.

The text sought is likely as a whole, and greedy decoding takes the likeliest next token whatever comes behind it. From
a state s the outlook is the mean NLL expected of the next K tokens: those of the likeliest continuation for a few
steps, imagined by the dynamics head, and what the value head says of the rest. A token a behind h scores

    score(a) = log p(a) − K·outlook(s_a),      K = Σ_k γ^k,

its own log-probability and that of K tokens behind it. A search spends a budget of N model calls on each token, a call
being one token that the trunk reads for one row; plain decoding spends one.

1. Of the model's distribution, behind all transforms, 2N candidates are drawn without replacement by Gumbel-top-k
   (Kool 2019): those of the largest g(a) + log p(a); at temperature 0 the likeliest.
2. In imagination: s_a is one step of the dynamics from h, which costs no call. The better half of the candidates stays,
   by g + score / temperature.
3. The model reads these N at once, as rivals for one place over one cache. Now s_a is the true state, and the dynamics
   imagine one step more. The best is the token; it has been read, and the next search begins from its state.

The halving and the choice by g + score are those of Gumbel MuZero (Danihelka 2022, algorithm 2) with two rounds, one in
imagination; there the value is learned from rewards and σ is a schedule, here both are nats. An end of text is judged
as any token is, by the text behind it: stopping early gains nothing.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.decoding.loop import Transform, read
from nanogrove.model.elementwise import at_least_float32
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.model.layers import packed_weights
from nanogrove.model.mode import evaluating


def horizon(heads: Heads) -> float:
    """What the value's horizon of tokens counts for, discounted: K of the header."""
    return sum(heads.config.value_discount**k for k in range(heads.config.value_horizon))


def outlook(model: GPT, heads: Heads, states: Tensor, steps: int) -> Tensor:
    """The mean NLL `[*P, …]`, nats a token, expected behind `states [*P, …, C]`, the first `steps` of it imagined."""
    assert heads.step is not None
    assert heads.value is not None
    discount, length = heads.config.value_discount, heads.config.value_horizon
    steps = min(steps, length)
    total = torch.zeros((), device=states.device)
    for number in range(steps):
        likeliest, tokens = F.log_softmax(at_least_float32(model.logits(states)), -1).max(-1)
        total = total - discount**number * likeliest
        states = heads.step(states, heads.seen(model.embed(tokens)))
    rest = sum(discount**number for number in range(steps, length))
    found: Tensor = (total + rest * heads.value(states)) / horizon(heads)
    return found


@torch.inference_mode()
def look_ahead(
    model: GPT,
    heads: Heads,
    tokens: Tensor,
    lengths: Tensor | None = None,
    *,
    budget: int,
    new_tokens: int,
    transforms: Sequence[Transform] = (),
    temperature: float = 0.0,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Continues `tokens [B, T]`, padded on the right to true `lengths [B]`, of a single model, by search.

    `budget` is N of the header, `temperature` what the transforms divide by, 0 for the best of all. Returns the new
    tokens `[B, new_tokens]` as `generate` does.
    """
    rows = tokens.shape[0] * budget
    with evaluating(model, heads), packed_weights(model, rows, dtype), packed_weights(heads, rows, dtype):
        return _continue(model, heads, tokens, lengths, budget, new_tokens, transforms, temperature, stop, generator)


def _continue(
    model: GPT,
    heads: Heads,
    tokens: Tensor,
    lengths: Tensor | None,
    budget: int,
    new_tokens: int,
    transforms: Sequence[Transform],
    temperature: float,
    stop: Sequence[int],
    generator: torch.Generator | None,
) -> Tensor:
    size, (batch, width) = model.config.block_size, tokens.shape
    start = torch.full((batch,), width, device=tokens.device) if lengths is None else lengths
    length = start
    history = F.pad(tokens, (0, new_tokens), value=-1)
    places = torch.arange(history.shape[1], device=tokens.device)
    history = history.masked_fill(places >= length[:, None], -1)
    stops = torch.tensor(list(stop), device=tokens.device, dtype=torch.int64)
    done = torch.zeros_like(length, dtype=torch.bool)
    hidden, cache = read(model, history, length, batch, size, budget)
    for _ in range(new_tokens):
        if cache.longest >= size:
            hidden, cache = read(model, history, length, batch, max(size // 2, 1), budget)
        scores = model.logits(hidden)[:, 0].float()
        for transform in transforms:
            scores = transform(scores, history, length)
        own = scores.log_softmax(-1)
        if temperature:
            noise = torch.rand(own.shape, dtype=torch.float64, device=own.device, generator=generator)
            own = own - noise.log().neg().log().to(own)
        rivals, perturbed = _imagined(model, heads, hidden, own, budget, temperature)
        states = model.hidden(rivals, cache, rivals=True)
        index = _judged(model, heads, states, perturbed, heads.config.dynamics_rollouts, temperature).argmax(-1)
        chosen = rivals.gather(1, index[:, None])
        history.scatter_(1, length[:, None], chosen.masked_fill(done[:, None], -1))
        length = length + 1
        done = done | torch.isin(chosen[:, 0], stops)
        if bool(done.all()):
            break
        cache.take(index, chosen[:, 0])
        hidden = states.gather(1, index.view(-1, 1, 1).expand(-1, 1, states.shape[-1]))
    return history.gather(1, start[:, None] + torch.arange(new_tokens, device=tokens.device))


def _imagined(
    model: GPT, heads: Heads, hidden: Tensor, own: Tensor, budget: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Tokens `[B, N]` of the best scores in imagination, and their `own [B, V]`, behind states `hidden [B, 1, C]`."""
    assert heads.step is not None
    vocabulary = own.shape[-1]
    likely, candidates = own.topk(min(2 * budget, vocabulary), -1)
    states = heads.step(hidden, heads.seen(model.embed(candidates)))
    scores = _judged(model, heads, states, likely, heads.config.dynamics_rollouts - 1, temperature)
    best = scores.topk(min(budget, vocabulary), -1).indices
    return candidates.gather(1, best), likely.gather(1, best)


def _judged(model: GPT, heads: Heads, states: Tensor, own: Tensor, steps: int, temperature: float) -> Tensor:
    """`own [B, N]`, log-probabilities with their noise, plus what the outlook behind `states [B, N, C]` is worth."""
    return own - horizon(heads) * outlook(model, heads, states, steps) / (temperature or 1.0)
