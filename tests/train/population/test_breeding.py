"""Breeding: copies bit for bit, crossovers between their parents, mutations to scale, distances against the obvious."""

import numpy as np
import pytest
import torch

from nanogrove.data.batch import Batch
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.average import Average, AverageConfig
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.population.breeding import (
    bred,
    copy_members,
    crossover,
    moments,
    mutate,
    prediction_distance,
    weight_distance,
)
from nanogrove.train.state import TrainState

CONFIG = ModelConfig(vocab_size=31, block_size=12, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture(params=["adamw", "muon", "sgd"])
def state(request: pytest.FixtureRequest) -> TrainState:
    """Five members after three steps at rates of their own."""
    model = GPT(CONFIG, population=5).initialize(*range(5))
    made = TrainState(model, make_optimizer(model, OptimizerConfig(name=request.param)))
    tokens = torch.randint(0, 31, (4, 13), generator=torch.Generator().manual_seed(0))
    batch = Batch.uniform(
        tokens[:, :-1], tokens[:, 1:], torch.ones(4, 12, dtype=torch.bool), torch.zeros(4, dtype=torch.int64)
    )
    rates = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0], dtype=torch.float64)
    list(fit(made, lambda step: batch, next_token, Plan(seed=0, steps=3, lr_factor=lambda step: rates)))
    return made


def everything(state: TrainState) -> list[torch.Tensor]:
    return [*(p.detach().clone() for p in state.model.parameters()), *(m.clone() for m in moments(state))]


def test_a_copy_is_bit_for_bit_in_weights_and_moments_and_touches_nobody_else(state: TrainState) -> None:
    before = everything(state)
    assert len(before) > len(list(state.model.parameters()))
    copy_members(state, [0, 4, 2], [2, 2, 1])  # 2 is parent and child at once: what it was counts
    for old, new in zip(before, everything(state), strict=True):
        for child, source in {0: 2, 4: 2, 2: 1, 1: 1, 3: 3}.items():
            assert torch.equal(new[child], old[source])


def test_a_mutation_is_to_the_scale_of_each_tensor(state: TrainState) -> None:
    before = [p.detach().clone() for p in state.model.parameters()]
    mutate(state, 3, 0.05, seed=7)
    for old, new in zip(before, state.model.parameters(), strict=True):
        assert torch.equal(new[[0, 1, 2, 4]], old[[0, 1, 2, 4]])
        if old[3].numel() > 200:
            change = (new[3] - old[3]).detach().square().mean().sqrt() / old[3].square().mean().sqrt()
            assert float(change) == pytest.approx(0.05, rel=0.2)
    again = [p.detach().clone() for p in state.model.parameters()]
    copy_members(state, [3], [0])
    mutate(state, 3, 0.05, seed=7)
    assert not all(torch.equal(a[3], b[3]) for a, b in zip(again, state.model.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["layers", "interpolation", "spherical"])
def test_a_crossover_lies_between_its_parents(state: TrainState, kind: str) -> None:
    first = {name: p[1].detach().clone() for name, p in state.model.named_parameters()}
    second = {name: p[2].detach().clone() for name, p in state.model.named_parameters()}
    crossover(state, 1, [second], kind, np.random.default_rng(3))  # type: ignore[arg-type]
    taken: dict[str, set[str]] = {}
    for name, parameter in state.model.named_parameters():
        a, b, mixed = first[name].flatten(), second[name].flatten(), parameter[1].detach().flatten()
        if kind == "layers":
            layer = name[: len("blocks.0")] if name.startswith("blocks") else name.split(".")[0]
            same = {way for way, whole in (("a", a), ("b", b)) if torch.equal(mixed, whole)}
            assert same
            taken[layer] = taken.get(layer, {"a", "b"}) & same
        elif kind == "interpolation":
            torch.testing.assert_close((a - mixed).norm() + (mixed - b).norm(), (a - b).norm())
        elif float(a.norm()) and float(b.norm()):  # in the plane of both
            coordinates = torch.linalg.lstsq(torch.stack([a, b], 1), mixed[:, None])
            rebuilt = torch.stack([a, b], 1) @ coordinates.solution
            torch.testing.assert_close(rebuilt[:, 0], mixed, atol=1e-4, rtol=1e-3)
    if kind == "layers":
        assert all(taken.values()), "a layer came from both"
        assert len({min(ways) for ways in taken.values()}) == 2, "all came from one"


@pytest.mark.parametrize("kind", ["layers", "interpolation"])
def test_an_average_is_bred_as_its_weights_are(state: TrainState, kind: str) -> None:
    """Of weights that have moved by the same amount since, in all members, it is as far from them after breeding."""
    state.average = Average.of(state.modules, AverageConfig(half_life=2))
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(0.25)
    second = [{name: p[2].detach().clone() for name, p in each.items()} for each in bred(state)]
    copy_members(state, [1], [3])
    crossover(state, 1, second, kind, np.random.default_rng(3))  # type: ignore[arg-type]
    mutate(state, 1, 0.05, seed=7)
    for weight, average in zip(state.model.parameters(), state.average.parameters.values(), strict=True):
        torch.testing.assert_close(weight.detach() - average, torch.full_like(average, 0.25), atol=2e-6, rtol=0)


def test_the_arc_keeps_the_length_of_equally_long_parents() -> None:
    from nanogrove.train.population.breeding import slerp

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(50, generator=generator), dim=0) for _ in range(2))
    for share in (0.0, 0.3, 1.0):
        assert float(slerp(a, b, share).norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)


def test_distances_against_the_obvious(state: TrainState) -> None:
    flat = torch.cat([p.detach().flatten(1) for p in state.model.parameters()], 1).double()
    pairs = [(flat[a] - flat[b]).norm() for a in range(5) for b in range(a)]
    assert weight_distance(state) == pytest.approx(float(torch.stack(pairs).mean() / flat.norm(dim=1).mean()), rel=1e-5)
    copy_members(state, [0, 1, 2, 3], [4, 4, 4, 4])
    assert weight_distance(state) == 0
    drawn = torch.rand(3, 7, 11, generator=torch.Generator().manual_seed(0)).softmax(-1)
    wanted = [(drawn[a] - drawn[b]).abs().sum(-1).mean() / 2 for a in range(3) for b in range(a)]
    assert prediction_distance(drawn) == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-5)
    apart = torch.eye(2)[:, None]
    assert prediction_distance(apart) == pytest.approx(1.0)
