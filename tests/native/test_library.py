"""Why the C library is not used, and that all goes on without it."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from nanogrove.native import library

WITHOUT_AVX2 = """
import torch
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.native import library, operators

assert "AVX2" in str(library.missing()), library.missing()
assert not operators.usable(torch.zeros(8))
model = GPT(ModelConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=16)).initialize(0)
tokens = torch.arange(9)[None]
losses = []
for _ in range(2):
    loss = model(tokens[:, :-1], tokens[:, 1:]).mean()
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            parameter -= 0.5 * gradient
    losses.append(loss.item())
assert losses[1] < losses[0] < 3, losses
"""


@pytest.fixture
def fresh() -> Iterator[None]:
    """Asks again, and forgets the answer."""
    library.missing.cache_clear()
    yield
    library.missing.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_file_that_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "FILE", tmp_path / "kernels.abi3.so")
    assert library.missing() == "the C kernels were not built when nanogrove was installed"


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + bytes(60)])
def test_a_file_that_is_not_a_library(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "kernels.abi3.so"
    file.write_bytes(content)
    monkeypatch.setattr(library, "FILE", file)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert str(library.missing()).startswith("the C kernels cannot be loaded (")


@pytest.mark.usefixtures("fresh")
@pytest.mark.skipif(library.missing() is not None, reason=library.missing() or "")
def test_a_library_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(library.Heads):
        _fields_: ClassVar = [("added", ctypes.c_long)]

    monkeypatch.setattr(library, "Heads", Other)
    assert library.missing() == "the C kernels are of another version; install nanogrove again"


@pytest.mark.usefixtures("fresh")
def test_a_cpu_without_avx2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kernels.abi3.so").write_bytes(b"")
    monkeypatch.setattr(library, "FILE", tmp_path / "kernels.abi3.so")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    for machine in ("x86_64", "AMD64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        library.missing.cache_clear()
        assert library.missing() == "this CPU has no AVX2, which the C kernels take"
    library.missing.cache_clear()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")  # needs none
    assert "cannot be loaded" in str(library.missing())


@pytest.mark.slow
@pytest.mark.skipif(library.missing() is not None, reason=library.missing() or "")
def test_a_model_trains_without_avx2() -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("AVX2 is of x86-64")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_AVX2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
