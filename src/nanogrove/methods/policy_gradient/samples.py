"""Samples of a policy: prompts from rows of the data, what the model writes after them, and what that is worth."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.decoding.plain import generate
from nanogrove.decoding.sampling import draws_by_member
from nanogrove.decoding.sampling import temperature as by_temperature
from nanogrove.evaluate.reward import Reward
from nanogrove.methods.policy_gradient.config import Config
from nanogrove.model.gpt import GPT


class Prompts(NamedTuple):
    """The first tokens of N rows of the data, and the rows.

    tokens   [N, T]  filled up with the end mark
    lengths  [N]     tokens of each
    rows     the batch that they are from, of N rows, whose scored targets are the true answers where there are some
    """

    tokens: Tensor
    lengths: Tensor
    rows: Batch


class Samples(NamedTuple):
    """Prompts with what was written after them, group by group.

    tokens  [*P, B, W + 1] int64, filled up with the end mark
    start   [*P, B]        int64, tokens of the prompt
    stop    [*P, B]        int64, tokens up to the last that was written; a mark that ends it is one of them
    """

    tokens: Tensor
    start: Tensor
    stop: Tensor

    def batch(self) -> Batch:
        """Inputs and targets `[*P, B, W]`, of which what was written is scored."""
        target = torch.arange(1, self.tokens.shape[-1], device=self.tokens.device)
        mask = (target >= self.start[..., None]) & (target < self.stop[..., None])
        return Batch.uniform(self.tokens[..., :-1].contiguous(), self.tokens[..., 1:].contiguous(), mask)


def stops(corpus: Corpus) -> list[int]:
    """The tokens that end a sample."""
    return corpus.stops if isinstance(corpus, RewardedCorpus) else [corpus.tokenizer.end]


def prompts_of(rows: Batch, config: Config, corpus: Corpus) -> Prompts:
    """The prompts of rows `[N, T]` of the data; of a row that scores nothing the first token."""
    lengths = rows.mask.int().argmax(-1) + 1
    if config.prompt is not None:
        lengths = torch.full_like(lengths, config.prompt)
    tokens = rows.tokens[:, : int(lengths.max())]
    beyond = torch.arange(tokens.shape[1]) >= lengths[:, None]
    return Prompts(tokens.masked_fill(beyond, corpus.tokenizer.end), lengths, rows)


def draw(model: GPT, prompts: Prompts, config: Config, corpus: Corpus, count: int, seeds: Sequence[int]) -> Samples:
    """`count` samples of each prompt by each member, whose tokens are drawn from the stream of its seed alone.

    Args:
        model: a single model or a population.
        prompts: N of them.
        config: the temperature, and how long samples may be.
        corpus: whose marks end a sample.
        count: of samples of each prompt.
        seeds: of the members' streams.
    """
    device, end = model.embed.weight.device, corpus.tokenizer.end
    first, last = int(prompts.lengths.min()), int(prompts.lengths.max())
    new = config.tokens or corpus.length + 1 - first
    width = corpus.length + 1 if config.tokens is None else min(last + new, model.config.block_size + 1)
    members = (len(seeds),) if model.population is not None else ()
    tokens = prompts.tokens.repeat_interleave(count, 0).to(device).expand(*members, -1, -1)
    start = prompts.lengths.repeat_interleave(count, 0).to(device).expand(*members, -1)
    scale = [] if config.temperature == 1 else [by_temperature(config.temperature)]
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    written = generate(
        model,
        tokens,
        start,
        new_tokens=new,
        transforms=[*scale, draws_by_member(generators)],
        greedy=True,
        stop=stops(corpus),
    ).clone()
    rows = F.pad(tokens, (0, new), value=end)
    at = start[..., None] + torch.arange(new, device=device)
    rows = rows.scatter(-1, at, written.masked_fill(written < 0, end))
    rows = F.pad(rows, (0, max(width - rows.shape[-1], 0)), value=end)[..., :width].contiguous()
    stop = (start + (written >= 0).sum(-1)).clamp(max=width)
    return Samples(rows, start.contiguous(), stop)


def texts(samples: Samples, corpus: Corpus) -> list[str]:
    """What was written after each prompt, `[*P · B]`, without the mark that ends it."""
    ends = set(stops(corpus))
    rows = zip(
        samples.tokens.flatten(0, -2).tolist(),
        samples.start.flatten().tolist(),
        samples.stop.flatten().tolist(),
        strict=True,
    )
    return [corpus.tokenizer.decode([t for t in row[start:stop] if t not in ends]) for row, start, stop in rows]


def rewards(samples: Samples, prompts: Prompts, reward: Reward | None, corpus: Corpus) -> Tensor:
    """The reward of each sample, `[*P, B]` float64 on the CPU: by `reward`, or 1 for the true answer in full."""
    shape = samples.start.shape
    if reward is not None:
        return torch.tensor(reward(texts(samples, corpus)), dtype=torch.float64).view(shape)
    count = shape[-1] // len(prompts.lengths)
    true, asked = (t.repeat_interleave(count, 0) for t in (prompts.rows.targets, prompts.rows.mask))
    missing = true.shape[-1] + 1 - samples.tokens.shape[-1]
    written = F.pad(samples.tokens.cpu(), (0, max(missing, 0)), value=-1)[..., 1 : true.shape[-1] + 1]
    return ((written == true) | ~asked).all(-1).double()
