"""Benchmarks start, and the one of a GPU says in one line when there is none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_benchmark_refuses_in_one_line() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--nanogpt", "nowhere", "--text", "nothing.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no GPU is at hand")
    assert len(done.stderr.strip().splitlines()) == 1


STAND_IN = """
from types import SimpleNamespace
import torch
from torch import nn

def GPTConfig(**settings):
    return SimpleNamespace(**settings)

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, tokens, targets):
        logits = self.head(self.embed(tokens))
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, rate, betas, device):
        return torch.optim.AdamW(self.parameters(), lr=rate, betas=betas, weight_decay=weight_decay)
"""


def test_the_benchmark_of_a_gpu_runs_at_a_tiny_size_against_a_stand_in_for_its_peer(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(STAND_IN)
    text = tmp_path / "text.txt"
    text.write_text("sphinx of black quartz, judge my vow\n" * 300)
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--nanogpt", str(tmp_path), "--text", str(text)]
    done = subprocess.run([*command, "--device", "cpu", "--tiny"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "TFLOP/s in bfloat16" in lines[0]
    assert lines[1].startswith("2 members of 2 x 64")
    ours = next(line for line in lines if line.startswith("nanogrove"))
    assert "inf" not in ours, "ours must reach the tiny target"
    assert lines[-1].startswith("nanoGPT / nanogrove = ")


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_every_script_says_what_it_does(script: Path) -> None:
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert script.name == "side_by_side.py" or "usage" in done.stdout
