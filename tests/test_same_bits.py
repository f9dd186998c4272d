"""Two fresh runs of one preset leave the same bits, whatever a clock says and whatever else the machine does."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nanogrove.config.catalog import list_presets, read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.runs.train import train
from nanogrove.train.autotune import cores

NETWORK = {"games-csv", "general", "muzero-general", "qa"}  # their sources are on the hub or on Kaggle
PRESETS = sorted(set(list_presets()) - NETWORK)
ALIKE = {  # presets that are tested with the slow ones, each with one of the same method and kind of data that is not
    "own-text": "quickstart",
    "evolve-pbt": "evolve",
    "rlm-deep": "rlm",
    **{
        f"self-improve-{task}": "self-improve-quick"
        for task in ("addition", "addition-quick", "copy", "maze", "multiplication", "reverse")
    },
}
TINY: dict[str, Any] = {
    "train.steps": 3,
    "train.tokens": None,
    "train.batch_size": 4,
    "train.device": "cpu",
    "model.block_size": 32,
    "model.n_layer": 1,
    "model.n_embd": 16,
    "model.n_head": 2,
    "model.n_inner": None,
    "evaluate.every": 2,
    "evaluate.tokens": 200,
    "sample.every": 2,
    "save.every": 2,
}
TINY_DATA: dict[str, dict[str, Any]] = {
    "text": {"data.vocab_size": 300, "sample.tokens": 20},
    "rlm": {"data.v": 16},
    "rhm": {"data.v": 8, "data.training_set": 64},
    "task": {"data.base": [1, 1], "data.held_out": 2, "sample.tokens": 20},
    "rewarded": {"data.prompt": "prompt", "sample.prompts": ["1"], "sample.tokens": 20},
    "preferences": {"sample.prompts": ["1"], "sample.tokens": 20},
    "dialogues": {"data.count": 200, "data.vocab_size": 300, "sample.tokens": 20, "model.block_size": 128},
}
TINY_METHOD: dict[str, dict[str, Any]] = {
    "self_improve": {"method.si_rounds": 1, "method.si_iter": 2, "method.examples": 4, "method.to": 2},
    "evolve": {"train.steps": None, "method.generations": 2, "method.steps_per_generation": 2, "evaluate.tokens": 1000},
    "align": {"method.rounds": 1, "method.steps_per_round": 2, "method.prompt": 4, "method.tokens": 20},
    "offline_rl": {"method.base_steps": 2},
    "policy_gradient": {"method.base_steps": 2, "method.samples": 2},
    "evolution_strategies": {"method.generations": 2, "method.population_size": 4},
    "ensemble": {"train.steps": 1, "method.members": 2, "method.distill_steps": 1},
}
BUSY = "while True: sum(range(100_000))"


def left(run: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The record less what lies under `time`, and every file of every checkpoint that holds tensors."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    record = [{key: value for key, value in line.items() if key != "time"} for line in lines]
    tensors = sorted((run / "checkpoints").rglob("*.safetensors"))
    return record, {str(path.relative_to(run)): path.read_bytes() for path in tensors}


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with rewards, and pairs of them, of which the shorter is preferred."""
    rows = [
        {"prompt": f"{n}", "text": "ab" * (n % 7 + 1), "reward": -n % 7, "chosen": "ab", "rejected": "ab" * (n % 5 + 2)}
        for n in range(200)
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def overrides(text_file: Path, rows_file: Path) -> Callable[..., list[str]]:
    """Makes a preset tiny, on small files, and leaves to `auto` all that it leaves; see `made_tiny`."""
    return partial(made_tiny, text_file, rows_file)


def made_tiny(text_file: Path, rows_file: Path, name: str) -> list[str]:
    """What makes a preset tiny."""
    preset = read_preset_file(name)
    data = preset["data"].get("type", "text")
    small = {**TINY, **TINY_DATA[data], **TINY_METHOD.get(preset.get("method", {}).get("name", "pretrain"), {})}
    if data == "task":
        small |= {"model.block_size": 64}  # holds the longest example
    if preset["data"].get("task") == "maze":
        small |= {"data.options": {"nodes": 5}}
    if data in ("rewarded", "preferences"):
        small |= {"data.path": str(rows_file)}
    if data == "text":
        small |= {"data.sources": str(text_file)}
    if "at_once" in preset.get("method", {}):
        small |= {"method.at_once": 4}
    if preset.get("sample", {}).get("tokens") == 0:
        small.pop("sample.tokens", None)
    return [f"{key}={json.dumps(value)}" for key, value in small.items()]


def trained(name: str, settings: list[str], out: Path) -> None:
    """Runs a preset to its end."""
    kinds = {event.kind for event in train(resolve(read_preset_file(name), settings), out)}
    assert "end" in kinds


@pytest.fixture
def wild_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopwatch that goes forward by anything between a nanosecond and minutes."""
    rng, elapsed = random.Random(0), 0.0

    def perf_counter() -> float:
        nonlocal elapsed
        elapsed += 10 ** rng.uniform(-9, 2)
        return elapsed

    monkeypatch.setattr(time, "perf_counter", perf_counter)


@pytest.fixture
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends on few tokens and without its report."""
    monkeypatch.setattr("nanogrove.runs.train.FINAL_TOKENS", 400)
    monkeypatch.setattr("nanogrove.runs.recorder.write_report", lambda run: None)


def test_what_is_left_to_slow_tests_is_like_another() -> None:
    for name, other in ALIKE.items():
        one, two = (read_preset_file(each) for each in (name, other))
        assert other not in ALIKE
        assert one.get("method", {}).get("name") == two.get("method", {}).get("name")
        assert one["data"].get("type", "text") == two["data"].get("type", "text")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in PRESETS]
)
def test_a_preset_leaves_the_same_bits_whatever_the_clock_says(
    name: str, overrides: Callable[..., list[str]], tmp_path: Path, wild_clock: None, short_end: None
) -> None:
    settings = overrides(name)
    for run in ("one", "two"):
        trained(name, settings, tmp_path / run)
    (record, tensors), again = left(tmp_path / "one"), left(tmp_path / "two")
    assert record == again[0]
    assert tensors == again[1]
    assert any(event["kind"] == "step" for event in record)
    assert "checkpoints/current/optimizer.safetensors" in tensors


@pytest.fixture
def load() -> Iterator[None]:
    """Two busy processes for each core."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2 * cores())]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_leaves_the_same_bits_under_load(
    name: str, overrides: Callable[..., list[str]], tmp_path: Path, request: pytest.FixtureRequest, short_end: None
) -> None:
    """Steps large enough for all cores, and for bfloat16 where the CPU has it."""
    grown: dict[str, int | None]
    grown = {"model.n_embd": 64, "model.n_layer": 2, "train.batch_size": 64, "train.steps": 2, "evaluate.every": 1}
    if read_preset_file(name).get("method", {}).get("name") == "evolve":
        grown |= {"train.steps": None}
    settings = [*overrides(name), *(f"{key}={json.dumps(value)}" for key, value in grown.items())]
    trained(name, settings, tmp_path / "one")
    request.getfixturevalue("load")
    trained(name, settings, tmp_path / "two")
    assert left(tmp_path / "one") == left(tmp_path / "two")
