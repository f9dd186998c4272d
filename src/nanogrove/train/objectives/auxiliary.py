"""Auxiliary losses: what the heads of `nanogrove.model.heads` learn beside the next token, and how it is added up.

h_t has seen the tokens up to t, nll_t is that of the token t + 1 from it, x̂ means imagined, sg no gradient:

    value            (v(h_t) − sg Σ_k γ^k nll_{t+k} / Σ_k γ^k)², k = 0 … K − 1
    value_imagined   the same of v(ĥ_{t+k}); only beside a policy, which asks for values of imagined states
    dynamics_latent  −cos(predict(project ĥ_{t+k}), sg project h_{t+k}), ĥ_{t+k} = g(ĥ_{t+k−1}, x_{t+k})
    dynamics_token   NLL of the token t + k + 1 from ĥ_{t+k} through the shared output map
    span             InfoNCE over the batch: the state before a span finds the mean state of its own row's, chance ln B
    memory           NLL of a segment's tokens, from the memory written behind it alone
    multi_token      NLL of the tokens t + 2 … t + n from states that further maps make of h_t
    policy           KL(target ‖ policy), target ∝ p(a)·exp(β·(v̄ − v(g(h_t, a)))) for the likeliest tokens a, p(a) for
                     the others, v̄ the mean under p of those tried

The policy's target is one step of policy improvement with a penalty on the KL (Grill 2020), where what was not tried
counts as average (completed values, Danihelka 2022): the model's distribution, tilted towards tokens behind which, in
imagination, text is easier to predict. With `policy_target` search, v is not the value of the imagined state but the
n-step value of `decoding/lookahead.py`, which follows the likeliest text as far as the dynamics are trained to. The
target is sg throughout. Without value and dynamics there is none, and a policy is refused. It learns at every k-th of
the T positions of a window, k being `policy_every`, and its loss is multiplied by T over their number: which positions,
and the factor, depend on the step and the window's length alone.

A part at t counts where all predictions it spans are scored and, with `within_documents`, made in one document; no
part reaches beyond the window. Sums are divided by the scored tokens of the batch, as the main loss is, so that
accumulation changes nothing, except for spans: their negatives are the other rows of a micro-batch, and their mean is
over its spans, so more micro-batches make the contrast easier. Each row has one span and equal spans are not negatives;
two windows of one document may be, as a batch does not say.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanogrove.data.batch import Batch
from nanogrove.data.rng import random
from nanogrove.decoding.lookahead import n_step_value
from nanogrove.model.elementwise import at_least_float32
from nanogrove.model.gpt import GPT, MAX_LOGITS_PER_CHUNK
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.train.objective import Loss, Objective, scored, weighted
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

WEIGHTS = {  # of each part, in the configuration
    "value": "value_weight",
    "value_imagined": "value_weight",
    "dynamics_latent": "dynamics_weight",
    "dynamics_token": "dynamics_weight",
    "span": "span_contrastive_weight",
    "multi_token": "multi_token_weight",
    "policy": "policy_kl_weight",
    "memory": "memory_weight",
}


def weight_of(config: AuxiliaryConfig, part: str) -> float:
    """What a part is multiplied by."""
    return float(getattr(config, WEIGHTS[part]))


def objective_of(state: TrainState, plan: Plan, main: Callable[[Tensor, Batch], Loss] = weighted) -> Objective:
    """The objective `main`, a function of the NLL `[*P, B, T]`, plus the weighted parts of the state's heads, if any.

    All parts are recorded without their weights, `main` among them as `next_token`. Spans are a function of
    (seed, step).
    """
    gpt, heads = state.model, state.heads
    if heads is None:
        return lambda model, batch: main(model(batch.tokens, batch.targets), batch)
    read = partial(states_and_memories, gpt, heads)
    if plan.compile:
        read = torch.compile(read)  # type: ignore[assignment]

    def objective(_: nn.Module, batch: Batch) -> Loss:
        hidden, memories = read(batch.tokens)
        nll = gpt.nll(hidden, batch.targets)
        loss = main(nll, batch)
        start = span_start(heads.config, batch.tokens.shape[-1], plan.seed, "span", state.step)
        found = head_losses(heads, gpt, hidden, nll, batch, start, memories)
        total = loss.total
        for name, part in found.items():
            total = total + weight_of(heads.config, name) * part
        return Loss(total, {**loss.parts, "next_token": loss.total, **found})

    return objective


def states_and_memories(model: GPT, heads: Heads, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """The states `[*P, B, T, C]` and, where a head recalls them, the memories `[*P, B, n, m, C]` behind segments."""
    return (model.hidden(tokens), None) if heads.recall is None else model.remember(tokens)


def recalled(heads: Heads, memories: Tensor, batch: Batch, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """States `[*P, B, N, C]` for tokens `[*P, B, N]` of the segments behind which there is a memory, and which count.

    At every so-manieth place of a segment, from `start` on; a token counts if it was scored when it was predicted.
    """
    assert heads.recall is not None
    length, every = heads.recall.place.weight.shape[-2], heads.config.memory_every
    places = torch.arange(start % min(every, length), length, every, device=memories.device)
    told = F.pad(batch.mask, (1, 0))[..., :-1]
    axes, count = batch.tokens.shape[:-1], memories.shape[-3]

    def at_places(x: Tensor) -> Tensor:
        return x[..., : count * length].reshape(*axes, count, length)[..., places].flatten(-2)

    return heads.recall(memories, places).flatten(-3, -2), at_places(batch.tokens), at_places(told)


def span_start(config: AuxiliaryConfig, tokens: int, seed: int, purpose: str, step: int) -> int:
    """Where the span of all rows begins in step `step`: behind at least one token, and ending inside the window."""
    return int(random(seed, purpose, step).integers(1, max(tokens - config.span_length(tokens), 1) + 1))


def stretches(batch: Batch, mark: int | None, length: int) -> Tensor:
    """Where the `length` predictions from t on are all scored and made in one document: `[*P, B, T − length + 1]`."""
    places = batch.tokens.shape[-1] - length + 1
    counted = F.pad(batch.mask.cumsum(-1), (1, 0))
    whole = counted[..., length:] - counted[..., :places] == length
    if mark is None:
        return whole
    document = (batch.tokens == mark).cumsum(-1)
    return whole & (document[..., length - 1 :] == document[..., :places])


def value_targets(nll: Tensor, config: AuxiliaryConfig) -> Tensor:
    """The discounted mean of the NLL `[*P, B, T]` over the horizon from t on: `[*P, B, T − K + 1]`, no gradient."""
    discounts = config.value_discount ** torch.arange(config.value_horizon, device=nll.device, dtype=nll.dtype)
    ahead = nll.detach().unfold(-1, config.value_horizon, 1)
    return (ahead * discounts).sum(-1) / discounts.sum()


def span_losses(heads: Heads, hidden: Tensor, batch: Batch, mark: int | None, start: int) -> tuple[Tensor, Tensor]:
    """InfoNCE scores `[*P, B, B]`, −inf for what is no negative, and which rows have a span, `[*P, B]`."""
    length = heads.config.span_length(batch.tokens.shape[-1])
    there = stretches(batch, mark, length + 1)[..., start - 1]
    spans = batch.tokens[..., start : start + length]
    equal = (spans[..., :, None, :] == spans[..., None, :, :]).all(-1)
    own = torch.eye(spans.shape[-2], dtype=torch.bool, device=spans.device)
    scores = heads.span_scores(hidden, start, length)
    return scores.masked_fill((equal | ~there[..., None, :]) & ~own, -torch.inf), there


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of the last axis of two tensors, in at least float32."""
    return F.cosine_similarity(at_least_float32(a), at_least_float32(b), dim=-1)


def policy_positions(config: AuxiliaryConfig, tokens: int, start: int) -> slice:
    """Where of `tokens` positions the policy learns in a step whose spans begin at `start`: at one of them at least."""
    return slice(start % min(config.policy_every, tokens), None, config.policy_every)


def in_pieces(model: GPT, states: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """`compute` of states `[*P, B, N, C]`, which gives `[*P, R, …]` for `[*P, R, C]`: `[*P, B, N, …]`.

    Where the logits of all states would be large they are computed a piece at a time, and again for the backward pass.
    """
    rows = states.flatten(-3, -2)
    piece = max(MAX_LOGITS_PER_CHUNK // ((model.config.vocab_size or 1) * (model.population or 1)), 1)
    pieces = torch.split(rows, piece, -2)
    again = len(pieces) > 1 and torch.is_grad_enabled()
    results = [checkpoint(compute, rows, use_reentrant=False) if again else compute(rows) for rows in pieces]
    joined = torch.cat(results, rows.dim() - 2)
    return joined.view(*states.shape[:-1], *joined.shape[rows.dim() - 1 :])


@torch.no_grad()
def policy_target(heads: Heads, model: GPT, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the model's own distribution and of the improved one, `[*P, …, V]`, at states `[*P, …, C]`."""
    assert heads.step is not None
    own = F.log_softmax(at_least_float32(model.logits(hidden)), -1)
    likely, tokens = own.topk(min(heads.config.policy_candidates, own.shape[-1]), -1)
    imagined = heads.step(hidden[..., None, :], heads.action_embedding(model.embed(tokens)))
    steps = heads.config.dynamics_rollouts - 1 if heads.config.policy_target == "search" else 0
    value = n_step_value(model, heads, imagined, steps).to(own.dtype)
    mean = (likely.softmax(-1) * value).sum(-1, keepdim=True)
    tilted = own.scatter_add(-1, tokens, heads.config.policy_beta * (mean - value))
    return own, tilted.log_softmax(-1)


def policy_divergence(target: Tensor, guess: Tensor) -> Tensor:
    """KL `[…]` of logarithms of distributions `[…, V]`, target first."""
    return (target.exp() * (target - guess)).sum(-1)


def policy_losses(heads: Heads, model: GPT, states: Tensor) -> Tensor:
    """The policy's divergence from its target, `[*P, R]`, at states `[*P, R, C]`."""
    assert heads.policy is not None
    guess = F.log_softmax(at_least_float32(model.logits(heads.policy(states))), -1)
    return policy_divergence(policy_target(heads, model, states.detach())[1], guess)


def head_losses(
    heads: Heads,
    model: GPT,
    hidden: Tensor,
    nll: Tensor,
    batch: Batch,
    start: int,
    memories: Tensor | None = None,
) -> dict[str, Tensor]:
    """Each part of the header, `[*P]` and without its weight, from states `[*P, B, T, C]` and NLL `[*P, B, T]`.

    `memories [*P, B, n, m, C]` are those of `states_and_memories`.
    """
    c, mark, count = heads.config, model.config.mark, scored(batch)
    parts: dict[str, Tensor] = {}
    none = torch.zeros_like(count, dtype=nll.dtype)
    tokens: list[tuple[str, Tensor, int, float]] = []  # part, states, first target, factor

    def mean(errors: Tensor, there: Tensor) -> Tensor:
        return (errors * there).sum((-2, -1)) / count

    targets = value_targets(nll, c) if heads.value is not None else nll
    if heads.value is not None:
        there = stretches(batch, mark, c.value_horizon)
        parts["value"] = mean((heads.value(hidden[..., : there.shape[-1], :]) - targets).square(), there)
    if heads.step is not None:
        imagined = heads.imagine(hidden, model.embed(batch.tokens))
        true, share = heads.target(hidden), 1 / len(imagined)
        for k, state in enumerate(imagined, 1):
            there = stretches(batch, mark, k + 1)
            found = -share * mean(cosine(heads.latent(state), true[..., k:, :]), there)
            parts["dynamics_latent"] = parts.get("dynamics_latent", none) + found
            tokens.append(("dynamics_token", state, k, share))
            if heads.policy is not None and heads.value is not None:
                there = stretches(batch, mark, c.value_horizon + k)
                guess = heads.value(state[..., : there.shape[-1], :])
                found = share * mean((guess - targets[..., k:]).square(), there)
                parts["value_imagined"] = parts.get("value_imagined", none) + found
    for further, bend in enumerate(heads.ahead, 1):
        tokens.append(("multi_token", bend(hidden[..., :-further, :]), further, 1 / len(heads.ahead)))
    if tokens:
        wanted = [batch.targets[..., first:] for _, _, first, _ in tokens]
        states = torch.cat([state for _, state, _, _ in tokens], -2)
        each = torch.split(model.nll(states, torch.cat(wanted, -1)), [w.shape[-1] for w in wanted], -1)
        for (name, _, first, factor), losses in zip(tokens, each, strict=True):
            there = stretches(batch, mark, first + 1)
            found = factor * mean(losses * batch.weight[..., first:], there)
            parts[name] = parts.get(name, none) + found
    if heads.query is not None:
        scores, there = span_losses(heads, hidden, batch, mark, start)
        found = -scores.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
        parts["span"] = (found * there).sum(-1) / there.sum(-1).clamp(min=1)
    if heads.policy is not None:
        length = batch.tokens.shape[-1]
        positions = policy_positions(c, length, start)
        divergence = in_pieces(model, hidden[..., positions, :], partial(policy_losses, heads, model))
        scale = length / len(range(length)[positions])
        parts["policy"] = scale * mean(divergence, stretches(batch, mark, 1)[..., positions])
    if heads.recall is not None:
        parts["memory"] = none
        if memories is not None and memories.numel():
            recall, told, there = recalled(heads, memories, batch, start)
            parts["memory"] = heads.config.memory_every * mean(model.nll(recall, told), there)
    return parts
