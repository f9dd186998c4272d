"""Speculative decoding: multi-token heads draft, the model verifies several tokens in one call, nothing is approximate.

After each call a row has one token x_1 that the model chose and has not read. From the state that x_1 was drawn from,
the heads draft those that follow it, d_2 … d_n, each from a distribution q_i of its own. The model reads
x_1, d_2 … d_n at once, which gives its distributions p_2 … p_{n+1}. Draft i is accepted with probability
min(1, p_i(d_i) / q_i(d_i)); after the first that is not, the next token is drawn from max(p_i − q_i, 0), normalised,
and where all are accepted, from p_{n+1}. So the text is distributed as that of plain decoding, whatever the heads
draft (Leviathan 2023, theorem 3.5; Chen 2023), here with all transforms of the logits applied to p and to q.
Greedily a draft is accepted if it is the model's likeliest token.

Here the model drafts for itself, from states it has computed anyway (Stern 2018; Gloeckle 2024), so there is no second
model to run. Rows of a batch accept as many as each of them can, and the cache takes the others back row by row.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from nanogrove.decoding.loop import Sequences, Strategy
from nanogrove.decoding.reading import Context
from nanogrove.decoding.sampling import Sampler, draw
from nanogrove.errors import CheckpointError
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads


def speculative(model: GPT, heads: Heads | None) -> Strategy:
    """Speculative decoding of a single model. Raises CheckpointError without multi-token heads.

    Transforms must be functions of their arguments alone. Tokens are those of plain decoding when greedy, and
    distributed as its are when not; past a full context that holds for rows by themselves, since when a context is read
    anew depends on the longest row of a batch. In bfloat16 products of several tokens and of one round differently.
    """
    if heads is None or not len(heads.ahead):
        raise CheckpointError(
            "speculative: this model has no multi-token heads to draft; train one with "
            "auxiliary.enable_multi_token=true"
        )
    most = len(heads.ahead) + 1
    return Strategy(steps=partial(_steps, model, heads), modules=(model, heads), tokens_per_call=most, spare=most)


def _steps(model: GPT, heads: Heads, rows: Sequences, sampler: Sampler) -> Iterator[None]:
    context, full = Context(model, rows), True
    while True:
        if full:  # a reading of the whole context gives one token, and the state to draft from
            token = sampler.choose(sampler.scores(context.logits(), rows.tokens, rows.lengths))
            rows.extend(token[:, None], torch.ones_like(rows.lengths))
        else:
            _draft_and_verify(model, heads, context, sampler)
        yield
        full = context.renew()


def _draft_and_verify(model: GPT, heads: Heads, context: Context, sampler: Sampler) -> None:
    """Appends the drafts that the model accepts, and one token of the model's own, to each row that goes on."""
    rows, cache = context.rows, context.cache

    def scores(logits: Tensor, lengths: Tensor) -> Tensor:
        """Transformed scores `[R, V]` of the token after the first `lengths [R]` of each row."""
        return sampler.scores(logits, rows.up_to(lengths) if sampler.transforms else rows.tokens, lengths)

    count = min(len(heads.ahead), model.config.block_size - cache.longest - 1, rows.most_left - 1)
    guesses, drafts = [], [rows.tokens.gather(1, rows.lengths[:, None] - 1)]  # the first is not a draft
    for n in range(count):
        at = rows.lengths + n
        guesses.append(scores(model.logits(heads.ahead[n](context.hidden))[:, 0], at))
        drafts.append(sampler.choose(guesses[-1])[:, None])
        rows.tokens.scatter_(1, at[:, None], drafts[-1])
    tokens = torch.cat(drafts, 1).clamp(min=0)
    states = model.hidden(tokens, cache)
    logits = model.logits(states)
    going, accepted, following = ~rows.ended, torch.zeros_like(rows.lengths), torch.zeros_like(rows.lengths)
    for n in range(count + 1):
        verified = scores(logits[:, n], rows.lengths + n)
        if n < count:
            agreed, instead = _verify(verified, guesses[n], tokens[:, n + 1], sampler)
        else:
            agreed, instead = torch.zeros_like(going), sampler.choose(verified)
        following = torch.where(going & ~agreed, instead, following)
        going = going & agreed
        accepted = accepted + going.long()
    context.hidden = states.gather(1, accepted.view(-1, 1, 1).expand(-1, 1, states.shape[-1]))
    proposed = torch.cat((tokens[:, 1:], following[:, None]), 1).scatter(1, accepted[:, None], following[:, None])
    appended = rows.extend(proposed, accepted + 1)
    # A draft that ends its row, or fills its budget, makes what was accepted after it void: that row reads no more.
    cache.keep(tokens, torch.where(appended > accepted, accepted + 1, 0))


def _verify(scores: Tensor, guess: Tensor, token: Tensor, sampler: Sampler) -> tuple[Tensor, Tensor]:
    """Whether each row's draft `token [R]` stands, and what to write where it does not, from scores `[R, V]`."""
    if sampler.greedy:
        best = scores.argmax(-1)
        return best == token, best
    p, q = scores.softmax(-1, dtype=torch.float64), guess.softmax(-1, dtype=torch.float64)
    chance = torch.rand(len(token), dtype=torch.float64, device=token.device, generator=sampler.generator)
    ratio = (p.gather(1, token[:, None]) / q.gather(1, token[:, None]))[:, 0]
    excess = (p - q).clamp(min=0)
    rest = torch.where(excess.sum(-1, keepdim=True) > 0, excess, p)  # none where p is q, and nothing is refused
    return chance < ratio, draw(rest.log(), sampler.generator)
