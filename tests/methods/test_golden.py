"""Every method's losses are those of tests/golden/losses.json, which `python tests/golden/make.py` writes.

Each case is a run of 8 or 9 steps of a model of some 7,000 parameters, in float32 on one thread. A distance is that
of two numbers over the golden one, or over 1 where that is less. Measured for the 15 cases:

    the same code on the same CPU                                                     0
    instructions of AVX2 in place of AVX-512 (ATEN, oneDNN and MKL)                   at most 1.8e-6
    instructions of SSE4                                                              at most 3.6e-6
    learning rates 1 % higher                                                         at least 3.4e-4
"""

import importlib.util
import json
from pathlib import Path

import pytest

from nanogrove.methods import METHODS

MAKE = Path(__file__).parents[1] / "golden" / "make.py"
spec = importlib.util.spec_from_file_location("golden_make", MAKE)
assert spec is not None
assert spec.loader is not None
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

GOLDEN = json.loads(make.GOLDEN.read_text("utf-8"))
TOLERANCE = 2e-5


@pytest.mark.parametrize("case", make.CASES)
def test_losses_are_the_golden_ones(case: str, tmp_path: Path) -> None:
    assert make.distance(make.curves(case, tmp_path), GOLDEN[case]) < TOLERANCE


SEEN = ("pretrain", "evolve", "policy_gradient, grpo")  # by fast tests; the curve of each case is tested by one above


@pytest.mark.parametrize(
    "case", [*SEEN, *(pytest.param(case, marks=pytest.mark.slow) for case in make.CASES if case not in SEEN)]
)
def test_a_learning_rate_one_per_cent_higher_is_seen(case: str, tmp_path: Path) -> None:
    assert make.distance(make.curves(case, tmp_path, rate=1.01), GOLDEN[case]) > 10 * TOLERANCE


def test_every_method_has_a_curve() -> None:
    assert {make.preset_of(case).get("method", {"name": "pretrain"})["name"] for case in make.CASES} == METHODS.keys()
    assert GOLDEN.keys() == make.CASES.keys()
