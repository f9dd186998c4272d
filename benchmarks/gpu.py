"""Everything about speed on one GPU, in one call of under eight minutes.

    python benchmarks/gpu.py --nanogpt PATH --text tinyshakespeare.txt

1. nanoGPT's `train_shakespeare_char` recipe (6 x 384, 64 x 256 tokens, dropout .2, compiled, bfloat16) until its best
   validation loss, 1.4697, ours against nanoGPT; the loss is over the whole validation split.
2. The share of the card's own bfloat16 product that a training step reaches.
3. Populations of 16 and 64 as one tensor program, against a loop over their members.

Refuses where there is no GPU; `--device cpu --tiny` runs its logic at a size for tests.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.optim.schedule import ScheduleConfig, schedule
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState
from side_by_side import in_turn, matmul_rate, nanogpt, quietly, stepper, tokens
from time_to_loss import read_text, whole_loss

TARGET = 1.4697


def rows_of(text: Tensor, step: int, count: int, length: int, device: str) -> Tensor:
    """`[count, length + 1]` windows of a text on the device, a function of the step."""
    starts = torch.randint(len(text) - length, (count,), generator=torch.Generator().manual_seed(step))
    return text[(starts[:, None] + torch.arange(length + 1)).to(device)]


class Race(NamedTuple):
    """Seconds of training to the target, infinite where it was not reached, and of the first step, which compiles."""

    seconds: float
    first: float
    best: float
    steps: int


def until(target: float, steps: Iterator[object], every: int, score: Callable[[], float]) -> Race:
    """Trains until `score()` is at the target or below it, or to the end of the steps."""
    spent, first, best, done = 0.0, 0.0, math.inf, 0
    began = time.perf_counter()
    for _ in steps:
        done += 1
        if done == 1 or done % every == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent += time.perf_counter() - began
            if done == 1:
                first = spent
            else:
                best = min(best, score())
            if best <= target:
                return Race(spent, first, best, done)
            began = time.perf_counter()
    return Race(math.inf, first, best, done)


def race(checkout: Path, path: Path, device: str, tiny: bool) -> None:
    training, windows = read_text(path, 32 if tiny else 256)
    training, windows = training.to(device), windows.to(device)
    layers, heads, width, length, count = (1, 2, 16, 32, 4) if tiny else (6, 6, 384, 256, 64)
    target, limit, every = (4.1, 40, 5) if tiny else (TARGET, 3000, 50)
    shape = {"block_size": length, "n_layer": layers, "n_head": heads, "n_embd": width, "dropout": 0.2}

    config = ModelConfig(family="nanochat", vocab_size=65, **shape)
    model = GPT(config).initialize(0).to(device)
    muon = OptimizerConfig(name="muon", lr=0.02, adamw_lr=0.005, momentum=0.95, weight_decay=0.1)
    state = TrainState(model, make_optimizer(model, muon, torch.bfloat16))
    horizon = 40 if tiny else 700
    rates = schedule(ScheduleConfig(name="wsd", warmup=10, decay=0.7, final=0.0), horizon)
    plan = Plan(seed=0, steps=horizon, lr_factor=rates, precision="bfloat16", compile=not tiny)

    def batches(step: int) -> Batch:
        rows = rows_of(training, step, count, length, device)
        everywhere = torch.ones(count, length, dtype=torch.bool, device=device)
        return Batch.uniform(rows[:, :-1], rows[:, 1:], everywhere, torch.zeros(count, dtype=torch.int64))

    def our_score() -> float:
        model.eval()
        return whole_loss(lambda x, y: model(x, y).mean(), windows)

    ours = until(target, fit(state, batches, next_token, plan), every, our_score)

    peer = nanogpt(checkout)
    theirs = quietly(lambda: peer.GPT(peer.GPTConfig(vocab_size=65, bias=False, **shape))).to(device)
    optimizer = quietly(lambda: theirs.configure_optimizers(0.1, 1e-3, (0.9, 0.99), device))
    forward = theirs if tiny else torch.compile(theirs)

    def their_steps() -> Iterator[int]:
        for step in range(limit):
            theirs.train()
            share = min(max((step - 100) / 4900, 0.0), 1.0)
            rate = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = rows_of(training, step, count, length, device)
            with torch.autocast(device, torch.bfloat16):
                loss = forward(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())[1]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield step

    def their_score() -> float:
        theirs.eval()
        return whole_loss(lambda x, y: theirs(x, y)[1], windows)

    peers = until(target, their_steps(), every, their_score)
    for name, one in (("nanogrove", ours), ("nanoGPT", peers)):
        print(
            f"{name:<10} to {target}: {one.seconds:.1f} s, of which {one.first:.1f} s for the first step, which "
            f"compiles; {one.steps} steps, best {one.best:.4f}"
        )
    after = (peers.seconds - peers.first) / (ours.seconds - ours.first)
    print(f"nanoGPT / nanogrove = {peers.seconds / ours.seconds:.2f}, without the first step {after:.2f}")


def share(device: str, tiny: bool) -> None:
    config = ModelConfig(
        vocab_size=65, block_size=32 if tiny else 1024, n_layer=2 if tiny else 12, n_head=2 if tiny else 12,
        n_embd=32 if tiny else 768, bias=False,
    )  # fmt: skip
    rows, length = (2, 32) if tiny else (16, 1024)
    batch = tokens(rows, length, 65).to(device)
    ceiling = matmul_rate(256 if tiny else 8192, torch.bfloat16, device)
    timing = in_turn({"step": stepper(config, batch, precision="bfloat16")}, rounds=3 if tiny else 10)["step"]
    rate = GPT(config).flops_per_token(length) * rows * length / timing.median
    print(f"step {timing}; {rate / 1e12:.2f} of {ceiling / 1e12:.2f} TFLOP/s in bfloat16, {rate / ceiling:.1%}")


def populations(device: str, tiny: bool) -> None:
    for members in (2,) if tiny else (16, 64):
        config = ModelConfig(vocab_size=65, block_size=32, n_layer=2, n_head=4, n_embd=64, bias=False)
        single = stepper(config, tokens(8, 32, 65).to(device))
        contenders = {
            "stacked": stepper(config, tokens(8, 32, 65, members).to(device), members),
            "loop": lambda single=single, members=members: [single() for _ in range(members)],
        }
        timings = in_turn(contenders, rounds=3 if tiny else 10)
        ratio = timings["loop"].median / timings["stacked"].median
        print(f"{members} members of 2 x 64: {timings['stacked']}, loop / stacked = {ratio:.1f}, aim >= 10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a size for tests")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "error: no GPU is at hand; this benchmark measures one (--device cpu --tiny tries its logic)\n")
    share(options.device, options.tiny)
    populations(options.device, options.tiny)
    race(options.nanogpt, options.text, options.device, options.tiny)


if __name__ == "__main__":
    main()
