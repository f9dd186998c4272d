"""The KL from a reference, against its closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.evaluate.divergence import divergence, divergences
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT


class Unigram(nn.Module):
    """Says the same three probabilities at every position, after an even token those of `first`."""

    population = None

    def __init__(self, first: list[float], second: list[float]) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 3)
        self.tables = torch.tensor([first, second]).log()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tables[tokens % 2]


def test_kl_is_its_sum_over_the_vocabulary_at_scored_positions() -> None:
    model = Unigram([0.5, 0.25, 0.25], [0.8, 0.1, 0.1])
    reference = Unigram([0.25, 0.25, 0.5], [0.1, 0.8, 0.1])
    tokens = torch.tensor([[0, 1, 2, 0]])
    mask = torch.tensor([[True, True, True, False]])  # two positions of the first table, one of the second
    batch = Batch.uniform(tokens, tokens, mask)
    wanted = (2 * 0.25 * math.log(2) + 0.7 * math.log(8)) / 3
    assert divergence(model, reference, [batch]) == pytest.approx(wanted)  # type: ignore[arg-type]
    assert divergence(model, model, [batch]) == pytest.approx(0.0, abs=1e-9)  # type: ignore[arg-type]


def test_that_of_each_member_is_that_of_the_two_models_alone() -> None:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=5, init_scale=9.0)
    models, references = ([GPT(config).initialize(seed) for seed in seeds] for seeds in ((0, 1), (2, 3)))
    tokens = torch.tensor([[0, 1, 2, 4], [3, 3, 0, 1]])
    batch = Batch.uniform(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool))
    together = divergences(GPT(config, 2).initialize(0, 1), GPT(config, 2).initialize(2, 3), [batch])
    alone = [divergence(ours, theirs, [batch]) for ours, theirs in zip(models, references, strict=True)]
    assert together == pytest.approx(alone)
    assert abs(alone[0] - alone[1]) > 1e-3
