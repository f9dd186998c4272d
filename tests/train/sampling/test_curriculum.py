"""A curriculum trains on the easiest rows first, and nothing else changes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.data.batch import Batch
from nanogrove.errors import PresetError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.runs.train import train
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.sampling.curriculum import CurriculumConfig, easiest
from nanogrove.train.state import TrainState

B, T, V = 8, 6, 11


def state() -> TrainState:
    model = GPT(ModelConfig(vocab_size=V, block_size=T, n_layer=1, n_head=1, n_embd=8, dropout=0.2)).initialize(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return TrainState(model, make_optimizer(model, OptimizerConfig()))


def batch(step: int) -> Batch:
    windows = torch.randint(0, V, (B, T + 1), generator=torch.Generator().manual_seed(step))
    mask, weight = torch.ones(B, T, dtype=torch.bool), torch.ones(B, T)
    mask[1, :4] = False
    weight[3] = 2
    return Batch(windows[:, :-1], windows[:, 1:], mask, weight, torch.arange(B))


def plan(**changes: Any) -> Plan:
    return Plan(seed=0, steps=20, lr_factor=lambda step: 1.0, **changes)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_what_stays_are_the_rows_of_the_lowest_loss_in_the_order_they_had(accumulation: int) -> None:
    made = state()
    made.model.train()
    some = easiest(batch, made, CurriculumConfig(start=0.5, until=0.5), plan(accumulation=accumulation))
    exact = GPT(made.model.config).double().eval()
    exact.load_state_dict(made.model.state_dict())
    for step, count in ((0, 4), (1, 5), (4, 6), (7, 7), (10, 8), (19, 8)):
        given, kept = batch(step), some(step)
        nll = exact(given.tokens, given.targets)
        losses = []
        for row in range(B):
            losses.append(nll[row][given.mask[row]].mean().item())
        rows = sorted(sorted(range(B), key=losses.__getitem__)[:count])
        assert kept.source.tolist() == rows, step
        for name in ("tokens", "targets", "mask", "weight"):
            assert torch.equal(getattr(kept, name), getattr(given, name)[rows])
    assert made.model.training, "as it was found"


def test_the_share_rises_in_a_straight_line() -> None:
    config = CurriculumConfig(start=0.2, until=0.5)
    assert [round(config.share(step, 100), 6) for step in (0, 25, 50, 99)] == [0.2, 0.6, 1.0, 1.0]


def test_a_run_and_its_resume_end_alike_with_sources_and_heads(tiny: Any, tmp_path: Path, resumes_exactly: Any) -> None:
    (tmp_path / "other.txt").write_text("another text of quite other words, again and again\n" * 200)
    values = tiny(
        method={"name": "pretrain", "curriculum": {"start": 0.25, "until": 0.6}},
        auxiliary={"enable_value": True, "enable_multi_token": True, "value_horizon": 4},
        train={"steps": 20, "batch_size": 8, "accumulation": 2},
        sample={"tokens": 0},
    )
    values["data"]["sources"] = [values["data"]["sources"], str(tmp_path / "other.txt")]
    record = resumes_exactly(values, tmp_path, [("step", 6), ("step", 15)])
    steps = [line for line in record if line["kind"] == "step"]
    assert [round(line["share"], 4) for line in steps[::6]] == [0.25, 0.625, 1.0, 1.0]
    seen = [0, *(line["tokens"] for line in steps)]
    rows = [(b - a) // 16 for a, b in pairwise(seen)]
    assert rows[0] == 2
    assert rows == sorted(rows), "more and more of them"
    assert rows[12:] == [8] * 8


def test_accumulation_changes_nothing(tiny: Any, tmp_path: Path) -> None:
    losses = []
    for accumulation in (1, 2):
        values = tiny(
            method={"name": "pretrain", "curriculum": {}},
            model={"dropout": 0.0},
            train={"steps": 12, "batch_size": 8, "accumulation": accumulation},
            sample={"tokens": 0},
        )
        events = list(train(resolve(values), tmp_path / str(accumulation)))
        losses.append([event.values["loss"] for event in events if event.kind == "step"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize(
    ("curriculum", "said"),
    [
        ({"start": 0}, "method.curriculum.start"),
        ({"until": 1.5}, "method.curriculum.until"),
        ({"percentile": 0.5}, "method.curriculum.percentile"),
    ],
)
def test_what_cannot_be_is_named(curriculum: dict, said: str, tiny: Any) -> None:
    with pytest.raises(PresetError, match=said):
        resolve(tiny(method={"name": "pretrain", "curriculum": curriculum}))
