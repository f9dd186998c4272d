"""V: the closed form against brute force, no text's V has seen its reward, and noise stays in the advantages."""

import numpy as np
import pytest
import torch

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.objectives.value_baseline import STRENGTHS, cross_fitted, ridge

WIDTH = 128


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    """The states of a model after 64 prompts, fewer than it has dimensions."""
    model = GPT(ModelConfig(vocab_size=50, block_size=8, n_layer=2, n_head=4, n_embd=WIDTH)).initialize(0)
    prompts = torch.randint(0, 50, (64, 8), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.hidden(prompts)[:, -1].double().numpy()


def names(count: int, texts: int = 1) -> list[str]:
    return [f"prompt {n // texts}" for n in range(count)]


def test_pure_noise_stays_in_the_advantages(states: np.ndarray) -> None:
    """Rewards that have nothing to do with prompts, and V has more coefficients than texts."""
    ratios, explained = [], []
    for draw in range(50):
        rewards = np.random.default_rng(draw).normal(size=64)
        baseline = cross_fitted(states, rewards, names(64), np.arange(64), seed=draw)
        ratios.append((rewards - baseline.values).std() / rewards.std())
        assert baseline.r2 is not None
        explained.append(baseline.r2)
    assert min(ratios) > 0.9
    assert np.mean(explained) < 0.02


def test_what_prompts_say_of_rewards_is_explained(states: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    signal = states[:, :4] @ np.array([1.0, -2.0, 0.5, 1.0])
    signal = np.repeat(signal / signal.std(), 20)
    rewards = 5 + signal + 0.3 * generator.normal(size=len(signal))
    features = np.repeat(states, 20, axis=0)
    baseline = cross_fitted(features, rewards, names(len(rewards), 20), np.arange(len(rewards)), seed=0)
    assert baseline.r2 is not None
    assert baseline.r2 > 0.5
    assert np.corrcoef(baseline.values, signal)[0, 1] ** 2 > 0.6


def test_no_text_s_v_has_seen_the_rewards_of_its_prompt(states: np.ndarray) -> None:
    """Neither in the fit nor in the choice of its strength: the others' rewards decide V to the last bit."""
    rewards = np.random.default_rng(1).normal(size=64)
    prompts, train = names(64, 2), np.arange(50)
    before = cross_fitted(states, rewards, prompts, train, seed=3).values
    for row in (0, 7, 30):
        other = rewards.copy()
        other[row] += 50.0
        after = cross_fitted(states, other, prompts, train, seed=3).values
        both = [row // 2 * 2, row // 2 * 2 + 1]
        assert np.array_equal(after[both], before[both])
        assert not np.allclose(after, before)
    held_out = rewards.copy()
    held_out[60:] -= 9.0
    assert np.array_equal(cross_fitted(states, held_out, prompts, train, seed=3).values, before)


def test_errors_of_leaving_one_out_are_those_of_fitting_again() -> None:
    generator = np.random.default_rng(2)
    features, rewards = generator.normal(size=(12, 5)), generator.normal(size=12)
    counts = generator.integers(1, 6, size=12)
    fit = ridge(features, rewards, counts)
    share = counts / counts.sum()
    x = features - share @ features
    scale = np.trace((x.T * share) @ x) / 5
    for strength, error in zip(STRENGTHS, fit.errors, strict=True):
        squares = []
        for left_out in range(12):
            rest = np.arange(12) != left_out
            design = np.column_stack([features, np.ones(12)])[rest] * np.sqrt(share[rest])[:, None]
            penalty = np.diag([np.sqrt(strength * scale)] * 5 + [0.0])[:5]
            target = np.concatenate([rewards[rest] * np.sqrt(share[rest]), np.zeros(5)])
            fitted = np.linalg.lstsq(np.vstack([design, penalty]), target, rcond=None)[0]
            squares.append((rewards[left_out] - features[left_out] @ fitted[:-1] - fitted[-1]) ** 2)
        assert error == pytest.approx(share @ np.array(squares), rel=1e-6)


@pytest.mark.parametrize("prompt", ["", "one prompt for all"])
def test_without_prompts_that_differ_v_is_the_mean_of_other_texts(prompt: str) -> None:
    rewards = np.random.default_rng(4).normal(3.0, 2.0, size=40)
    baseline = cross_fitted(np.ones((40, 6)), rewards, [prompt] * 40, np.arange(30), seed=0)
    assert baseline.values[30:] == pytest.approx(rewards[:30].mean())
    assert baseline.r2 is not None
    assert baseline.r2 <= 0
    means = {round(value, 9) for value in baseline.values[:30]}
    assert len(means) == 10
    for value in means:
        fold = np.isclose(baseline.values[:30], value)
        assert value == pytest.approx(rewards[:30][~fold].mean())


def test_a_single_text_and_rewards_that_are_all_alike() -> None:
    assert cross_fitted(np.ones((2, 3)), np.array([2.0, 5.0]), ["a", "b"], np.array([0]), 0).values.tolist() == [
        2.0,
        2.0,
    ]
    alike = cross_fitted(np.eye(6), np.full(6, 2.0), names(6), np.arange(6), 0)
    assert alike.r2 is None
    assert alike.values == pytest.approx(np.full(6, 2.0))
