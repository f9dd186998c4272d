"""The replay of comparisons, in small: errors at the level or below, effects shown, measured differences read."""

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "comparison_replay.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("comparison_replay", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_arms_are_rarely_told_apart_and_unequal_ones_often(script: ModuleType) -> None:
    options = argparse.Namespace(repeats=60, level=0.05, seeds=8, cap=12)
    for name in ("normal", "t3"):
        for row in script.replay(name, script.SYNTHETIC[name], options, 0.0):
            assert script.clopper_pearson(row.decided, row.repeats, 0.001)[0] <= 0.05, row
        fixed, sequential = script.replay(name, script.SYNTHETIC[name], options, 2.0)
        assert min(fixed.decided, sequential.decided) > 50
        assert sequential.pairs < fixed.pairs == 8


def test_measured_differences_are_replayed_by_setting(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "differences.jsonl"
    rows = [{"setting": "text", "differences": [0.1, -0.1, 0.2]}, {"differences": [5.0, -5.0]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    draws = script.measured(path)
    assert list(draws) == ["text", "differences"]
    drawn = draws["text"](np.random.default_rng(0), 6)
    assert np.std(drawn) == pytest.approx(1)
    assert sorted(drawn) == pytest.approx(np.array([-0.1, -0.1, 0.1, 0.1, 0.2, 0.2]) / np.std([0.1, -0.1, 0.2]))


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (20, 20), (1, 400), (28, 400), (950, 1000)])
def test_the_interval_of_a_share_is_that_of_scipy(script: ModuleType, hits: int, trials: int) -> None:
    reference = stats.binomtest(hits, trials).proportion_ci(method="exact")
    assert script.clopper_pearson(hits, trials) == pytest.approx((reference.low, reference.high), abs=1e-9)
