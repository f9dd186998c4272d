"""What `auto` chooses: rules of sizes and capabilities, which hear nothing of clocks or load."""

import ast
import json
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import nanogrove
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train import autotune as auto
from nanogrove.train.autotune import Work
from nanogrove.train.precision import Choice

SMALL = ModelConfig(vocab_size=31, block_size=12, n_layer=2, n_head=2, n_embd=16)
LARGE = ModelConfig(vocab_size=31, block_size=64, n_layer=4, n_head=4, n_embd=128)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[None, "this CPU has no bfloat16 products"])
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """A machine of eight cores, with bfloat16 products and without."""
    monkeypatch.setattr(auto, "physical_cores", lambda: 8)
    monkeypatch.setattr(auto, "bfloat16_missing", lambda: request.param)
    return request.param  # type: ignore[no-any-return]


def test_a_small_step_takes_one_thread_and_float32(missing: str | None) -> None:
    settings = auto.resolve_auto(Work(SMALL, 1, 8), 100, CPU)
    assert settings == auto.Settings(threads=1, precision="float32", accumulation=1, compile=False)
    assert auto.auto_precision(0, CPU).reason == (missing or "so small a step gains nothing from bfloat16")


@pytest.mark.parametrize(("members", "config"), [(1, LARGE), (200, SMALL)])
def test_a_large_step_takes_all_cores_and_bfloat16_where_it_is(
    missing: str | None, members: int, config: ModelConfig
) -> None:
    settings = auto.resolve_auto(Work(config, members, 12), 100, CPU)
    assert settings == auto.Settings(8, "float32" if missing else "bfloat16", 1, False)


def test_the_operations_of_a_step_are_those_of_all_members() -> None:
    alone = GPT(LARGE).flops_per_token(64)
    assert Work(LARGE, 1, 1).flops == 64 * alone
    assert Work(LARGE, 3, 5).flops == 15 * 64 * alone


def test_compiling_waits_for_a_run_that_pays_it_back(missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(LARGE, 1, 12)
    enough = int(8 * auto.COMPILE_FLOPS["cpu"] / work.flops) + 1
    monkeypatch.setattr(auto.shutil, "which", lambda name: "/usr/bin/c++")
    assert not auto.resolve_auto(work, enough - 1, CPU).compile
    assert auto.resolve_auto(work, enough, CPU).compile
    monkeypatch.setattr(auto.shutil, "which", lambda name: None)
    assert not auto.resolve_auto(work, enough, CPU).compile


@pytest.mark.parametrize("head_size", [None, 128])
@pytest.mark.parametrize("options", [{"family": "gpt2"}, {"family": "llama"}, {"family": "llama", "qk_norm": True}])
def test_activations_are_estimated_whatever_the_width_of_heads(options: dict[str, Any], head_size: int | None) -> None:
    sizes = {"vocab_size": 64, "block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 128}
    config = ModelConfig(**sizes, **options, head_size=head_size)
    model, kept = GPT(config).initialize(0), dict[int, int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(*torch.zeros(2, 4, 64, dtype=torch.int64))
    activations = sum(kept.values()) - sum(kept.get(p.data_ptr(), 0) for p in model.parameters())
    assert loss.requires_grad
    assert 0.65 < auto.activation_bytes(config, 4) / activations < 1.5


def test_little_memory_takes_more_micro_batches(missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(LARGE, 2, 32)
    fixed = 2 * 16 * GPT(LARGE).parameter_count()
    each = work.bytes(32) - fixed
    assert each == 2 * auto.activation_bytes(LARGE, 32)
    assert auto.fewest_micro_batches(work, fixed + each) == 1
    assert auto.fewest_micro_batches(work, fixed + each - 1) == 2
    assert auto.fewest_micro_batches(work, fixed + each // 8) == 8
    assert auto.fewest_micro_batches(Work(LARGE, 2, 6), 0) == 4  # a row cannot be cut; the run will say what is missing
    memory = SimpleNamespace(total=2 * (fixed + each // 4))
    monkeypatch.setattr(auto.psutil, "virtual_memory", lambda: memory)
    assert auto.resolve_auto(work, 1, CPU).accumulation == 4


@pytest.mark.parametrize("products", [True, False])
def test_a_gpu_goes_by_its_whole_memory_and_its_own_products(products: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1000))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: products)
    assert auto.memory_bytes(CUDA) == 800
    assert auto.auto_precision(0, CUDA).format == ("bfloat16" if products else "float32")


def test_the_reason_of_a_format_does_not_depend_on_who_chose_it() -> None:
    choice = Choice("float32", "there is nothing else")
    assert auto.reason_for("float32", choice) == "there is nothing else"
    asked = "the preset asks for it; auto takes float32, since there is nothing else"
    assert auto.reason_for("bfloat16", choice) == asked


@pytest.mark.parametrize(("physical", "expected"), [(4, 4), (16, 6), (None, 6)])
def test_affinity_and_shared_units_count(physical: int | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto.os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(auto.psutil, "cpu_count", lambda logical: physical)
    assert auto.physical_cores() == expected
    monkeypatch.delattr(auto.os, "sched_getaffinity")
    monkeypatch.setattr(auto.os, "cpu_count", lambda: 3)
    assert auto.cores() == 3


def test_the_start_says_which_format_was_taken_and_why(tiny: Any, tmp_path: Path) -> None:
    from nanogrove.config.overrides import resolve
    from nanogrove.runs.train import train

    for _ in train(resolve(tiny(train={"steps": 1, "precision": "auto", "threads": "auto"})), tmp_path / "run"):
        pass
    start = json.loads((tmp_path / "run" / "events.jsonl").read_text("utf-8").splitlines()[0])
    expected = auto.auto_precision(0, CPU)
    assert (start["precision"], start["precision_reason"]) == expected
    assert start["machine"]["threads"] == 1
    assert start["machine"]["instructions"].startswith(torch.backends.cpu.get_cpu_capability())


CLOCKS = {"perf_counter", "process_time", "monotonic", "thread_time", "getloadavg", "time_ns", "mem_get_info"}


def test_no_module_that_decides_what_is_computed_reads_a_clock() -> None:
    """Figures for the record may be timed, in `fit` and in methods; nothing in these may be."""
    sources = Path(nanogrove.__file__).parent
    chosen = (sources / "train" / f"{name}.py" for name in ("autotune", "precision"))
    for path in (*(sources / "model").glob("*.py"), *chosen):
        names = {n.attr for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Attribute)}
        assert not names & CLOCKS, path


FAULTS = """
import resource, torch
from nanogrove.train.autotune import keep_freed_memory
keep_freed_memory()
def work():
    return [torch.ones(1 << 21) * k for k in range(6)]
work(), work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_what_a_step_frees_is_there_for_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000, "pages faulted in anew; 140,000 where memory is given back"
