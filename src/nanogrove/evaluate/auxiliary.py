"""Measures of auxiliary heads: held-out accuracy beside trivial baselines, and their shares of the gradient.

    value_error           root mean square error of the value, nats per token
    value_r2              share of the variance of the next K tokens' mean NLL that the value explains
    latent_cosine         of guessed and true projected states k steps on, k = 1, …; `latent_copying` takes the last
                          state for all that follow
    dynamics_loss         NLL of the next token from a state imagined k steps on
    span_accuracy         how often a span is recognised among those of its batch; `span_chance` is the mean of 1/B
    multi_token_loss      NLL of the tokens 2, 3, … ahead, `multi_token_accuracy` how often the likeliest is right
    policy_kl             of the improved target and the policy; `policy_kl_of_model` of the target and the model
    policy_entropy        of the policy, nats
    memory_loss           NLL of a segment's tokens from the memory after it, `memory_accuracy` how often it is right

`gradient_shares` is the norm of a weighted part's gradient in the trunk over that of the main loss's. The trunk is the
model without an output map of its own. Below `IDLE_GRADIENT_SHARE` a head teaches the model nothing: its weight is too
small, or it has learned what it can.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.data.batch import Batch, Batches
from nanogrove.data.corpus import Corpus
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Event, Values
from nanogrove.train.objective import weighted
from nanogrove.train.objectives.auxiliary import (
    cosine,
    head_losses,
    in_chunks,
    policy_divergence,
    policy_positions,
    policy_target,
    reconstruct,
    span_losses,
    span_start,
    states_and_memories,
    valid_span_mask,
    value_targets,
    weight_of,
)
from nanogrove.train.plan import Plan
from nanogrove.train.precision import autocast
from nanogrove.train.state import TrainState

IDLE_GRADIENT_SHARE = 1e-3  # of the main loss's gradient norm
MAX_HELD_OUT_TOKENS = 20_000


def evaluate_heads(state: TrainState, corpus: Corpus, batches: Batches, plan: Plan) -> Iterator[Event]:
    """Yields an `auxiliary` event after a step, where heads train: measures on held-out text, shares of the gradient.

    The gradient is that of the last micro-batch that was trained on, at the weights themselves.
    """
    model, heads = state.model, state.heads
    scored, scored_heads, _ = state.scored_modules
    if heads is None or scored_heads is None:
        return
    tokens = min(plan.evaluate_tokens or MAX_HELD_OUT_TOKENS, MAX_HELD_OUT_TOKENS)
    batch = batches(state.step - 1)
    if model.population is None:  # ranks share the rows; of a population they share the members
        batch = batch.part(plan.ranks.rank, plan.ranks.world)
    batch = batch.split(plan.accumulation)[0]
    batch = batch.to(model.embed.weight.device).expand(model.population)
    start = span_start(heads.config, batch.tokens.shape[-1], plan.seed, "span", state.step - 1)
    with autocast(model.embed.weight.device, plan.precision):
        shares = gradient_shares(model, heads, batch, start)
    values = {
        "measures": measure(scored, scored_heads, corpus.eval_batches("validation", tokens)),
        "shares": {name: share.tolist() for name, share in shares.items()},
        "idle": idle(shares),
        "idle_below": IDLE_GRADIENT_SHARE,
        **state.averaged,
        "seen": state.tokens,
    }
    yield Event("auxiliary", state.step, values)


def gradient_shares(model: GPT, heads: Heads, batch: Batch, start: int) -> dict[str, Tensor]:
    """For each part the norm of its weighted gradient in the trunk over the main loss's, `[*P]`, without dropout."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    trunk = [parameter for name, parameter in trained if not name.startswith("head.")]
    with evaluating(model):
        hidden, memories = states_and_memories(model, heads, batch.tokens)
        nll = model.nll(hidden, batch.targets)
        parts = head_losses(heads, model, hidden, nll, batch, start, memories)
        main = _norm(weighted(nll, batch).total, trunk, model.population)
        return {
            name: weight_of(heads.config, name) * _norm(part, trunk, model.population) / main
            for name, part in parts.items()
        }


def _norm(loss: Tensor, trunk: list[torch.nn.Parameter], population: int | None) -> Tensor:
    """The norm `[*P]` of the gradient of a loss `[*P]`; members do not mix, so their sum serves all."""
    grads = torch.autograd.grad(loss.sum(), trunk, retain_graph=True, allow_unused=True)
    gradients = [g.reshape(population or 1, -1).float() for g in grads if g is not None]
    norm = torch.stack([g.norm(dim=1) for g in gradients]).norm(dim=0) if gradients else torch.zeros(population or 1)
    return norm if population is not None else norm[0]


def idle(shares: dict[str, Tensor]) -> list[str]:
    """The parts whose gradient is below `IDLE_GRADIENT_SHARE` in every member."""
    return [name for name, share in shares.items() if bool((share < IDLE_GRADIENT_SHARE).all())]


@torch.inference_mode()
def measure(model: GPT, heads: Heads, batches: Iterable[Batch]) -> Values:
    """The measures of the header over batches: numbers, for a population lists, and lists of them for each step k.

    Windows too short for a head are left out, as are spans that are alone in their batch, and measures that no
    position counts for.
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    with evaluating(model):
        for number, batch in enumerate(batches):
            try:
                heads.config.refuse(batch.tokens.shape[-1])
            except ValueError:
                continue
            rows = batch.to(model.embed.weight.device).expand(model.population)
            start = span_start(heads.config, batch.tokens.shape[-1], 0, "held-out span", number)
            for name, total in _sums(model, heads, rows, start).items():
                sums[name] = sums[name] + total.double().cpu()
    if not sums:
        return {}
    c, values = heads.config, {}
    if sums["value positions"].sum():
        spread = sums["target²"] - sums["target"].square() / sums["value positions"].clamp(min=1)
        values["value_error"] = (sums["value error²"] / sums["value positions"].clamp(min=1)).sqrt()
        values["value_r2"] = 1 - sums["value error²"] / spread
    for name in ("latent_cosine", "latent_copying", "dynamics_loss", "multi_token_loss", "multi_token_accuracy"):
        steps = c.dynamics_rollouts if name.startswith(("latent", "dynamics")) else len(heads.ahead)
        kind = "imagined" if name.startswith(("latent", "dynamics")) else "ahead"
        if sums[f"{kind} 1"].sum():
            values[name] = torch.stack([sums[f"{name} {k}"] / sums[f"{kind} {k}"] for k in range(1, steps + 1)])
    if sums["spans"].sum():
        values["span_accuracy"] = sums["span hits"] / sums["spans"]
        values["span_chance"] = sums["span chance"] / sums["spans"]
    for name in ("policy_kl", "policy_kl_of_model", "policy_entropy"):
        if sums["policy positions"].sum():
            values[name] = sums[name] / sums["policy positions"]
    for name in ("memory_loss", "memory_accuracy"):
        if sums["memory positions"].sum():
            values[name] = sums[name] / sums["memory positions"]
    return {name: value.tolist() for name, value in values.items()}


def _sums(model: GPT, heads: Heads, batch: Batch, start: int) -> dict[str, Tensor]:
    """Sums over one batch's positions, each `[*P]`."""
    c, mark, sums = heads.config, model.config.mark, {}
    hidden, memories = states_and_memories(model, heads, batch.tokens)

    def add(name: str, values: Tensor, valid: Tensor) -> None:
        sums[name] = (values.double() * valid).sum((-2, -1))

    if heads.value is not None:
        targets = value_targets(model.nll(hidden, batch.targets), c)
        valid = valid_span_mask(batch, mark, c.value_horizon)
        add("value error²", (heads.value(hidden[..., : valid.shape[-1], :]) - targets).square(), valid)
        add("target²", targets.double().square(), valid)
        add("target", targets, valid)
        add("value positions", torch.ones_like(targets), valid)
    if heads.step is not None:
        true = heads.target(hidden)
        for k, state in enumerate(heads.imagine(hidden, model.embed(batch.tokens)), 1):
            valid = valid_span_mask(batch, mark, k + 1)
            add(f"latent_cosine {k}", cosine(heads.latent(state), true[..., k:, :]), valid)
            add(f"latent_copying {k}", cosine(true[..., :-k, :], true[..., k:, :]), valid)
            add(f"dynamics_loss {k}", model.nll(state, batch.targets[..., k:]), valid)
            add(f"imagined {k}", torch.ones_like(valid, dtype=torch.float64), valid)
    for k, head in enumerate(heads.ahead, 1):
        valid, wanted = valid_span_mask(batch, mark, k + 1), batch.targets[..., k:]
        scores = F.log_softmax(model.logits(head(hidden[..., :-k, :])).float(), -1)
        add(f"multi_token_loss {k}", -scores.gather(-1, wanted[..., None])[..., 0], valid)
        add(f"multi_token_accuracy {k}", scores.argmax(-1) == wanted, valid)
        add(f"ahead {k}", torch.ones_like(valid, dtype=torch.float64), valid)
    if heads.query is not None:
        scores, valid = span_losses(heads, hidden, batch, mark, start)
        compared = scores.isfinite().sum(-1)
        counted = valid & (compared > 1)
        best = scores.argmax(-1) == torch.arange(scores.shape[-1], device=scores.device)
        sums["span hits"] = (best & counted).sum(-1)
        sums["span chance"] = (counted / compared.double()).sum(-1)
        sums["spans"] = counted.sum(-1)
    if heads.policy is not None:
        positions = policy_positions(c, batch.tokens.shape[-1], start)
        valid = valid_span_mask(batch, mark, 1)[..., positions]
        policy = in_chunks(model, hidden[..., positions, :], partial(_policy_measures, heads, model))
        for name, values in zip(("policy_kl", "policy_kl_of_model", "policy_entropy"), policy.unbind(-1), strict=True):
            add(name, values, valid)
        add("policy positions", torch.ones_like(valid, dtype=torch.float64), valid)
    if memories is not None and memories.numel():
        states, wanted, valid = reconstruct(heads, memories, batch, start)
        scores = F.log_softmax(model.logits(states).float(), -1)
        add("memory_loss", -scores.gather(-1, wanted[..., None])[..., 0], valid)
        add("memory_accuracy", scores.argmax(-1) == wanted, valid)
        add("memory positions", torch.ones_like(valid, dtype=torch.float64), valid)
    return sums


def _policy_measures(heads: Heads, model: GPT, states: Tensor) -> Tensor:
    """At states `[*P, R, C]`, `[*P, R, 3]`: the target's divergence from the policy and from the model, and the
    policy's entropy."""
    assert heads.policy is not None
    model_log, target = policy_target(heads, model, states)
    guess = F.log_softmax(model.logits(heads.policy(states)).float(), -1)
    entropy = -(guess.exp() * guess).sum(-1)
    return torch.stack([policy_divergence(target, guess), policy_divergence(target, model_log), entropy], -1)
