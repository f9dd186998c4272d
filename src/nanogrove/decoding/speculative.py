"""Speculative decoding: multi-token heads draft, the model verifies several tokens in one call, nothing is approximate.

Behind each call a row has one token x_1 of the model's own that the model has not read. From the state that x_1 was
drawn from, the heads draft those behind it, d_2 … d_n, each from a distribution q_i of its own. The model reads
x_1, d_2 … d_n at once, which gives its distributions p_2 … p_{n+1}. Draft i is accepted with probability
min(1, p_i(d_i) / q_i(d_i)); behind the first that is not, the next token is drawn from max(p_i − q_i, 0), normalised,
and where all are accepted, from p_{n+1}. So what is written is distributed as plain decoding distributes it, whatever
the heads draft (Leviathan 2023, theorem 3.5; Chen 2023), here with all transforms of the logits applied to p and to q.
Greedily a draft is accepted if it is the model's likeliest token.

Here the model drafts for itself, from states it has computed anyway (Stern 2018; Gloeckle 2024), so there is no second
model to run. Rows of a batch accept as many as each of them can, and the cache takes the others back row by row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanogrove.decoding.loop import Transform, draw, read
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.model.layers import packed_weights
from nanogrove.model.mode import evaluating


class Written(NamedTuple):
    """New tokens `[B, N]` as `generate` gives them, and how often the model read, its first reading included."""

    tokens: Tensor
    calls: int


@torch.inference_mode()
def speculate(
    model: GPT,
    heads: Heads,
    tokens: Tensor,
    lengths: Tensor | None = None,
    *,
    new_tokens: int,
    transforms: Sequence[Transform] = (),
    greedy: bool = False,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Written:
    """Continues `tokens [B, T]`, padded on the right to true `lengths [B]`, of a single model, as `generate` does.

    Transforms must be functions of their arguments alone. Tokens are those of `generate` when greedy, and distributed
    as its are when not; past a full context that holds for rows by themselves: when a context is read anew depends on
    the longest row of a batch. In `dtype` bfloat16 products of several tokens and of one round differently.
    """
    rows = tokens.shape[0] * (len(heads.ahead) + 1)
    with evaluating(model, heads), packed_weights(model, rows, dtype), packed_weights(heads, rows, dtype):
        return _continue(model, heads, tokens, lengths, new_tokens, transforms, greedy, stop, generator)


def _continue(
    model: GPT,
    heads: Heads,
    tokens: Tensor,
    lengths: Tensor | None,
    new_tokens: int,
    transforms: Sequence[Transform],
    greedy: bool,
    stop: Sequence[int],
    generator: torch.Generator | None,
) -> Written:
    size, (batch, width) = model.config.block_size, tokens.shape
    most, device = len(heads.ahead), tokens.device
    start = torch.full((batch,), width, device=device) if lengths is None else lengths
    length = start
    places = torch.arange(width + new_tokens + most + 1, device=device)
    history = torch.nn.functional.pad(tokens, (0, new_tokens + most + 1)).masked_fill(places >= length[:, None], -1)
    stops = torch.tensor(list(stop), device=device, dtype=torch.int64)
    done = torch.zeros_like(length, dtype=torch.bool)

    def scores(logits: Tensor, seen: Tensor) -> Tensor:
        """Transformed scores `[B, V]` of the token behind the first `seen [B]` of the history."""
        found = logits.float()
        if transforms:
            before = history.masked_fill(places >= seen[:, None], -1)
            for transform in transforms:
                found = transform(found, before, seen)
        return found

    def choose(found: Tensor) -> Tensor:
        return found.argmax(-1) if greedy else draw(found, generator)

    def append(chosen: Tensor) -> None:
        """Writes a token into every row that goes on."""
        nonlocal length, done
        history.scatter_(1, length[:, None], chosen.masked_fill(done, -1)[:, None])
        length = length + (~done).long()
        done = done | torch.isin(chosen, stops) | (length - start >= new_tokens)

    hidden, cache = read(model, history, length, batch, size)
    calls = 1
    append(choose(scores(model.logits(hidden)[:, 0], length)))
    while not bool(done.all()):
        calls += 1
        if cache.longest >= size:
            hidden, cache = read(model, history, length, batch, max(size // 2, 1))
            append(choose(scores(model.logits(hidden)[:, 0], length)))
            continue
        left = int((new_tokens - (length - start)).masked_fill(done, 0).max())
        count = min(most, size - cache.longest - 1, left - 1)
        guesses, reading = [], [history.gather(1, length[:, None] - 1)]
        for number in range(count):
            guesses.append(scores(model.logits(heads.ahead[number](hidden))[:, 0], length + number))
            reading.append(choose(guesses[-1])[:, None])
            history.scatter_(1, length[:, None] + number, reading[-1])
        drafts = torch.cat(reading, 1).clamp(min=0)
        states = model.hidden(drafts, cache)
        logits = model.logits(states)
        going, accepted, following = ~done, torch.zeros_like(length), torch.zeros_like(length)
        for number in range(count + 1):
            own = scores(logits[:, number], length + number)
            if number < count:
                token = drafts[:, number + 1]
                agreed, instead = _verdict(own, guesses[number], token, greedy, generator)
            else:
                agreed, instead = torch.zeros_like(going), choose(own)
            following = torch.where(going & ~agreed, instead, following)
            going = going & agreed
            accepted = accepted + going.long()
        history.masked_fill_(places >= (length + accepted)[:, None], -1)
        hidden = states.gather(1, accepted.view(-1, 1, 1).expand(-1, 1, states.shape[-1]))
        # A draft that ends a text, or is the last to be written, ends its row; what was accepted behind it is void.
        ends = torch.isin(drafts[:, 1:], stops) & (torch.arange(count, device=device) < accepted[:, None])
        first = torch.where(ends.any(1), ends.int().argmax(1) + 1, accepted) if count else accepted
        length = length + torch.minimum(first, (start + new_tokens - length).clamp(min=0)) * (~done).long()
        done = done | ends.any(1) | (length - start >= new_tokens)
        history.masked_fill_(places >= length[:, None], -1)
        cache.keep(drafts, torch.where(done, 0, accepted + 1))
        append(following)
    at = start[:, None] + torch.arange(new_tokens, device=device)
    return Written(history.gather(1, at), calls)


def _verdict(
    own: Tensor, guess: Tensor, token: Tensor, greedy: bool, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Whether each row's drafted `token [B]` stands, and what to write where it does not, from scores `[B, V]`."""
    if greedy:
        best = own.argmax(-1)
        return best == token, best
    p, q = own.softmax(-1, dtype=torch.float64), guess.softmax(-1, dtype=torch.float64)
    chance = torch.rand(len(token), dtype=torch.float64, device=token.device, generator=generator)
    ratio = (p.gather(1, token[:, None]) / q.gather(1, token[:, None]))[:, 0]
    excess = (p - q).clamp(min=0)
    rest = torch.where(excess.sum(-1, keepdim=True) > 0, excess, p)  # none where p is q, and nothing is refused
    return chance < ratio, draw(rest.log(), generator)
