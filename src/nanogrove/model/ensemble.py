"""Members of a population as one model, whose probabilities are the mean of theirs.

Of members that are all as likely to be right the mean of probabilities is the prediction (Lakshminarayanan 2017), and
by convexity its NLL is never above the mean of theirs: −log mean p ≤ mean −log p.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.model.config import ModelConfig
from nanogrove.model.elementwise import at_least_float32
from nanogrove.model.gpt import GPT, MAX_LOGITS_PER_CHUNK
from nanogrove.model.layers import Embedding


def mean_log_probs(log_probs: Tensor) -> Tensor:
    """The logarithm `[…]` of the mean over members of probabilities whose logarithms are `[P, …]`."""
    return torch.logsumexp(log_probs, 0) - math.log(len(log_probs))


def part(population: GPT, members: slice) -> GPT:
    """A population of copies of consecutive members, which nothing trains."""
    tensors = {name: tensor[members] for name, tensor in population.state_dict().items()}
    model = GPT(population.config, len(tensors["embed.weight"])).to(population.embed.weight.device)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def of_one(model: GPT) -> GPT:
    """A population of one member, a copy of a single model, which nothing trains."""
    population = GPT(model.config, 1).to(model.embed.weight.device)
    population.load_state_dict({name: tensor[None] for name, tensor in model.state_dict().items()})
    return population.eval().requires_grad_(False)


class Ensemble(nn.Module):
    """Computes what a single model would whose probabilities are the mean of those of `members`, a population."""

    population = None  # it is called as a single model is

    def __init__(self, members: GPT) -> None:
        super().__init__()
        self.members = members
        self.train(members.training)

    @property
    def config(self) -> ModelConfig:
        """The settings of each member."""
        return self.members.config

    @property
    def embed(self) -> Embedding:
        """The embeddings of the members, for those who ask where they lie."""
        return self.members.embed

    def member_log_probs(self, tokens: Tensor) -> Tensor:
        """The log-probabilities `[P, B, T, V]` of each member after `tokens [B, T]`, in float32 at least."""
        shown = tokens.expand(self.members.population or 1, *tokens.shape)
        return F.log_softmax(at_least_float32(self.members(shown)), -1)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """The logarithms `[B, T, V]` of mean probabilities after `tokens [B, T]`, as many rows at once as fit."""
        numbers = (self.members.population or 1) * tokens.shape[-1] * (self.config.vocab_size or 1)
        rows = torch.split(tokens, max(MAX_LOGITS_PER_CHUNK // numbers, 1))
        return torch.cat([mean_log_probs(self.member_log_probs(each)) for each in rows])

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """`log_probs` of `tokens [B, T]`, or with `targets`, their NLL `[B, T]` in nats."""
        if targets is None:
            return self.log_probs(tokens)
        members = self.members.population or 1
        nll = self.members(tokens.expand(members, *tokens.shape), targets.expand(members, *targets.shape))
        return -mean_log_probs(-nll)
