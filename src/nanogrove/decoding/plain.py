"""Plain decoding: a call of the model reads one token of each row and gives the scores of the next."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from nanogrove.decoding.loop import MIN_TOKENS_TO_PACK, Sequences, Strategy, decode
from nanogrove.decoding.program import one_token
from nanogrove.decoding.reading import Context
from nanogrove.decoding.rolling import rolling
from nanogrove.decoding.sampling import Sampler, Transform
from nanogrove.model.gpt import GPT
from nanogrove.model.layers import leading


def plain(model: GPT) -> Strategy:
    """Plain decoding of a model or a population, over a sliding context or, with a memory, segment by segment."""
    if model.memory is not None:
        return rolling(model)
    return Strategy(steps=partial(_steps, model), modules=(model,), pack_from=MIN_TOKENS_TO_PACK)


def _steps(model: GPT, rows: Sequences, sampler: Sampler) -> Iterator[None]:
    context, program = Context(model, rows), one_token(model, len(rows.tokens))
    while True:
        token = sampler.choose(sampler.scores(context.logits(), rows.tokens, rows.lengths))
        rows.append(token)
        yield
        if context.renew():
            continue
        if program is not None:
            context.hidden = program.read(token, context.cache)
        else:
            context.hidden = model.hidden(token.view(*leading(model.population), -1, 1), context.cache)


def generate(
    model: GPT,
    tokens: Tensor,
    lengths: Tensor | None = None,
    *,
    new_tokens: int,
    transforms: Sequence[Transform] = (),
    greedy: bool = False,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Decodes plainly, as `decode` does: the new tokens `[*P, B, new_tokens]`, −1 after a token of `stop`.

    Args:
        model: A model or a population.
        tokens: Prompts `[*P, B, T]`, padded on the right.
        lengths: The true lengths `[*P, B]` of the prompts; all T when left out.
        new_tokens: How many tokens each row gets at most.
        transforms: Applied to the logits in this order.
        greedy: Whether the likeliest token is taken instead of a draw.
        stop: Tokens that end their row.
        generator: The stream of random numbers; torch's own when left out.
        dtype: The format of matrix products; see `decode`.
    """
    sampler = Sampler(transforms, 0.0 if greedy else 1.0, generator)
    return decode(plain(model), tokens, lengths, new_tokens=new_tokens, sampler=sampler, stop=stop, dtype=dtype)
