"""Samples of a model: texts that it generates after prompts, for a reward to score."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rng import derived_seed
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.decoding.plain import generate
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import temperature as by_temperature
from nanogrove.evaluate.accuracy import with_error
from nanogrove.evaluate.reward import RewardConfig
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Values

SAMPLES = 64  # texts whose reward is measured at an evaluation
FINAL_SAMPLES = 256  # and of a model that is trained


class Sample(NamedTuple):
    """A text generated after a prompt, and whether it ended with the end mark or was cut."""

    prompt: str
    text: str
    ended: bool


def sample(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Tensor,
    lengths: Tensor | None = None,
    *,
    new_tokens: int,
    temperature: float = 1.0,
    seed: int,
    stop: Sequence[int] = (),
) -> list[Sample]:
    """A text after each of `prompts [N, T]`, padded on the right to T where they have `lengths [N]`.

    Args:
        model: a single model.
        tokenizer: of the model.
        prompts: the tokens to begin with.
        lengths: the tokens of each prompt; all T when left out.
        new_tokens: how many tokens are generated after a prompt, at most.
        temperature: of sampling.
        seed: of the random numbers.
        stop: tokens that end a text; the end mark alone when left out.
    """
    device, ends = model.embed.weight.device, set(stop or [tokenizer.end])
    with torch.inference_mode():
        new = generate(
            model,
            prompts.to(device),
            None if lengths is None else lengths.to(device),
            new_tokens=new_tokens,
            transforms=[] if temperature == 1 else [by_temperature(temperature)],
            stop=sorted(ends),
            generator=torch.Generator(device).manual_seed(seed),
        )
    rows = prompts.tolist()
    begins = rows if lengths is None else [row[:n] for row, n in zip(rows, lengths.tolist(), strict=True)]
    return [
        Sample(
            tokenizer.decode(prompt),
            tokenizer.decode([t for t in text if t >= 0 and t not in ends]),
            not ends.isdisjoint(text),
        )
        for prompt, text in zip(begins, new.tolist(), strict=True)
    ]


def reward_of_samples(
    name: str,
    model: GPT,
    corpus: RewardedCorpus,
    reward: RewardConfig | None,
    split: str,
    seed: int,
    allow_code: bool,
    count: int = SAMPLES,
) -> Values:
    """The mean reward of texts that a model writes after prompts of a split, as the figure `name`, with its error.

    None where neither `reward`, which scores a text without its prompt, nor the data's own rule says what the reward of
    any text is. All models draw from the same random numbers, so that what training changed is not lost among them.

    Args:
        name: of the figure.
        model: what writes.
        corpus: whose prompts are gone on from.
        reward: what scores the texts.
        split: of the prompts.
        seed: of the run.
        allow_code: whether a function that `reward` names may be imported and run.
        count: how many texts.
    """
    rule = corpus.config.known_reward
    if reward is None and rule is None:
        return {}
    rows = corpus.row_indices(split)
    chosen = np.arange(count) * (len(rows) // corpus.size) // count * corpus.size  # some twice where few exist
    prompts, lengths = pad([corpus.tokens[row, : corpus.start[row]].tolist() for row in rows[chosen]])
    longest = int((corpus.stop - corpus.start).max())
    samples = sample(
        model,
        corpus.tokenizer,
        prompts,
        lengths,
        new_tokens=longest,
        seed=derived_seed(seed, "samples", *split.encode()),
        stop=corpus.stops,
    )
    if reward is not None:
        scores = reward.find(allow_code)([each.text for each in samples])
    elif rule is not None:
        scores = [rule(each.prompt + each.text) for each in samples]
    return with_error(name, torch.tensor(scores), corpus.documents(split)[torch.from_numpy(chosen)])
