"""Selection in a generation: its level and its power on simulated scores, and what each half of the data decides."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from nanogrove.methods.evolve.choice import choose
from nanogrove.methods.evolve.config import Config


@pytest.fixture(scope="module")
def simulated() -> ModuleType:
    """`benchmarks/selection.py`, which prints the same figures for more generations."""
    path = Path(__file__).parents[3] / "benchmarks" / "selection.py"
    spec = importlib.util.spec_from_file_location("selection", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("members", [4, *(pytest.param(number, marks=pytest.mark.slow) for number in (8, 16))])
def test_equal_members_replace_each_other_in_few_generations(members: int, simulated: ModuleType) -> None:
    """Windows of a document are alike, so a test that took windows for independent would fail here, too."""
    assert simulated.false_positives("documents", members, 2000, "truncation", 0.05) <= 0.06


@pytest.mark.parametrize("members", [4, 16])
def test_worse_members_are_replaced(members: int, simulated: ModuleType) -> None:
    assert simulated.power("windows", members, 200, 0.05, 0.05) > 0.95
    assert simulated.power("documents", members, 200, 0.05, 0.1) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["windows", "documents"])
@pytest.mark.parametrize("selection", ["truncation", "tournament"])
@pytest.mark.parametrize("members", [4, 8, 16])
def test_the_level_holds_for_every_way(kind: str, selection: str, members: int, simulated: ModuleType) -> None:
    assert simulated.false_positives(kind, members, 5000, selection, 0.05) <= 0.06
    assert simulated.same_data(kind, members, 500) > 0.2, "as it was to test on what ranked"


def settings(**changes: Any) -> Config:
    return Config.model_validate({"population_size": 8, "significance": 0.05, **changes})


def test_one_half_ranks_and_the_other_tests() -> None:
    """What the test half says changes who is spared, not who is proposed."""
    generator = np.random.default_rng(0)
    documents = torch.arange(60)
    samples = torch.from_numpy(generator.normal(0, 1, (8, 60)))
    first = choose(settings(), samples, documents, 0, 1)
    proposed = set(first.parents) | set(first.not_significant)
    assert len(proposed) == 2
    changed = 0
    for column in range(60):
        other = samples.clone()
        other[list(proposed), column] -= 100
        chosen = choose(settings(), other, documents, 0, 1)
        changed += set(chosen.parents) | set(chosen.not_significant) != proposed
    assert changed == 30, "the half that ranks"
    others = [choose(settings(), samples, documents, 0, generation).not_significant for generation in range(2, 9)]
    assert any(set(other) != set(first.not_significant) for other in others)


def test_islands_are_tested_together() -> None:
    """The level is of a generation, so with more islands each test is the stricter."""
    found = 0
    for generation in range(400):
        generator = np.random.default_rng(generation)
        samples = torch.from_numpy(generator.normal(0, 1, (16, 60)))
        islands = settings(population_size=16, islands=4)
        found += bool(choose(islands, samples, torch.arange(60), 0, generation).parents)
    assert found / 400 <= 0.083, "three standard errors above .05; islands tested one by one come to .19"


def test_members_without_a_score_are_replaced_untested() -> None:
    samples = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (8, 60)))
    samples[[1, 6], 3] = torch.nan
    chosen = choose(settings(), samples, torch.arange(60), 0, 1)
    assert {1, 6} <= set(chosen.parents)
    assert not {1, 6} & {*chosen.parents.values(), *chosen.not_significant}


def test_without_a_test_all_data_ranks_and_all_proposals_are_kept() -> None:
    samples = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (8, 60)))
    chosen = choose(settings(significance=None), samples, torch.arange(60), 0, 1)
    order = samples.mean(1).argsort().tolist()
    assert set(chosen.parents) == set(order[-2:])
    assert set(chosen.parents.values()) <= set(order[:2])
    assert chosen.not_significant == []
