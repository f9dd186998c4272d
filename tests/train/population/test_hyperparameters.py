"""Ranges of hyperparameters: bounds, factors, lists, what is refused."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.population.hyperparameters import Range, set_hyperparameters
from nanogrove.train.state import TrainState


def test_values_stay_within_bounds_over_ten_thousand_draws() -> None:
    varied, generator = Range(low=1e-4, high=0.3, factor=1.7, resample=0.05), np.random.default_rng(0)
    value, seen = varied.first(generator), []
    for _ in range(10_000):
        value = varied.explore(value, generator)
        seen.append(value)
    assert min(seen) == 1e-4
    assert max(seen) == 0.3
    inside = [math.log(v / 1e-4) / math.log(3000) for v in seen]
    assert [sum(low <= x < low + 0.25 for x in inside) > 1000 for low in (0, 0.25, 0.5, 0.75)] == [True] * 4


def test_a_step_is_a_factor_up_or_down() -> None:
    varied, generator = Range(low=1e-6, high=1.0, factor=2.0), np.random.default_rng(0)
    steps = Counter(round(math.log2(varied.explore(0.01, generator) / 0.01)) for _ in range(1000))
    assert set(steps) == {-1, 1}
    assert min(steps.values()) > 400


def test_a_list_is_walked_a_place_at_a_time_and_ends_at_its_ends() -> None:
    varied, generator = Range(values=[0.0, 0.1, 0.4]), np.random.default_rng(0)
    after = {value: {varied.explore(value, generator) for _ in range(50)} for value in (0.0, 0.1, 0.4)}
    assert after == {0.0: {0.0, 0.1}, 0.1: {0.0, 0.4}, 0.4: {0.1, 0.4}}


def test_first_values_come_from_the_start_and_cover_it_evenly_in_log_space() -> None:
    varied, generator = Range(low=1e-6, high=1.0, start=(1e-5, 1e-3)), np.random.default_rng(0)
    drawn = np.log10([varied.first(generator) for _ in range(2000)])
    assert drawn.min() >= -5
    assert drawn.max() <= -3
    assert drawn.mean() == pytest.approx(-4, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"low": 0.1, "high": 0.01}, "bounds are reversed"),
        ({"low": 0.1}, "set low and high, or values"),
        ({}, "set low and high, or values"),
        ({"low": 0.0, "high": 1.0}, "greater than 0"),
        ({"low": 0.1, "high": 1.0, "start": (0.01, 0.5)}, "does not run up within"),
        ({"low": 0.1, "high": 1.0, "values": [0.2]}, "leave them out"),
        ({"values": [math.nan]}, "finite number"),
        ({"low": 0.1, "high": math.inf}, "finite"),
        ({"low": 0.1, "high": 1.0, "factor": 0.5}, "greater than or equal to 1"),
    ],
)
def test_ranges_that_are_none(settings: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Range(**settings)


def test_dropout_of_each_member_drops_its_share() -> None:
    model = GPT(ModelConfig(vocab_size=31, block_size=64, n_layer=1, n_embd=32, n_head=2), 3).initialize(0, 0, 0)
    state = TrainState(model, make_optimizer(model, OptimizerConfig()))
    assert set_hyperparameters(state, {"dropout": [0.0, 0.2, 0.6]}) == 1.0
    dropped = []
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: dropped.append(inputs[0]))
    torch.manual_seed(0)
    tokens = torch.randint(0, 31, (3, 16, 64))
    model.train()(tokens)
    assert [(x == 0).float().mean().item() for x in dropped[0]] == pytest.approx([0.0, 0.2, 0.6], abs=0.01)
    whole = model.eval()(tokens)
    dropped.clear()
    model.train()
    means = torch.stack([model(tokens) for _ in range(3)]).mean(0)
    assert torch.equal(dropped[0][0], dropped[1][0])
    assert (means[0] - whole[0]).abs().max() < 1e-5, "a member that drops nothing is as in evaluation"
