"""Fitness: how good each model of a population is at something, sequence by sequence, the lower the better.

Every member is scored on the same sequences, so that two can be compared pair by pair: what is hard for one is hard for
the other, and their difference is known far better than either score.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanogrove.data.batch import Batch, Corpus, derived_seed
from nanogrove.errors import PresetError
from nanogrove.evaluate.loss import score_split
from nanogrove.evaluate.reward import Reward, find_reward
from nanogrove.model import decode as decoding
from nanogrove.model.gpt import GPT

Fitness = Callable[[GPT, Batch, torch.Generator], Tensor]
"""A model, or a population with the batch expanded to `[P, B, T]`, to `[*P, B]`; the generator is for sampling."""


def loss(model: GPT, batch: Batch, generator: torch.Generator) -> Tensor:
    """The mean NLL of each sequence's scored tokens, nats."""
    counted = (batch.weight != 0).float()
    nll: Tensor = model(batch.tokens, batch.targets)
    return (nll * counted).sum(-1) / counted.sum(-1).clamp(min=1)


def exact_match(model: GPT, batch: Batch, generator: torch.Generator) -> Tensor:
    """0 where every scored token is the likeliest one, which is what greedy decoding would write; else 1."""
    logits: Tensor = model(batch.tokens)
    right = (logits.argmax(-1) == batch.targets) | (batch.weight == 0)
    return 1 - right.all(-1).float()


def rewarded(reward: Reward, corpus: Corpus, prompt: int, tokens: int) -> Fitness:
    """Minus the reward of `tokens` tokens sampled behind the first `prompt` ones of each sequence."""

    def fitness(model: GPT, batch: Batch, generator: torch.Generator) -> Tensor:
        end = corpus.tokenizer.end
        written = decoding.generate(
            model, batch.tokens[..., :prompt], new_tokens=tokens, stop=[end], generator=generator
        )
        texts = [
            corpus.tokenizer.decode([token for token in row if token not in (-1, end)])
            for row in written.flatten(0, -2).tolist()
        ]
        return -torch.tensor(reward(texts), device=written.device).view(written.shape[:-1])

    return fitness


def find_fitness(name: str, corpus: Corpus, block_size: int, prompt: int, tokens: int, allow_code: bool) -> Fitness:
    """`loss`, `exact_match`, or a reward `module:function` of sampled texts.

    Raises PresetError for a reward that is not allowed or not there, and for texts longer than the context.
    """
    if name == "loss":
        return loss
    if name == "exact_match":
        return exact_match
    if ":" not in name:
        raise PresetError(f"method.fitness={name} is unknown; take loss, exact_match or module:function, a reward")
    reward = find_reward(name, allow_code)
    if prompt + tokens > block_size:
        raise PresetError(f"method.prompt + method.tokens is {prompt + tokens}, and model.block_size is {block_size}")
    return rewarded(reward, corpus, min(prompt, corpus.length), tokens)


@torch.inference_mode()
def assess(model: GPT, corpus: Corpus, fitness: Fitness, limit: int | None, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Values of an `eval` event on the validation split, and the fitness `[P, N]` of its sequences, in float64.

    About `limit` evenly spread tokens of it, always the same ones.
    """
    values, losses = score_split(model, corpus, "validation", limit)
    if fitness is loss:
        return values, losses
    was_training, device = model.training, model.embed.weight.device
    model.eval()
    found = []
    for number, batch in enumerate(corpus.windows("validation", limit)):
        generator = torch.Generator(device)
        generator.manual_seed(derived_seed(seed, "fitness", number))
        found.append(fitness(model, batch.to(device).expand(model.population), generator).double().cpu())
    model.train(was_training)
    return values, torch.cat(found, -1)
