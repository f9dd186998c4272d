"""A run that does not fit in memory is refused from its settings, before its data is prepared."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.errors import PresetError
from nanogrove.methods import load_method
from nanogrove.model.heads import Heads
from nanogrove.runs import memory
from nanogrove.runs.memory import check_memory, model_bytes
from nanogrove.runs.setup import build
from nanogrove.train.optim.optimizer import make_optimizer
from nanogrove.train.parallel.ranks import ALONE

CPU = torch.device("cpu")
BRED = {"name": "evolve", "population_size": 10_000}
COPIES = {"name": "evolution_strategies", "at_once": 10_000, "population_size": 10_000}


def check(values: dict[str, Any], length: int = 16, device: torch.device = CPU) -> None:
    preset = resolve(values)
    check_memory(preset, load_method(preset.method.name), preset.model, length, device, ALONE)


@pytest.mark.parametrize(
    ("sections", "length", "message"),
    [
        ({"model": {"n_embd": 1_000_000}}, 1, "most of it is for the models; lower model.n_embd, model.n_layer"),
        ({"model": {"vocab_size": 100_000_000, "n_embd": 4000}}, 1, "lower model.n_embd"),
        ({"model": {"block_size": 10_000_000}}, 10_000_000, "for activations; lower model.block_size, or train.batch"),
        ({"train": {"batch_size": 10**15, "accumulation": "auto"}}, 16, "for the batch; lower train.batch_size"),
        ({"method": BRED, "train": {"steps": None}, "model": {"n_embd": 1024}}, 1, "or train fewer models at once"),
        ({"method": COPIES, "model": {"n_embd": 1024}}, 1, "most of it is for the models"),
    ],
)
def test_what_does_not_fit(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], length: int, message: str
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 20 * 10**9)
    check(tiny(), length=16)
    with pytest.raises(
        PresetError, match=r"this run needs .* [GTPE]B of memory at least, and 20.0 GB are free"
    ) as error:
        check(tiny(**sections), length)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("free", "reserved", "machine", "message"),
    [
        (10**9, 0, 10**9, None),
        (1000, 0, 10**9, r"this run needs .*[kM]B of memory of cuda:1 at least, and 1.0 kB are free"),
        (1000, 10**9, 10**9, None),  # torch holds what it has freed, and gives it again
        (10**9, 0, 1000, r"this run needs .*kB of memory at least, and 1.0 kB are free; most of it is for the models"),
    ],
)
def test_a_device_and_the_machine_both_need_room(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, free: int, reserved: int, machine: int, message: str | None
) -> None:
    device = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", {device: (free, 80 * 10**9)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {device: reserved}.__getitem__)
    monkeypatch.setattr(memory, "free_bytes", lambda: machine)
    with pytest.raises(PresetError, match=message) if message else nullcontext():
        check(tiny(), device=device)


def test_it_is_refused_before_data_is_read_and_a_folder_begun(command: Any, tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text(json.dumps(tiny(data={"sources": "nowhere.txt"})))
    error = command("train", tmp_path / "preset.json", "model.n_embd=1000000", "--out", tmp_path / "run").error()
    assert "this run needs" in error
    assert not (tmp_path / "run").exists()


def test_weights_gradients_and_moments_are_counted_as_they_are(tiny: Any) -> None:
    heads = {"enable_value": True, "enable_dynamics": True, "enable_policy": True}
    setup = build(resolve(tiny(auxiliary=heads)))
    state = setup.new_state()
    weights = sum(parameter.nbytes for _, parameter in state.named_parameters())
    assert isinstance(state.heads, Heads)
    assert make_optimizer(state.model, setup.preset.optimizer).state == {}
    assert model_bytes(setup.preset, setup.method, setup.model_on_data, ALONE) == (weights, 3 * weights)
