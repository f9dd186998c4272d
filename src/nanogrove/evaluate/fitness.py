"""Fitness: how good each model of a population is at something, sequence by sequence, the lower the better.

Every member is scored on the same sequences, so that two can be compared pair by pair: what is hard for one is hard for
the other, and their difference is known far better than either score.
"""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.data.rng import derived_seed
from nanogrove.decoding.plain import generate
from nanogrove.errors import PresetError
from nanogrove.evaluate.accuracy import with_error, wrong
from nanogrove.evaluate.loss import evaluate_split, score_split
from nanogrove.evaluate.reward import Reward, RewardConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Values
from nanogrove.record.measures import REWARD
from nanogrove.settings import Settings

Fitness = Callable[[GPT, Batch, torch.Generator], Tensor]
"""A model, or a population with the batch expanded to `[P, B, T]`, to `[*P, B]`; the generator is for sampling."""


def loss(model: GPT, batch: Batch, generator: torch.Generator) -> Tensor:
    """The mean NLL of each sequence's scored tokens, nats."""
    counted = batch.mask.float()
    nll: Tensor = model(batch.tokens, batch.targets)
    return (nll * counted).sum(-1) / counted.sum(-1).clamp(min=1)


def exact_match(model: GPT, batch: Batch, generator: torch.Generator) -> Tensor:
    """0 where every scored token is the likeliest one, which is what greedy decoding would write; else 1."""
    return wrong(model, batch)


def rewarded(reward: Reward, corpus: Corpus, prompt: int, tokens: int) -> Fitness:
    """Minus the reward of `tokens` tokens sampled after the first `prompt` ones of each sequence."""

    def fitness(model: GPT, batch: Batch, generator: torch.Generator) -> Tensor:
        end = corpus.tokenizer.end
        written = generate(model, batch.tokens[..., :prompt], new_tokens=tokens, stop=[end], generator=generator)
        texts = [
            corpus.tokenizer.decode([token for token in row if token not in (-1, end)])
            for row in written.flatten(0, -2).tolist()
        ]
        return REWARD.cost(torch.tensor(reward(texts), device=written.device).view(written.shape[:-1]))

    return fitness


class FitnessConfig(Settings):
    """What to score, as part of a method's settings."""

    fitness: str | RewardConfig = Field("loss", description="loss, exact_match, or a reward of sampled texts")
    prompt: int = Field(8, ge=1, description="of a rewarded text: tokens of the data it begins with")
    tokens: int = Field(64, ge=1, description="of a rewarded text: tokens to sample and to reward")

    @property
    def objective(self) -> tuple[str, str]:
        """What the mean fitness is, and its unit."""
        if not isinstance(self.fitness, str):
            return "minus the reward of samples", ""
        return ("NLL", "nats per token") if self.fitness == "loss" else ("share of wrong answers", "")

    def find_fitness(self, corpus: Corpus, block_size: int, allow_code: bool) -> Fitness:
        """The function these settings name.

        Raises PresetError for a reward that is not allowed or missing, for texts longer than the context, and for
        exact match of data that has no answers.
        """
        if self.fitness == "loss":
            return loss
        if self.fitness == "exact_match":
            if not corpus.has_answers:
                raise PresetError(
                    "method.fitness=exact_match asks for answers that are right or wrong; set data.type=task"
                )
            return exact_match
        if isinstance(self.fitness, str):
            raise PresetError(
                f"method.fitness={self.fitness} is unknown; take loss, exact_match, or a reward such as "
                '{"length": 40} or {"function": "module:function"}'
            )
        reward, size = self.fitness.find(allow_code), self.prompt + self.tokens
        if size > block_size:
            raise PresetError(f"method.prompt + method.tokens is {size}, and model.block_size is {block_size}")
        return rewarded(reward, corpus, min(self.prompt, corpus.length), self.tokens)


@torch.inference_mode()
def assess(
    model: GPT, corpus: Corpus, fitness: Fitness, limit: int | None, seed: int, split: str = "validation"
) -> tuple[Values, Tensor]:
    """Values of an `eval` event on a split, and the fitness `[*P, N]` of its sequences, in float64.

    About `limit` evenly spread tokens of it, always the same ones. A member whose loss is NaN or infinite has a fitness
    of NaN.
    """
    values, losses = score_split(model, corpus, split, limit)
    if fitness is loss:
        return values, losses
    device = model.embed.weight.device
    fitnesses = []
    with evaluating(model):
        for number, batch in enumerate(corpus.eval_batches(split, limit)):
            generator = torch.Generator(device)
            generator.manual_seed(derived_seed(seed, "fitness", number))
            fitnesses.append(fitness(model, batch.to(device).expand(model.population), generator).double().cpu())
    unknown = ~losses.isfinite().all(-1, keepdim=True)  # an argmax over NaN is a number all the same
    samples = torch.cat(fitnesses, -1).masked_fill(unknown, torch.nan)
    if fitness is not exact_match:  # of which `score_split` knows the figure
        values |= with_error("reward", REWARD.cost(samples), corpus.documents(split, limit))
    return values, samples


def evaluate_fitness(
    model: GPT, corpus: Corpus, config: FitnessConfig, split: str, limit: int | None, seed: int, allow_code: bool
) -> Values:
    """The figures of a model on a split, that of its fitness too, or why that is not measured.

    Args:
        model: a single model.
        corpus: its data.
        config: what it is scored by.
        split: of the data.
        limit: about how many tokens of the split are scored; all when None.
        seed: of the run.
        allow_code: whether a function that the settings name may be imported and run.
    """
    if not isinstance(config.fitness, str) and (unmeasured := config.fitness.unmeasured(allow_code)):
        return {**evaluate_split(model, corpus, split, limit), "unmeasured": unmeasured}
    fitness = config.find_fitness(corpus, model.config.block_size, allow_code)
    return assess(model, corpus, fitness, limit, seed, split)[0]
