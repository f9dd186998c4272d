"""A new optimizer is one file and one line: Lion, written here, in every place where a run meets its optimizer."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.data.batch import Batch
from nanogrove.errors import PresetError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.members import stack, unstack
from nanogrove.runs.estimate import estimate
from nanogrove.runs.train import train
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.optim.rules import RULES, moments_per_weight
from nanogrove.train.plan import Plan
from nanogrove.train.population.breeding import copy_members, reset_moments
from nanogrove.train.state import TrainState, load_optimizer_tensors, optimizer_tensors

LION = '''
"""Lion (Chen 2023, arXiv 2302.06675): a step of one length for all, along the sign of a momentum."""

import torch
from nanogrove.train.optim.update_rule import Numbers, UpdateRule, UpdateSettings, elementwise

def kernel(numbers: Numbers, settings: UpdateSettings) -> None:
    first, second = settings.betas
    (momenta,) = numbers.moments
    for weight, gradient, momentum in zip(numbers.weights, numbers.gradients, momenta, strict=True):
        direction = torch.lerp(gradient, momentum, first).sign()
        weight.mul_(1 - numbers.lr * numbers.weight_decay).add_(direction, alpha=-numbers.lr)
        momentum.lerp_(gradient, 1 - second)

LION = UpdateRule(moments=("momentum",), update=elementwise(kernel))
'''
CONFIG = ModelConfig(vocab_size=31, block_size=12, n_layer=2, n_head=2, n_embd=12)  # members fill no registers
SETTINGS = {"name": "lion", "lr": 0.001, "betas": (0.9, 0.99)}


@pytest.fixture(autouse=True)
def lion(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one file, and the one line."""
    path = tmp_path_factory.mktemp("optim") / "lion.py"
    path.write_text(LION)
    spec = importlib.util.spec_from_file_location("lion", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(RULES, "lion", module.LION)
    return path


def batches(step: int) -> Batch:
    """Four members' batches."""
    tokens = torch.randint(0, 31, (4, 6, 13), generator=torch.Generator().manual_seed(step))
    mask = torch.ones(4, 6, 12, dtype=torch.bool)
    return Batch.uniform(tokens[..., :-1], tokens[..., 1:], mask, torch.zeros(4, 6, dtype=torch.int64))


@pytest.mark.parametrize("factors", [None, [0.5, 1.0, 2.0, 0.01]], ids=["one rate", "rates by member"])
def test_a_member_is_the_run_alone(factors: list[float] | None) -> None:
    config = OptimizerConfig(**SETTINGS)
    singles = [GPT(CONFIG).initialize(seed) for seed in range(4)]
    together = GPT(CONFIG, 4)
    together.load_state_dict(stack([single.state_dict() for single in singles]))
    state = TrainState(together, make_optimizer(together, config))
    factor = 1.0 if factors is None else torch.tensor(factors, dtype=torch.float64)
    list(fit(state, batches, next_token, Plan(seed=0, steps=4, lr_factor=lambda step: factor)))
    for p, single in enumerate(singles):
        alone = TrainState(single, make_optimizer(single, config))
        rate = 1.0 if factors is None else factors[p]
        plan = Plan(seed=0, steps=4, lr_factor=lambda step, rate=rate: rate)
        list(fit(alone, lambda step, p=p: batches(step).member(p), next_token, plan))
        for key, tensor in unstack(together.state_dict(), p).items():
            assert torch.equal(tensor, single.state_dict()[key]), key
        for key, moment in optimizer_tensors(alone).items():
            assert torch.equal(moment, optimizer_tensors(state)[key][p]), key


def test_it_computes_lion() -> None:
    model = GPT(CONFIG).initialize(0).double()
    optimizer = make_optimizer(model, OptimizerConfig(**SETTINGS, weight_decay=0.5))
    weight, bias = (model.get_parameter(f"blocks.0.mlp.up.{name}") for name in ("weight", "bias"))
    expected = {weight: weight.detach().clone(), bias: bias.detach().clone()}
    momenta = {parameter: torch.zeros_like(parameter) for parameter in expected}
    for step in range(3):
        torch.manual_seed(step)
        optimizer.set_rate(1.0)
        for parameter, value in expected.items():
            gradient = parameter.grad = torch.randn_like(parameter)
            decay = 0.5 if parameter is weight else 0.0
            update = (0.9 * momenta[parameter] + 0.1 * gradient).sign()
            expected[parameter] = value - 0.001 * (update + decay * value)
            momenta[parameter] = 0.99 * momenta[parameter] + 0.01 * gradient
        optimizer.step()
    for parameter, value in expected.items():
        torch.testing.assert_close(parameter.detach(), value, atol=1e-12, rtol=0)


def test_a_preset_may_name_it_and_a_wrong_name_is_refused_with_all_there_are(tiny: Any) -> None:
    assert resolve(tiny(), ["optimizer.name=lion"]).optimizer.name == "lion"
    said = r"optimizer.name=lyon: must be 'adamw', 'sgd', 'muon' or 'lion', and 'lyon' was given"
    with pytest.raises(PresetError, match=said):
        resolve(tiny(), ["optimizer.name=lyon"])


def test_a_run_that_stops_goes_on_with_its_moments(tiny: Any, tmp_path: Path) -> None:
    preset = resolve(tiny(optimizer=SETTINGS, sample={"tokens": 0}, train={"steps": 8}))
    for out in ("whole", "parted"):
        for event in train(preset, tmp_path / out):
            if out == "parted" and (event.kind, event.step) == ("step", 6):
                break
    for _ in train(preset, tmp_path / "parted", resume=True):
        pass
    records = [(tmp_path / out / "events.jsonl").read_text().splitlines() for out in ("whole", "parted")]
    events = [[{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines] for lines in records]
    assert events[0] == events[1]
    files = [tmp_path / out / "checkpoints" / "current" for out in ("whole", "parted")]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (files[0] / name).read_bytes() == (files[1] / name).read_bytes()


def test_its_memory_is_counted(tiny: Any) -> None:
    assert [moments_per_weight(name) for name in ("adamw", "sgd", "muon", "lion")] == [2, 1, 2, 1]
    memory = {name: estimate(resolve(tiny(optimizer={"name": name})))["memory_bytes"] for name in RULES}
    assert memory["lion"] == memory["sgd"] < memory["adamw"]


def test_its_moments_are_bred_and_go_through_a_checkpoint() -> None:
    model = GPT(CONFIG, 4).initialize(0, 1, 2, 3)
    state = TrainState(model, make_optimizer(model, OptimizerConfig(**SETTINGS)))
    list(fit(state, batches, next_token, Plan(seed=0, steps=2, lr_factor=lambda step: 1.0)))
    copy_members(state, [0], [3])
    reset_moments(state, [1])
    moments = {key: tensor.clone() for key, tensor in optimizer_tensors(state).items()}
    assert all(key.endswith("/momentum") for key in moments)
    assert all(torch.equal(moment[0], moment[3]) and not moment[1].any() for moment in moments.values())
    load_optimizer_tensors(state, moments)
    assert all(torch.equal(tensor, moments[key]) for key, tensor in optimizer_tensors(state).items())


SHARDED = """
import sys, torch
from pathlib import Path
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.optim.rules import RULES
from nanogrove.train.parallel.ranks import joined
from nanogrove.train.parallel.sharding import Sharding
from nanogrove.train.state import TrainState, optimizer_tensors
sys.path.insert(0, sys.argv[1])
from lion import LION
RULES["lion"] = LION
with joined("cpu") as ranks:
    model = GPT(ModelConfig(vocab_size=31, block_size=8, n_layer=1, n_head=2, n_embd=16, bias=False)).initialize(0)
    state = TrainState(model, make_optimizer(model, OptimizerConfig(name="lion", lr=0.001)))
    with Sharding(ranks, torch.device("cpu")).spread(state) as part:
        tokens = torch.arange(32).view(4, 8) % 31
        for part.step in (1, 2):
            part.optimizer.set_rate(1.0)
            part.model(tokens, tokens).mean().div(ranks.world).backward()
            part.gradients()
            part.optimizer.step()
            part.optimizer.zero_grad()
    if ranks.first:
        torch.save((model.state_dict(), optimizer_tensors(state)), sys.argv[2])
"""


def test_sharded_it_is_the_same_optimizer(lion: Path, tmp_path: Path, forked: Any) -> None:
    """Of three ranks some have nothing of the shortest tensors."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    outcomes = forked.ranks(*[[lion.parent, tmp_path / "whole.pt"]] * 3, script=tmp_path / "sharded.py")
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes[0].err
    weights, moments = torch.load(tmp_path / "whole.pt")
    config = ModelConfig(vocab_size=31, block_size=8, n_layer=1, n_head=2, n_embd=16, bias=False)
    model = GPT(config).initialize(0)
    state = TrainState(model, make_optimizer(model, OptimizerConfig(name="lion", lr=0.001)))
    tokens = torch.arange(32).view(4, 8) % 31
    for _ in range(2):
        state.optimizer.set_rate(1.0)
        model(tokens, tokens).mean().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(weights[key], tensor, atol=1e-6, rtol=1e-4)
    expected = optimizer_tensors(state)
    assert moments.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(moments[key], tensor, atol=1e-6, rtol=1e-3)
