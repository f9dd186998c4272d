"""Training time until a character model of Shakespeare reaches a loss, ours against nanoGPT's CPU recipe.

    python benchmarks/time_to_loss.py --nanogpt PATH --text tinyshakespeare.txt

Both: first 90 % of the text for training, the rest for validation, context 64, at most 0.81 M parameters, the loss over
the whole validation split in non-overlapping windows. nanoGPT trains with its README's recipe for a CPU, and past its
2,000 steps at its final rate until it gets there. Ours is told its number of steps, and its rate is zero at the end.

A time is steps times the median time of a step, data included and evaluation left out; the steps of all contenders are
timed in turn, so that other work on the machine falls on all alike. In two columns: a model that `transformers` can
load, and one of three layers with token shift, which it cannot. A ratio of 0 is a target missed.
"""

import argparse
import itertools
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nanogrove.corpora import make_corpus
from nanogrove.data.text.config import DataConfig
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.optim.schedule import ScheduleConfig, schedule
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState
from side_by_side import Work, in_turn, nanogpt, quietly

TARGET, CONTEXT = 1.88, 64
RATES = {"name": "muon", "lr": 0.05, "adamw_lr": 0.01, "momentum": 0.9, "weight_decay": 0.02}
ROWS = 24
COLUMNS: dict[str, dict[str, Any]] = {"exports": {}, "3 layers, token shift": {"token_shift": True, "n_layer": 3}}
SIZES = {"n_layer": 4, "n_embd": 128, "block_size": CONTEXT}


def read_text(path: Path, length: int) -> tuple[Tensor, Tensor]:
    """The first 90 % of a text as characters' numbers, and the rest as windows `[N, length + 1]` without overlap."""
    text = path.read_text(encoding="utf-8")
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    encoded = torch.from_numpy(np.array([ids[character] for character in text], dtype=np.int64))
    held_out = encoded[int(0.9 * len(text)) :]
    count = (len(held_out) - 1) // length
    windows = torch.stack([held_out[n * length : n * length + length + 1] for n in range(count)])
    return encoded[: int(0.9 * len(text))], windows


THEIRS: list[tuple[float, float]] = []  # steps to the target and loss at 2,000, by seed


def whole_loss(loss: Callable[[Tensor, Tensor], Tensor], windows: Tensor) -> float:
    """The mean over all windows `[N, T + 1]` of a loss that is a mean over each batch."""
    total = 0.0
    with torch.inference_mode():
        for part in windows.split(256):
            total += float(loss(part[:, :-1].contiguous(), part[:, 1:].contiguous())) * len(part)
    return total / len(windows)


def nanogpt_steps(checkout: Path, text: Tensor, seed: int) -> tuple[nn.Module, Iterator[int]]:
    """nanoGPT's model, and its recipe as an iterator that trains a step each time."""
    peer = nanogpt(checkout)
    torch.manual_seed(seed)
    model = quietly(
        lambda: peer.GPT(
            peer.GPTConfig(block_size=CONTEXT, vocab_size=65, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False)
        )
    )
    optimizer = quietly(lambda: model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu"))

    def steps() -> Iterator[int]:
        for step in itertools.count(1):
            share = min(max((step - 101) / 1900, 0.0), 1.0)
            rate = 1e-3 * step / 101 if step <= 100 else 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = rate
            starts = torch.randint(len(text) - CONTEXT, (12,)).tolist()
            rows = torch.stack([text[start : start + CONTEXT + 1] for start in starts])
            _, loss = model(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield step

    return model, steps()


def our_steps(path: Path, seed: int, count: int, precision: str, extra: dict[str, Any]) -> tuple[GPT, Iterator[Any]]:
    """Our model, and the `count` steps of our recipe as an iterator."""
    data = DataConfig.model_validate(
        {"sources": [str(path)], "tokenizer": "char", "split": "tail", "validation": 0.1, "test": 0.0}
    )
    corpus = make_corpus(data, CONTEXT, ROWS, seed)
    vocabulary = corpus.tokenizer.vocab_size
    config = ModelConfig(**{"family": "nanochat", "vocab_size": vocabulary, "n_head": 2, **SIZES, **extra})
    model = GPT(config).initialize(seed)
    muon = torch.bfloat16 if precision == "bfloat16" else torch.float32
    state = TrainState(model, make_optimizer(model, OptimizerConfig.model_validate(RATES), muon))
    rates = schedule(ScheduleConfig(name="wsd", warmup=10, decay=0.7, final=0.0), count)
    plan = Plan(seed=seed, steps=count, lr_factor=rates, precision=precision)  # type: ignore[arg-type]
    return model, fit(state, corpus.batch, next_token, plan)


def their_losses(checkout: Path, text: Tensor, windows: Tensor, seed: int, most: int) -> tuple[float, float]:
    """Steps until the target, infinite where `most` do not get there, and the loss after 2,000 steps."""
    model, steps = nanogpt_steps(checkout, text, seed)
    at_2000 = math.nan
    for step in itertools.islice(steps, most):
        if step >= 1500 and step % 100 == 0:
            model.eval()
            loss = whole_loss(lambda x, y: model(x, y)[1], windows)
            model.train()
            at_2000 = loss if step == 2000 else at_2000
            if loss <= TARGET and step >= 2000:
                return step, at_2000
    return math.inf, at_2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=140, help="steps of ours to the target")
    parser.add_argument("--precision", default="bfloat16", help="float32 where bfloat16 is slow")
    parser.add_argument("--most", type=int, default=5000, help="steps nanoGPT is given at most")
    parser.add_argument("--rounds", type=int, default=60, help="timed steps of each")
    options = parser.parse_args()

    training, windows = read_text(options.text, CONTEXT)
    _, theirs = nanogpt_steps(options.nanogpt, training, 0)
    contenders: dict[str, Work] = {"nanoGPT": lambda: next(theirs)}
    for name, extra in COLUMNS.items():
        _, ours = our_steps(options.text, 0, 1 << 30, options.precision, extra)
        contenders[name] = lambda ours=ours: next(ours)  # type: ignore[misc]
    t = in_turn(contenders, options.rounds, warmup=5)
    for name, timing in t.items():
        print(f"a step of {name:<22} {timing}")
    for name, extra in COLUMNS.items():
        price = t[name].median / t["nanoGPT"].median  # of a step of ours, in steps of theirs
        ratios, losses = [], []
        for seed in range(options.seeds):
            count = int(2000 / price)
            model, steps = our_steps(options.text, seed, count, options.precision, extra)
            deque(steps, maxlen=0)
            losses.append(our_loss(model, windows))
            model, steps = our_steps(options.text, seed, options.steps, options.precision, extra)
            deque(steps, maxlen=0)
            reached = our_loss(model, windows)
            if name == next(iter(COLUMNS)):
                THEIRS.append(their_losses(options.nanogpt, training, windows, seed, options.most))
            their_steps, at_2000 = THEIRS[seed]
            ratios.append(their_steps / (options.steps * price) if reached <= TARGET else 0.0)
            print(
                f"seed {seed}: nanoGPT {TARGET} at step {their_steps}, {at_2000:.4f} at 2,000; {name}, "
                f"{model.parameter_count():,} parameters: {reached:.4f} at step {options.steps}, "
                f"{losses[-1]:.4f} at {count}",
                flush=True,
            )
        spread = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"{name}: time to {TARGET}, nanoGPT / ours = {statistics.median(ratios):.1f} ({spread}); asked >= 4")
        spread = ", ".join(f"{loss:.4f}" for loss in losses)
        loss = statistics.median(losses)
        print(f"{name}: loss in the time of its 2,000 steps {loss:.4f} ({spread}); asked <= 1.55", flush=True)


def our_loss(model: GPT, windows: Tensor) -> float:
    model.eval()
    return whole_loss(lambda x, y: model(x, y).mean(), windows)


if __name__ == "__main__":
    main()
