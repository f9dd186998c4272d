"""Plain decoding of a model with a rolling memory: a text has no end, and the cache holds one segment.

The cache begins with the memory that its segment reads. A segment is closed, and the next memory written, when the
token after it is known. So the segments of rows end together, and their prompts must have one length.
"""

from collections.abc import Iterator
from functools import partial

import torch

from nanogrove.decoding.loop import MIN_TOKENS_TO_PACK, Sequences, Strategy
from nanogrove.decoding.sampling import Sampler
from nanogrove.model.gpt import GPT
from nanogrove.model.memory import Memory


def rolling(model: GPT) -> Strategy:
    """Decoding of a single model with a memory, segment by segment."""
    assert model.memory is not None
    steps = partial(_steps, model, model.memory)
    return Strategy(steps=steps, modules=(model,), pack_from=MIN_TOKENS_TO_PACK, one_length=True)


def _steps(model: GPT, memory: Memory, rows: Sequences, sampler: Sampler) -> Iterator[None]:
    segment, count, width = model.config.memory_segment, len(rows.tokens), int(rows.lengths[0])
    closed = (width - 1) // segment * segment  # tokens of the prompt in segments that are closed
    state = memory.first(count)
    if closed:
        state = model.remember(rows.tokens[:, :closed], write_last=True)[1][:, -1]
    cache, inputs = model.cache(count), torch.cat([state, model.embed(rows.tokens[:, closed:width])], 1)
    while True:
        logits = model.logits(model.through(inputs, cache)[:, -1])
        token = sampler.choose(sampler.scores(logits, rows.tokens, rows.lengths))
        rows.append(token)
        yield
        inputs = model.embed(token[:, None])
        if cache.longest == model.config.memory_tokens + segment:
            state = model.through(memory.inputs(state), cache)
            cache, inputs = model.cache(count), torch.cat([state, inputs], 1)
