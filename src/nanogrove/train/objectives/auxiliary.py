"""Auxiliary losses: what the heads of `nanogrove.model.heads` learn beside the next token, and how they are summed.

h_t has seen the tokens up to t, nll_t is that of the token t + 1 from it, x̂ means imagined, sg no gradient:

    value            (v(h_t) − sg Σ_k γ^k nll_{t+k} / Σ_k γ^k)², k = 0 … K − 1
    value_imagined   the same of v(ĥ_{t+k}); only beside a policy, which asks for values of imagined states
    dynamics_latent  −cos(predict(project ĥ_{t+k}), sg project h_{t+k}), ĥ_{t+k} = g(ĥ_{t+k−1}, x_{t+k})
    dynamics_token   NLL of the token t + k + 1 from ĥ_{t+k} through the shared output map
    span             InfoNCE over the batch: the state before a span finds the mean state of its own row's, chance ln B
    memory           NLL of a segment's tokens, from the memory written after it alone
    multi_token      NLL of the tokens t + 2 … t + n, each from another map of h_t
    policy           KL(target ‖ policy), target ∝ p(a)·exp(β·(v̄ − v(g(h_t, a)))) for the likeliest tokens a, p(a) for
                     the others, v̄ the mean under p of those tried

The policy's target is one step of policy improvement with a penalty on the KL (Grill 2020), where what was not tried
counts as average (completed values, Danihelka 2022): the model's distribution, tilted towards tokens after which, in
imagination, text is easier to predict. With `policy_target` search, v is not the value of the imagined state but the
n-step value of `decoding/lookahead.py`, which follows the likeliest text as far as the dynamics are trained to. The
target is sg throughout. Without value and dynamics there is none, and a policy is refused. It learns at every k-th of
the T positions of a window, k being `policy_every`, and its loss is multiplied by T over their number: which positions,
and the factor, depend on the step and the window's length alone.

A part at t counts where all predictions it spans are scored and, with `within_documents`, made in one document; no
part reaches beyond the window. Sums are divided by the scored tokens of the batch, as the main loss is, so that
accumulation changes nothing; spans are the exception: their negatives are the other rows of a micro-batch, and their
mean is over its spans, so more micro-batches make the contrast easier. Each row has one span, and equal spans are not
negatives; two windows of one document may be, since a batch does not record documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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
from nanogrove.train.objective import Loss, Objective, count_scored, objective_from_nll, weighted
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
        return objective_from_nll(main)
    read = partial(states_and_memories, gpt, heads)
    if plan.compile:
        read = torch.compile(read)  # type: ignore[assignment]

    def objective(_: nn.Module, batch: Batch) -> Loss:
        hidden, memories = read(batch.tokens)
        nll = gpt.nll(hidden, batch.targets)
        loss = main(nll, batch)
        start = span_start(heads.config, batch.tokens.shape[-1], plan.seed, "span", state.step)
        loss_parts = head_losses(heads, gpt, hidden, nll, batch, start, memories)
        total = loss.total
        for name, part in loss_parts.items():
            total = total + weight_of(heads.config, name) * part
        return Loss(total, {**loss.parts, "next_token": loss.total, **loss_parts})

    return objective


def states_and_memories(model: GPT, heads: Heads, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """The states `[*P, B, T, C]` and, where a head recalls them, the memories `[*P, B, n, m, C]` after segments."""
    return (model.hidden(tokens), None) if heads.recall is None else model.remember(tokens)


def reconstruct(heads: Heads, memories: Tensor, batch: Batch, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """States `[*P, B, N, C]`, targets and mask `[*P, B, N]`: what memories are to tell of the segments before them.

    The targets are every k-th token of a segment, from `start` on; a token counts if it was scored as a prediction.
    """
    assert heads.recall is not None
    length, every = heads.recall.place.weight.shape[-2], heads.config.memory_every
    positions = torch.arange(start % min(every, length), length, every, device=memories.device)
    mask = F.pad(batch.mask, (1, 0))[..., :-1]
    axes, count = batch.tokens.shape[:-1], memories.shape[-3]

    def at_positions(x: Tensor) -> Tensor:
        return x[..., : count * length].reshape(*axes, count, length)[..., positions].flatten(-2)

    states = heads.recall(memories, positions).flatten(-3, -2)
    return states, at_positions(batch.tokens), at_positions(mask)


def span_start(config: AuxiliaryConfig, tokens: int, seed: int, purpose: str, step: int) -> int:
    """The position at which all spans of step `step` begin, after at least one token; they end inside the window."""
    return int(random(seed, purpose, step).integers(1, max(tokens - config.span_length(tokens), 1) + 1))


def valid_span_mask(batch: Batch, mark: int | None, length: int) -> Tensor:
    """Where the `length` predictions from t on are all scored and made in one document: `[*P, B, T − length + 1]`."""
    positions = batch.tokens.shape[-1] - length + 1
    counted = F.pad(batch.mask.cumsum(-1), (1, 0))
    all_scored = counted[..., length:] - counted[..., :positions] == length
    if mark is None:
        return all_scored
    document = (batch.tokens == mark).cumsum(-1)
    return all_scored & (document[..., length - 1 :] == document[..., :positions])


def value_targets(nll: Tensor, config: AuxiliaryConfig) -> Tensor:
    """The discounted mean of the NLL `[*P, B, T]` over the horizon from t on: `[*P, B, T − K + 1]`, no gradient."""
    discounts = config.value_discount ** torch.arange(config.value_horizon, device=nll.device, dtype=nll.dtype)
    ahead = nll.detach().unfold(-1, config.value_horizon, 1)
    return (ahead * discounts).sum(-1) / discounts.sum()


def span_losses(heads: Heads, hidden: Tensor, batch: Batch, mark: int | None, start: int) -> tuple[Tensor, Tensor]:
    """InfoNCE scores `[*P, B, B]`, −inf for what is not a negative, and which rows have a span, `[*P, B]`."""
    length = heads.config.span_length(batch.tokens.shape[-1])
    valid = valid_span_mask(batch, mark, length + 1)[..., start - 1]
    spans = batch.tokens[..., start : start + length]
    equal = (spans[..., :, None, :] == spans[..., None, :, :]).all(-1)
    diagonal = torch.eye(spans.shape[-2], dtype=torch.bool, device=spans.device)
    scores = heads.span_scores(hidden, start, length)
    return scores.masked_fill((equal | ~valid[..., None, :]) & ~diagonal, -torch.inf), valid


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine similarity along the last axis, in at least float32."""
    return F.cosine_similarity(at_least_float32(a), at_least_float32(b), dim=-1)


def policy_positions(config: AuxiliaryConfig, tokens: int, start: int) -> slice:
    """The positions, one at least of `tokens`, at which the policy learns in a step whose spans begin at `start`."""
    return slice(start % min(config.policy_every, tokens), None, config.policy_every)


def in_chunks(model: GPT, states: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """`compute` of states `[*P, B, N, C]`, which gives `[*P, R, …]` for `[*P, R, C]`: `[*P, B, N, …]`.

    Where the logits of all states would be large they are computed a chunk at a time, and again in the backward pass.
    """
    rows = states.flatten(-3, -2)
    size = max(MAX_LOGITS_PER_CHUNK // ((model.config.vocab_size or 1) * (model.population or 1)), 1)
    chunks = torch.split(rows, size, -2)
    recompute = len(chunks) > 1 and torch.is_grad_enabled()
    results = [checkpoint(compute, chunk, use_reentrant=False) if recompute else compute(chunk) for chunk in chunks]
    joined = torch.cat(results, rows.dim() - 2)
    return joined.view(*states.shape[:-1], *joined.shape[rows.dim() - 1 :])


@torch.no_grad()
def policy_target(heads: Heads, model: GPT, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the model's own and of the improved distribution, `[*P, …, V]`, at states `[*P, …, C]`."""
    assert heads.step is not None
    prior = F.log_softmax(at_least_float32(model.logits(hidden)), -1)
    likely, tokens = prior.topk(min(heads.config.policy_candidates, prior.shape[-1]), -1)
    imagined = heads.step(hidden[..., None, :], heads.action_embedding(model.embed(tokens)))
    steps = heads.config.dynamics_rollouts - 1 if heads.config.policy_target == "search" else 0
    value = n_step_value(model, heads, imagined, steps).to(prior.dtype)
    mean = (likely.softmax(-1) * value).sum(-1, keepdim=True)
    tilted = prior.scatter_add(-1, tokens, heads.config.policy_beta * (mean - value))
    return prior, tilted.log_softmax(-1)


def policy_divergence(target: Tensor, guess: Tensor) -> Tensor:
    """KL(target ‖ guess) `[…]` of log-probabilities `[…, V]`."""
    return (target.exp() * (target - guess)).sum(-1)


def policy_losses(heads: Heads, model: GPT, states: Tensor) -> Tensor:
    """The policy's divergence from its target, `[*P, R]`, at states `[*P, R, C]`."""
    assert heads.policy is not None
    guess = F.log_softmax(at_least_float32(model.logits(heads.policy(states))), -1)
    return policy_divergence(policy_target(heads, model, states.detach())[1], guess)


@dataclass(frozen=True)
class _Inputs:
    """What the parts of `head_losses` are computed from."""

    heads: Heads
    model: GPT
    hidden: Tensor
    nll: Tensor
    batch: Batch
    start: int
    memories: Tensor | None

    def valid(self, length: int) -> Tensor:
        """`valid_span_mask` of the batch."""
        return valid_span_mask(self.batch, self.model.config.mark, length)

    def mean(self, errors: Tensor, mask: Tensor) -> Tensor:
        """The sum of errors `[*P, B, N]` where the mask is set, over the scored tokens, `[*P]`."""
        return (errors * mask).sum((-2, -1)) / count_scored(self.batch)

    @property
    def zero(self) -> Tensor:
        """A loss of 0 for each member, `[*P]`."""
        return torch.zeros_like(count_scored(self.batch), dtype=self.nll.dtype)


class _Prediction(NamedTuple):
    """States `[*P, B, T − offset, C]` that predict the targets from number `offset` on; `share` scales their loss."""

    part: str
    states: Tensor
    offset: int
    share: float


def head_losses(
    heads: Heads,
    model: GPT,
    hidden: Tensor,
    nll: Tensor,
    batch: Batch,
    start: int,
    memories: Tensor | None = None,
) -> dict[str, Tensor]:
    """Each part of the header, `[*P]`, without its weight.

    Args:
        heads: those of `model`; a part is missing where its head is.
        model: a single model or a population.
        hidden: its states `[*P, B, T, C]`.
        nll: that of the targets of `batch`, `[*P, B, T]`.
        batch: what was read.
        start: where spans begin, as `span_start` draws it.
        memories: `[*P, B, n, m, C]`, as `states_and_memories` gives them.
    """
    inputs = _Inputs(heads, model, hidden, nll, batch, start, memories)
    parts: dict[str, Tensor] = {}
    imagined: list[Tensor] = []
    if heads.value is not None:
        valid = inputs.valid(heads.config.value_horizon)
        errors = heads.value(hidden[..., : valid.shape[-1], :]) - value_targets(nll, heads.config)
        parts["value"] = inputs.mean(errors.square(), valid)
    if heads.step is not None:
        imagined = heads.imagine(hidden, model.embed(batch.tokens))
        parts |= _latent_losses(inputs, imagined)
    parts |= _token_losses(inputs, imagined)
    if heads.query is not None:
        scores, valid = span_losses(heads, hidden, batch, model.config.mark, start)
        losses = -scores.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
        parts["span"] = (losses * valid).sum(-1) / valid.sum(-1).clamp(min=1)
    if heads.policy is not None:
        length = batch.tokens.shape[-1]
        positions = policy_positions(heads.config, length, start)
        divergence = in_chunks(model, hidden[..., positions, :], partial(policy_losses, heads, model))
        scale = length / len(range(length)[positions])
        parts["policy"] = scale * inputs.mean(divergence, inputs.valid(1)[..., positions])
    if heads.recall is not None:
        parts["memory"] = _memory_loss(inputs)
    return parts


def _latent_losses(inputs: _Inputs, imagined: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parts `dynamics_latent` and, beside a policy, `value_imagined`, averaged over the imagined steps."""
    heads, config = inputs.heads, inputs.heads.config
    latents, share = heads.target(inputs.hidden), 1 / len(imagined)
    parts = {"dynamics_latent": inputs.zero}
    if heads.policy is not None and heads.value is not None:
        parts["value_imagined"] = inputs.zero
    for k, states in enumerate(imagined, 1):
        similarity = cosine(heads.latent(states), latents[..., k:, :])
        parts["dynamics_latent"] = parts["dynamics_latent"] + -share * inputs.mean(similarity, inputs.valid(k + 1))
        if heads.policy is not None and heads.value is not None:
            valid = inputs.valid(config.value_horizon + k)
            guess = heads.value(states[..., : valid.shape[-1], :])
            errors = (guess - value_targets(inputs.nll, config)[..., k:]).square()
            parts["value_imagined"] = parts["value_imagined"] + share * inputs.mean(errors, valid)
    return parts


def _token_losses(inputs: _Inputs, imagined: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parts `dynamics_token` and `multi_token`, all of them through one call of the output map."""
    heads, batch = inputs.heads, inputs.batch
    predictions = [_Prediction("dynamics_token", states, k, 1 / len(imagined)) for k, states in enumerate(imagined, 1)]
    predictions += [
        _Prediction("multi_token", head(inputs.hidden[..., :-offset, :]), offset, 1 / len(heads.ahead))
        for offset, head in enumerate(heads.ahead, 1)
    ]
    parts: dict[str, Tensor] = {}
    if not predictions:
        return parts
    targets = [batch.targets[..., prediction.offset :] for prediction in predictions]
    nll = inputs.model.nll(torch.cat([p.states for p in predictions], -2), torch.cat(targets, -1))
    by_prediction = torch.split(nll, [target.shape[-1] for target in targets], -1)
    for (part, _, offset, share), losses in zip(predictions, by_prediction, strict=True):
        loss = share * inputs.mean(losses * batch.weight[..., offset:], inputs.valid(offset + 1))
        parts[part] = parts.get(part, inputs.zero) + loss
    return parts


def _memory_loss(inputs: _Inputs) -> Tensor:
    """The part `memory`; 0 where no segment is followed by a memory."""
    if inputs.memories is None or not inputs.memories.numel():
        return inputs.zero
    states, targets, mask = reconstruct(inputs.heads, inputs.memories, inputs.batch, inputs.start)
    return inputs.heads.config.memory_every * inputs.mean(inputs.model.nll(states, targets), mask)
