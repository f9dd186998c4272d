"""Plain decoding of an ensemble: every member reads the same rows, and the next token follows from their mean.

The scores that a sampler gets are the logarithms of mean probabilities, so that temperature, cuts and draws are those
of a single model that gives these probabilities.
"""

from collections.abc import Iterator
from functools import partial

from nanogrove.decoding.loop import MIN_TOKENS_TO_PACK, Sequences, Strategy
from nanogrove.decoding.program import one_token
from nanogrove.decoding.reading import Context
from nanogrove.decoding.sampling import Sampler
from nanogrove.model.ensemble import mean_log_probs
from nanogrove.model.gpt import GPT


def averaged(members: GPT) -> Strategy:
    """Decoding by the mean probabilities of a population without a memory, over a sliding context."""
    return Strategy(steps=partial(_steps, members), modules=(members,), pack_from=MIN_TOKENS_TO_PACK)


def _steps(members: GPT, rows: Sequences, sampler: Sampler) -> Iterator[None]:
    count = members.population or 1
    context, program = Context(members, rows, copies=count), one_token(members, count * len(rows.tokens))
    while True:
        logits = context.logits().view(count, len(rows.tokens), -1)
        scores = mean_log_probs(logits.log_softmax(-1))
        token = sampler.choose(sampler.scores(scores, rows.tokens, rows.lengths))
        rows.append(token)
        yield
        if context.renew():
            continue
        everyone = token.repeat(count)
        if program is not None:
            context.hidden = program.read(everyone, context.cache)
        else:
            context.hidden = members.hidden(everyone.view(count, -1, 1), context.cache)
