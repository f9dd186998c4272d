"""Training time until a character model of Shakespeare reaches a loss, ours against nanoGPT's CPU recipe.

    python benchmarks/time_to_loss.py --nanogpt PATH --text tinyshakespeare.txt

Both: first 90 % of the text for training, the rest for validation, context 64, at most 0.81 M parameters, the loss over
the whole validation split in non-overlapping windows, evaluation left out of the time. nanoGPT trains with its README's
recipe for a CPU, and past its 2,000 steps at its final rate until it gets there. Ours is told its number of steps, and
its rate reaches zero at the end. Then, the loss ours reaches in the time of nanoGPT's 2,000 steps. In two columns: a
model that `transformers` can load, and one with token shift, which it cannot; a ratio of 0 is a target missed.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanogrove.data.shards import DataConfig, TextCorpus
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.train.fit import Plan, fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim import OptimizerConfig, make_optimizer
from nanogrove.train.schedule import ScheduleConfig, schedule
from nanogrove.train.state import TrainState
from side_by_side import nanogpt, quietly

TARGET, CONTEXT = 1.88, 64
RATES = {"name": "muon", "lr": 0.05, "adamw_lr": 0.01, "momentum": 0.9, "weight_decay": 0.02}
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


def whole_loss(loss: Callable[[Tensor, Tensor], Tensor], windows: Tensor) -> float:
    """The mean over all windows `[N, T + 1]` of a loss that is a mean over each batch."""
    total = 0.0
    with torch.inference_mode():
        for part in windows.split(256):
            total += float(loss(part[:, :-1].contiguous(), part[:, 1:].contiguous())) * len(part)
    return total / len(windows)


def nanogpt_run(checkout: Path, text: Tensor, windows: Tensor, seed: int, most: int) -> tuple[float, float, float]:
    """Seconds until the target (infinite when it is not reached in `most` steps), seconds of 2,000 steps, loss then."""
    peer = nanogpt(checkout)
    torch.manual_seed(seed)
    model = quietly(
        lambda: peer.GPT(
            peer.GPTConfig(block_size=CONTEXT, vocab_size=65, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False)
        )
    )
    optimizer = quietly(lambda: model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu"))
    spent, at_2000, loss_2000 = 0.0, math.nan, math.nan
    for step in range(most):
        began = time.perf_counter()
        share = min(max((step - 100) / 1900, 0.0), 1.0)
        rate = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(text) - CONTEXT, (12,)).tolist()
        rows = torch.stack([text[start : start + CONTEXT + 1] for start in starts])
        _, loss = model(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        spent += time.perf_counter() - began
        if (step + 1) % 100 == 0 and step + 1 >= 1500:
            model.eval()
            held_out = whole_loss(lambda x, y: model(x, y)[1], windows)
            model.train()
            if step + 1 == 2000:
                at_2000, loss_2000 = spent, held_out
            if held_out <= TARGET and step + 1 >= 2000:
                return spent, at_2000, loss_2000
    return math.inf, at_2000, loss_2000


def our_run(
    path: Path,
    windows: Tensor,
    seed: int,
    steps: int,
    batch_size: int,
    precision: str,
    model_settings: dict[str, object],
) -> tuple[float, float, int]:
    """Seconds of `steps` steps, the loss behind them, and the parameters."""
    data = DataConfig.model_validate(
        {"sources": [str(path)], "tokenizer": "char", "split": "tail", "validation": 0.1, "test": 0.0}
    )
    corpus = TextCorpus(data, CONTEXT, batch_size, seed)
    vocabulary = corpus.tokenizer.vocab_size
    config = ModelConfig(family="nanochat", vocab_size=vocabulary, n_head=2, **SIZES, **model_settings)  # type: ignore[arg-type]
    model = GPT(config).initialize(seed)
    muon = torch.bfloat16 if precision == "bfloat16" else torch.float32
    state = TrainState(model, make_optimizer(model, OptimizerConfig.model_validate(RATES), muon))
    rates = schedule(ScheduleConfig(name="wsd", warmup=10, decay=0.7, final=0.0), steps)
    plan = Plan(seed=seed, steps=steps, rate=rates, precision=precision)  # type: ignore[arg-type]
    for _ in fit(state, corpus.batches, next_token, plan):
        pass
    model.eval()
    return state.seconds, whole_loss(lambda x, y: model(x, y).mean(), windows), model.parameter_count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=140, help="steps of ours to the target")
    parser.add_argument("--steps-extra", type=int, default=130, help="the same with token shift")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--precision", default="bfloat16", help="float32 where bfloat16 is slow")
    parser.add_argument("--most", type=int, default=5000, help="steps nanoGPT is given at most")
    options = parser.parse_args()

    training, windows = read_text(options.text, CONTEXT)
    columns = {"exports": ({}, options.steps), "token shift": ({"token_shift": True}, options.steps_extra)}
    ratios: dict[str, list[float]] = {name: [] for name in columns}
    equal: dict[str, list[float]] = {name: [] for name in columns}
    for seed in range(options.seeds):
        reached, at_2000, loss_2000 = nanogpt_run(options.nanogpt, training, windows, seed, options.most)
        print(
            f"seed {seed}  nanoGPT: {TARGET} after {reached:.1f} s; 2,000 steps {at_2000:.1f} s, loss {loss_2000:.4f}"
        )
        for name, (extra, steps) in columns.items():

            def ours(count: int, seed: int = seed, extra: dict[str, object] = extra) -> tuple[float, float, int]:
                return our_run(options.text, windows, seed, count, options.batch_size, options.precision, extra)

            seconds, loss, parameters = ours(steps)
            ratios[name].append(reached / seconds if loss <= TARGET else 0.0)
            print(f"        ours, {name}, {parameters:,} parameters: {steps} steps, {seconds:.1f} s, loss {loss:.4f}")
            count = int(0.97 * steps * at_2000 / seconds)
            seconds, loss, _ = ours(count)
            equal[name].append(loss)
            print(f"        ours, {name}: {count} steps, {seconds:.1f} s, loss {loss:.4f}", flush=True)
    for name in columns:
        spread = ", ".join(f"{ratio:.1f}" for ratio in ratios[name])
        print(
            f"{name}: time to {TARGET}, nanoGPT / ours = {statistics.median(ratios[name]):.1f} ({spread}); asked >= 4"
        )
        spread = ", ".join(f"{loss:.4f}" for loss in equal[name])
        loss = statistics.median(equal[name])
        print(f"{name}: loss in the time of its 2,000 steps {loss:.4f} ({spread}); asked <= 1.55")


if __name__ == "__main__":
    main()
