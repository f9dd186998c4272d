"""What `auto` settles: measured, kept for the machine, and never asked twice."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.train import auto

CONFIG = ModelConfig(vocab_size=31, block_size=12, n_layer=2, n_head=2, n_embd=16)
CPU = torch.device("cpu")


@pytest.fixture
def measured(tmp_path: Path, monkeypatch) -> list[tuple[int, str, int]]:
    """Makes every measurement a made-up figure and lists what was asked: threads, format, micro-batches."""
    monkeypatch.setenv("NANOGROVE_CACHE", str(tmp_path))
    monkeypatch.setattr(auto, "cores", lambda: 2)
    monkeypatch.setattr(auto.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    monkeypatch.setattr(auto, "_bfloat16_is_hopeless", lambda device: False)
    asked: list[tuple[int, str, int]] = []

    def block_ms(config, batch_size: int, accumulation: int, device, precision: str) -> float:
        asked.append((torch.get_num_threads(), precision, accumulation))
        return {"float32": 10.0, "bfloat16": 9.5}[precision] / torch.get_num_threads() / (2 if accumulation == 2 else 1)

    monkeypatch.setattr(auto, "_block_ms", block_ms)
    return asked


def test_the_faster_is_taken_only_where_it_is_worth_it(measured: list) -> None:
    threads = torch.get_num_threads()
    found = auto.settle(CONFIG, 8, 100, CPU)
    assert (found.threads, found.precision, found.accumulation) == (2, "float32", 2)
    assert measured == [(2, "float32", 1), (1, "float32", 1), (2, "bfloat16", 1), (2, "float32", 2), (2, "float32", 4)]
    assert torch.get_num_threads() == threads


def test_it_is_measured_once_a_machine_and_model(measured: list, tmp_path: Path) -> None:
    first = auto.settle(CONFIG, 8, 100, CPU)
    count = len(measured)
    assert auto.settle(CONFIG, 8, 100, CPU) == first
    assert len(measured) == count
    auto.settle(CONFIG.model_copy(update={"n_embd": 32}), 8, 100, CPU)
    assert len(measured) == 2 * count
    for path in (tmp_path / "auto").iterdir():
        path.write_text("damaged")
    assert auto.settle(CONFIG, 8, 100, CPU) == first


def test_compiling_waits_for_a_run_that_pays_it_back(measured: list, monkeypatch) -> None:
    monkeypatch.setattr(auto.shutil, "which", lambda name: "/usr/bin/c++")
    assert not auto.settle(CONFIG, 8, 100, CPU).compile
    assert auto.settle(CONFIG, 8, 10_000_000, CPU).compile
    monkeypatch.setattr(auto.shutil, "which", lambda name: None)
    assert not auto.settle(CONFIG, 8, 10_000_000, CPU).compile


def test_what_a_busy_machine_measures_is_not_kept(measured: list, monkeypatch) -> None:
    monkeypatch.setattr(auto.os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    auto.settle(CONFIG, 8, 100, CPU)
    count = len(measured)
    auto.settle(CONFIG, 8, 100, CPU)
    assert len(measured) == 2 * count


def test_a_real_measurement_gives_settings_and_figures(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NANOGROVE_CACHE", str(tmp_path))
    monkeypatch.setattr(auto.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    found = auto.settle(CONFIG, 4, 10, CPU)
    assert found.precision in ("float32", "bfloat16")
    assert all(ms > 0 for ms in found.times.values())
    (path,) = (tmp_path / "auto").iterdir()
    assert json.loads(path.read_text())["times"] == found.times


def test_a_gpu_with_little_memory_gets_more_micro_batches() -> None:
    whole = auto.activation_bytes(CONFIG, 32)
    assert auto.fewest_micro_batches(CONFIG, 32, whole) == 1
    assert auto.fewest_micro_batches(CONFIG, 32, whole - 1) == 2
    assert auto.fewest_micro_batches(CONFIG, 32, whole // 8) == 8
    assert auto.fewest_micro_batches(CONFIG, 6, 0) == 4  # a row cannot be cut; the run will say what is missing
    assert auto.activation_bytes(CONFIG, 1) * 32 == whole


def test_decoding_takes_the_faster_format_and_asks_once(measured: list, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(CONFIG).initialize(0)
    times = iter([3.0, 3.0, 3.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(auto, "_timed", lambda work, device: next(times))
    assert auto.fastest_decoding(model) == "bfloat16"
    assert auto.fastest_decoding(model) == "bfloat16", "it was measured again"


def test_where_bfloat16_is_hopeless_it_is_not_tried(measured: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_bfloat16_is_hopeless", lambda device: True)
    monkeypatch.setattr(auto, "generate", None)
    assert auto.fastest_decoding(GPT(CONFIG).initialize(0)) == "float32"


def test_a_population_and_other_formats_decode_as_they_are() -> None:
    assert auto.fastest_decoding(GPT(CONFIG, 2).initialize(0, 1)) == "float32"
    assert auto.fastest_decoding(GPT(CONFIG).initialize(0).double()) == "float32"


FAULTS = """
import resource, torch
from nanogrove.train.auto import keep_freed_memory
keep_freed_memory()
def work():
    return [torch.ones(1 << 21) * k for k in range(6)]
work(), work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_what_a_step_frees_is_there_for_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000, "pages faulted in anew; 140,000 where memory is given back"
