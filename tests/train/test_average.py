"""The average of weights: its equations, where it counts from, what is kept of it, and exact resume."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.train.conftest import run

from nanogrove.config.overrides import resolve
from nanogrove.errors import NanogroveError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.runs.setup import build
from nanogrove.train.average import Average, AverageConfig, Modules
from nanogrove.train.checkpoint import load_checkpoint

CONFIG = ModelConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)


def averaged(config: AverageConfig, weights: list[torch.Tensor], first: int = 1) -> torch.Tensor:
    model = GPT(CONFIG).initialize(0).double()
    average = Average.of(Modules(model), config)
    average.modules.model.double()
    for count, weight in enumerate(weights, start=first):
        model.state_dict()["norm.weight"].copy_(weight)
        average.update(model.parameters(), count)
    return average.modules.model.state_dict()["norm.weight"]


def test_the_averages_are_their_equations() -> None:
    weights = list(torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    mean = torch.stack(weights).mean(0)
    torch.testing.assert_close(averaged(AverageConfig(tail=0.5), weights), mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(averaged(AverageConfig(half_life=1e6), weights), mean, atol=1e-5, rtol=0)
    decay, expected = 2 ** (-1 / 4), weights[0]
    for n, weight in enumerate(weights[1:], start=2):
        kept = min(decay, 1 - 1 / n)
        expected = kept * expected + (1 - kept) * weight
    torch.testing.assert_close(averaged(AverageConfig(half_life=4), weights), expected, atol=1e-12, rtol=0)
    assert torch.equal(averaged(AverageConfig(tail=0.5), weights, first=-38), weights[-1]), (
        "before it begins: the latest"
    )
    assert AverageConfig(tail=0.25).begins(100, 180) == 160
    assert AverageConfig(half_life=3).begins(100, 180) == 100


@pytest.mark.parametrize("average", [{"half_life": 3}, {"tail": 0.5}], ids=["half-life", "tail"])
def test_a_run_scores_and_keeps_the_average_and_is_resumed_bit_for_bit(
    tiny: Any, tmp_path: Path, resumes_exactly: Any, average: dict[str, float]
) -> None:
    preset = tiny(train={"steps": 9, "average": average}, evaluate={"every": 9}, save={"every": 3})
    resumes_exactly(preset, tmp_path, [("step", 4), ("step", 8)])
    current, best = (load_checkpoint(tmp_path / "whole" / "checkpoints" / name) for name in ("current", "best"))
    assert best.model.keys() == current.average.keys()
    for name, weight in best.model.items():
        assert torch.equal(weight, current.average[name])
        assert not torch.equal(weight, current.model[name])
    plain = run(tiny(train={"steps": 9}, evaluate={"every": 9}), tmp_path / "plain")
    with_average = run(preset, tmp_path / "again")
    losses = [[event.values["loss"] for event in events if event.kind == "step"] for events in (plain, with_average)]
    assert losses[0] == losses[1], "training goes on from the weights themselves"
    scores = [[event.values["loss"] for event in events if event.kind == "eval"] for events in (plain, with_average)]
    assert scores[0] != scores[1]


def test_an_average_that_does_not_fit_is_refused(tiny: Any, tmp_path: Path) -> None:
    preset = tiny(train={"steps": 4, "average": {"tail": 0.5}})
    run(preset, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "current" / "average.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["norm.weight"] = tensors["norm.weight"][:-1].contiguous()
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(NanogroveError, match="its checksum differs"):
        load_checkpoint(file.parent)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"average": {"tail": 0.5, "half_life": 2}}}, "half_life and tail are two kinds of average"),
        ({"train": {"average": {"tail": 1.5}}}, "train.average.tail: must be 1 or less"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(tiny: Any, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(NanogroveError, match=message) as error:
        build(resolve(tiny(**sections)))
    assert "\n" not in str(error.value)
