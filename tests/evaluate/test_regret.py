"""Exact regret: sums over all texts against sums written out, closed forms, and all tuples of a best-of-n."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from nanogrove.decoding.steering import reward_augmented, sequence_score
from nanogrove.errors import StudyError
from nanogrove.evaluate.regret import (
    best_of,
    divergence,
    expected,
    imitated,
    optimum,
    text_count,
    text_log_probs,
    text_rewards,
    texts,
    worth,
)
from nanogrove.evaluate.reward import terms_reward
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT

V, LENGTH = 3, 3
ALL = list(texts(V, LENGTH))


@pytest.fixture(scope="module")
def model() -> GPT:
    config = ModelConfig(n_layer=1, n_head=2, n_embd=8, vocab_size=V + 1, block_size=LENGTH, init_scale=8.0)
    return GPT(config).initialize(3)


@pytest.fixture
def world() -> tuple[Tensor, Tensor]:
    """Log-probabilities of a reference, and rewards, some of them equal."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0)
    return reference, torch.tensor([0.0, 1.0, 1.0, -0.5, 0.0, 2.0, 1.0], dtype=torch.float64)


def by_hand(model: GPT, text: tuple[int, ...], beta: float = 0.0) -> float:
    """The log-probability of a text, token by token; with `beta` steered by how often a prefix holds a 1."""
    total, tokens = 0.0, [V]
    for token in (*text, *([V] if len(text) < LENGTH else [])):
        scores = model(torch.tensor([tokens]))[0, -1].detach().double()
        scores += beta * torch.tensor([float([*tokens, candidate].count(1)) for candidate in range(V + 1)])
        total += float(scores.log_softmax(0)[token])
        tokens.append(token)
    return total


def test_texts_are_all_there_are_and_too_many_are_refused() -> None:
    assert ALL[:5] == [(), (0,), (1,), (2,), (0, 0)]
    assert len(set(ALL)) == len(ALL) == 1 + 3 + 9 + 27
    assert len(list(texts(8, 4))) == 4096 + 585
    with pytest.raises(StudyError, match=r"16\^8 texts are too many to enumerate, 1,048,576 at most"):
        texts(16, 8)


def test_the_number_of_texts_is_exact_at_the_limit() -> None:
    assert text_count(3, 3) == len(ALL)
    assert next(texts(1000, 2)) == next(texts(31, 4)) == ()
    for v, length in ((32, 4), (1024, 2), (2, 20)):
        with pytest.raises(StudyError, match="too many to enumerate"):
            texts(v, length)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_the_probability_of_a_text_is_that_of_its_tokens(model: GPT, beta: float) -> None:
    score = sequence_score(lambda rows: [float(row.count(1)) for row in rows])
    log_probs = text_log_probs(model, V, LENGTH, [reward_augmented(score, beta, V + 1)] if beta else [])
    assert log_probs.tolist() == pytest.approx([by_hand(model, text, beta) for text in ALL], abs=1e-5)
    assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert float(log_probs.std()) > 0.5  # not all alike


def test_rewards_are_those_of_texts_as_they_are_written() -> None:
    rewards = text_rewards(terms_reward({"0": 1.0, "2": -0.5}, True), V, LENGTH)
    assert rewards.tolist() == [(0 in text) - 0.5 * (2 in text) for text in ALL]


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_nothing_is_worth_more_than_the_optimum_and_regret_is_what_is_lacking(
    world: tuple[Tensor, Tensor], beta: float
) -> None:
    reference, rewards = world
    star = optimum(reference, rewards, beta)
    total = sum(math.exp(float(m)) * math.exp(float(r) / beta) for m, r in zip(reference, rewards, strict=True))
    assert star.value == pytest.approx(beta * math.log(total), rel=1e-12)
    assert worth(star.log_probs, reference, rewards, beta) == pytest.approx(star.value, rel=1e-12)
    assert divergence(star.log_probs, star.log_probs) == 0
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        policy = (3 * torch.randn(7, generator=generator, dtype=torch.float64)).log_softmax(0)
        lacking = star.value - worth(policy, reference, rewards, beta)
        assert lacking > 0
        assert beta * divergence(policy, star.log_probs) == pytest.approx(lacking, rel=1e-9)


def test_a_text_of_no_probability_adds_nothing(world: tuple[Tensor, Tensor]) -> None:
    reference, rewards = world
    policy = torch.full((7,), -torch.inf, dtype=torch.float64)
    policy[5] = 0.0
    assert expected(policy, rewards) == 2
    assert divergence(policy, reference) == pytest.approx(-float(reference[5]))
    assert divergence(reference, policy) == math.inf


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_best_of_n_is_that_of_all_tuples(world: tuple[Tensor, Tensor], n: int) -> None:
    reference, rewards = world
    chances = [0.0] * 7
    for drawn in itertools.product(range(7), repeat=n):
        best = max(drawn, key=lambda text: float(rewards[text]))  # the first of several
        chances[best] += math.exp(sum(float(reference[text]) for text in drawn))
    assert best_of(reference, rewards, n).exp().tolist() == pytest.approx(chances, rel=1e-9)


def test_imitation_comes_to_the_weighted_reference(world: tuple[Tensor, Tensor]) -> None:
    reference, rewards = world
    assert torch.allclose(imitated(reference, (rewards / 0.3).exp()), optimum(reference, rewards, 0.3).log_probs)
    best = imitated(reference, (rewards >= 1).double())
    assert best[0] == -torch.inf
    assert float(best.exp().sum()) == pytest.approx(1)
