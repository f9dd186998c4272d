"""Figures of an ensemble against brute force in float64, and ranks against scipy."""

import itertools
import math

import pytest
import torch

from nanogrove.data.batch import Batch
from nanogrove.evaluate.ensemble import (
    disagreement,
    ensemble_losses,
    mean_logits_loss,
    rank_correlation,
    together_nll,
    uncertainty,
)
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.members import unstack

CONFIG = ModelConfig(vocab_size=7, block_size=6, n_layer=1, n_head=2, n_embd=8, init_scale=12.0)


def batches() -> list[Batch]:
    """Two batches, of which some positions are not scored."""
    generator = torch.Generator().manual_seed(3)
    batches_drawn = []
    for rows in (3, 2):
        tokens = torch.randint(0, 7, (rows, 7), generator=generator)
        mask = torch.rand(rows, 6, generator=generator) < 0.7
        batches_drawn.append(Batch.uniform(tokens[:, :-1], tokens[:, 1:], mask))
    return batches_drawn


@torch.no_grad()
def probabilities(members: GPT, batch: Batch) -> list[torch.Tensor]:
    """Of each member by itself, `[N, V]` at the scored positions."""
    alone = []
    for member in range(members.population or 1):
        model = GPT(CONFIG).double().eval()
        model.load_state_dict(unstack(members.state_dict(), member))
        alone.append(model(batch.tokens).softmax(-1)[batch.mask])
    return alone


def test_losses_are_those_of_brute_force() -> None:
    members = GPT(CONFIG, 3).initialize(1, 2, 3).double()
    alone, together, logits, count = [0.0] * 3, [0.0] * 3, 0.0, 0
    for batch in batches():
        each, targets = probabilities(members, batch), batch.targets[batch.mask].tolist()
        for n, target in enumerate(targets):
            p = [float(member[n, target]) for member in each]
            for member in range(3):
                alone[member] -= math.log(p[member])
            for size, first in itertools.product((1, 2, 3), range(3)):
                chosen = [p[(first + k) % 3] for k in range(size)]
                together[size - 1] -= math.log(sum(chosen) / size) / 3
            mean = torch.stack([member[n].log() for member in each]).mean(0).softmax(-1)
            logits -= math.log(float(mean[target]))
            count += 1
    losses = ensemble_losses(members, batches())
    assert losses.tokens == count
    assert losses.members.tolist() == pytest.approx([loss / count for loss in alone], abs=1e-12)
    assert losses.by_count.tolist() == pytest.approx([loss / count for loss in together], abs=1e-12)
    assert losses.by_count[0] == pytest.approx(float(losses.members.mean()))
    assert (losses.by_count.diff() < 0).all(), "each member more lowers the mean over ensembles"
    assert mean_logits_loss(members, batches()) == pytest.approx(logits / count, abs=1e-6)


def test_the_mean_of_tiny_probabilities_is_not_lost() -> None:
    log_probs = torch.tensor([[-900.0], [-1000.0]], dtype=torch.float64)
    assert together_nll(log_probs)[:, 0].tolist() == pytest.approx([900.0, 900.0 + math.log(2)])


def test_disagreement_is_the_mutual_information() -> None:
    probs = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.5]]], dtype=torch.float64)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert disagreement(probs.log()).tolist() == pytest.approx([math.log(2) - entropy, 0.0], abs=1e-12)


def test_ranks_are_those_of_scipy_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 9, (60,), generator=generator).double(), torch.randn(60, generator=generator).double()
    assert rank_correlation(x, x + y) == pytest.approx(stats.spearmanr(x, x + y).statistic, abs=1e-12)


def test_uncertainty_is_compared_with_the_exact_error() -> None:
    members = GPT(CONFIG, 3).initialize(1, 2, 3).double()
    truths = [torch.rand(len(batch.tokens), 6, 5).double().softmax(-1) for batch in batches()]  # tokens 5 and 6 never
    errors, entropies = [], []
    for batch, truth in zip(batches(), truths, strict=True):
        mean = torch.stack(probabilities(members, batch)).mean(0)
        exact = torch.cat([truth, torch.zeros(*truth.shape[:-1], 2).double()], -1)[batch.mask]
        errors += (mean - exact).abs().sum(-1).div(2).tolist()
        entropies += torch.special.entr(mean).sum(-1).tolist()
    figures = uncertainty(members, batches(), iter(truths))
    expected = rank_correlation(*(torch.tensor(values).round(decimals=9) for values in (entropies, errors)))
    assert figures["entropy_rank"] == pytest.approx(expected, abs=1e-12)
    assert -1 <= figures["disagreement_rank"] <= 1
