"""What share of the machine a training step uses, beside nanoGPT and `transformers`, and the memory it takes.

    python benchmarks/training_step.py --nanogpt PATH

Floating-point operations of a step (6 for each weight of a matrix product and token, plus attention) over its time,
divided by what one large float32 product reaches in the same process; float32 and AdamW for all; and where the time of
our step goes, by kind of operator. Then the peak memory
of a process that trains 50 steps of 4 x 128, ours and nanoGPT's, and of one step at 8 x 1,024 tokens with a vocabulary
of 50,304, whose logits whole would take 1.6 GB.
"""

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from side_by_side import Work, in_turn, matmul_rate, nanogpt, quietly, stepper, tokens

SIZES = ((4, 128, 4, 64, 12, 0.50), (6, 384, 6, 256, 4, 0.65))  # layers, width, heads, tokens, rows, asked


def nanogpt_step(checkout: Path, layers: int, width: int, heads: int, length: int, rows: int) -> Work:
    peer = nanogpt(checkout)
    config = peer.GPTConfig(
        block_size=length, vocab_size=65, n_layer=layers, n_head=heads, n_embd=width, dropout=0.0, bias=False
    )
    model = quietly(lambda: peer.GPT(config))
    optimizer = quietly(lambda: model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu"))
    batch = tokens(rows, length, 65)

    def step() -> None:
        model(batch.tokens, batch.targets)[1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def transformers_step(layers: int, width: int, heads: int, length: int, rows: int) -> Work:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape: dict[str, Any] = {
        "vocab_size": 65,
        "n_positions": length,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
    }
    model = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch = tokens(rows, length, 65)

    def step() -> None:
        model(input_ids=batch.tokens, labels=batch.tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def config_of(layers: int, width: int, heads: int, length: int, vocabulary: int = 65) -> ModelConfig:
    return ModelConfig(vocab_size=vocabulary, block_size=length, n_layer=layers, n_head=heads, n_embd=width, bias=False)


def peak_memory() -> int:
    """Most resident bytes of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def memory_of(what: str, checkout: Path) -> None:
    """Trains a little in this process and prints its peak memory before and after."""
    import transformers  # noqa: F401, loaded by all alike, so that imports do not differ

    before = peak_memory()
    if what == "nanoGPT":
        work, steps = nanogpt_step(checkout, 4, 128, 4, 64, 12), 50
    elif what == "nanogrove":
        work, steps = stepper(config_of(4, 128, 4, 64), tokens(12, 64, 65)), 50
    else:
        work, steps = stepper(config_of(2, 64, 2, 1024, 50_304), tokens(8, 1024, 50_304)), 1
    for _ in range(steps):
        work()
    print(before, peak_memory())


REST = "other operators, views and Python"
KINDS = (  # names of operators contain the first, and belong under the second; the first that fits counts
    ("scaled_dot_product", "attention"),
    ("bmm", "attention"),
    ("aten::softmax", "attention"),
    ("aten::_softmax", "attention"),
    ("aten::cat", "attention"),
    ("_Attention", "attention"),
    ("_Mlp", "feed-forward layers"),
    ("_Gelu", "GELU"),
    ("linear_pointwise", "matrix products"),
    ("mm", "matrix products"),
    ("adamw", "AdamW"),
    ("norm", "norms"),
    ("gelu", "GELU"),
    ("embedding", "embeddings"),
    ("softmax", "loss"),
    ("nll", "loss"),
    ("copy", "copies"),
    ("aten::add", "residual and gradient sums"),
    ("aten::sum", "residual and gradient sums"),
    ("aten::mul", "residual and gradient sums"),
    ("foreach", "residual and gradient sums"),
)
Kinds = Sequence[tuple[str, str]]


def operator_seconds(work: Work, kinds: Kinds = KINDS) -> list[tuple[str, float]]:
    """The operators that `work` runs, in order: kind and own seconds of each that has a kind.

    One that another calls is of the kind of the outermost that has one.
    """
    with torch.autograd.profiler.profile() as recorded:  # torch.profiler would import the compiler
        work()
    found = [(_kind_of(event, kinds), event.self_cpu_time_total / 1e6) for event in recorded.function_events]
    return [(kind, seconds) for kind, seconds in found if kind]


def _kind_of(event: Any, kinds: Kinds) -> str | None:
    outer = event.cpu_parent and _kind_of(event.cpu_parent, kinds)
    return outer or next((kind for part, kind in kinds if part in event.name), None)


def profile_of(work: Work, steps: int = 10) -> dict[str, float]:
    """Shares of a step's wall time by kind of operator; what no operator takes is Python and dispatch."""
    work()
    began = time.perf_counter()
    for _ in range(steps):
        work()
    whole = time.perf_counter() - began
    shares: dict[str, float] = defaultdict(float)
    for _ in range(steps):
        for kind, seconds in operator_seconds(work):
            shares[kind] += seconds / whole
    shares[REST] = 1 - sum(shares.values())
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        memory_of(options.memory_of, options.nanogpt)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for layers, width, heads, length, rows, asked in SIZES:
        config = config_of(layers, width, heads, length)
        contenders = {
            "nanogrove": stepper(config, tokens(rows, length, 65)),
            "nanoGPT": nanogpt_step(options.nanogpt, layers, width, heads, length, rows),
            "transformers": transformers_step(layers, width, heads, length, rows),
        }
        ceiling = matmul_rate()
        timings = in_turn(contenders, options.rounds)
        ceiling = max(ceiling, matmul_rate())
        work = GPT(config).flops_per_token(length) * rows * length
        print(f"{layers} x {width}, {rows} x {length} tokens; ceiling {ceiling / 1e9:.0f} GFLOP/s, asked {asked:.0%}")
        for name, timing in timings.items():
            ratio = timing.median / timings["nanogrove"].median
            print(f"  {name:<13} {timing}   {work / timing.median / ceiling:6.1%}   {ratio:.2f} times ours")
        for kind, share in profile_of(contenders["nanogrove"]).items():
            print(f"    {share:6.1%} {kind}")
    used = {}
    for what in ("nanogrove", "nanoGPT", "large vocabulary"):
        command = [sys.executable, __file__, "--nanogpt", str(options.nanogpt), "--memory-of", what]
        before, after = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        used[what] = (before, after)
        print(f"peak memory, {what}: {after / 1e6:.0f} MB, of which training {(after - before) / 1e6:.0f} MB")
    print(f"ours / nanoGPT: {used['nanogrove'][1] / used['nanoGPT'][1]:.2f}, asked <= 1.3")


if __name__ == "__main__":
    main()
