"""What a rolling memory brings: recall across segments, and the loss on Python's own library; and what it costs.

    python benchmarks/memory.py --out FOLDER [--seeds 0 1 2] [--steps 750] [--segments 3]

1. Recall: a text names 4 of 16 values in its first segment of 16 tokens, then comes noise, and in the last segment the
   values are asked for in another order. Chance is 1/4 for who knows which four there were, 1/16 for who does not.
   Models of 2 x 64 with full attention, with attention within segments only, and with a memory of 8 vectors, with and
   without reconstruction; the accuracy on fresh texts, each seed.
2. The loss on held-out text of the default corpus, `muzero-quick` without heads, 300 steps: full attention to 128
   tokens, segments of 32 alone, with a memory of 8, and with reconstruction. Means over seeds, and the extremes.
3. A step over one with full attention, processor time, in turn.

Runs of 2 lie in FOLDER; one that is there is only read.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablation import preset, trained
from auxiliary import processor_time
from nanogrove.data.batch import Batch
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.train.loop import fit
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.optim.schedule import ScheduleConfig, schedule
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

VALUES, KEYS, SEGMENT = 16, 4, 16
NOISE = 8  # further symbols
ROWS = 64
MODELS: dict[str, tuple[dict[str, int], float]] = {
    "full attention": ({}, 0.0),
    "segments alone": ({"memory_tokens": 0}, 0.0),
    "memory": ({"memory_tokens": 8}, 0.0),
    "memory, reconstruction": ({"memory_tokens": 8}, 0.3),
}


def texts(step: int, segments: int, rows: int = ROWS) -> Batch:
    """Key 0 … 3 and its value, noise, and then keys in another order, after each of which its value is to be given."""
    generator = torch.Generator().manual_seed(step)
    key, noise = VALUES, VALUES + KEYS
    length = SEGMENT * segments
    windows = noise + torch.randint(0, NOISE, (rows, length + 1), generator=generator)
    values = torch.randint(0, VALUES, (rows, KEYS), generator=generator)
    order = torch.rand(rows, KEYS, generator=generator).argsort(1)
    mask = torch.zeros(rows, length, dtype=torch.bool)
    for n in range(KEYS):
        windows[:, 2 * n] = key + n
        windows[:, 2 * n + 1] = values[:, n]
        asked = length - SEGMENT + 3 * n + 1
        windows[:, asked] = key + order[:, n]
        windows[:, asked + 1] = values.gather(1, order[:, n : n + 1])[:, 0]
        mask[:, asked] = True
    return Batch.uniform(windows[:, :-1], windows[:, 1:], mask, torch.zeros(rows, dtype=torch.int64))


def recall_state(name: str, seed: int, segments: int) -> TrainState:
    settings, weight = MODELS[name]
    alone = name == "segments alone"
    config = ModelConfig(
        family="llama",
        vocab_size=VALUES + KEYS + NOISE,
        block_size=SEGMENT if alone else SEGMENT * segments,
        n_layer=2,
        n_head=2,
        n_embd=64,
        memory_segment=SEGMENT,
        **settings,
    )
    model = GPT(config).initialize(seed)
    heads = None
    if weight:
        auxiliary = AuxiliaryConfig(enable_memory=True, memory_weight=weight, memory_every=2)
        heads = Heads(auxiliary, config).initialize(seed)
    return TrainState(model, make_optimizer(model, OptimizerConfig(lr=2e-3), heads=heads), heads=heads)


def seen(name: str, batch: Batch) -> Batch:
    """What a model is shown: all, or the last segment alone."""
    if name != "segments alone":
        return batch
    tokens, targets, mask, weight = (t[:, -SEGMENT:] for t in (batch.tokens, batch.targets, batch.mask, batch.weight))
    return Batch(tokens, targets, mask, weight, batch.source)


def accuracy(model: GPT, batch: Batch) -> float:
    with torch.inference_mode():
        right: Tensor = model.eval()(batch.tokens).argmax(-1) == batch.targets
    return (right & batch.mask).sum().item() / batch.mask.sum().item()


def recall(name: str, seed: int, steps: int, segments: int) -> float:
    state = recall_state(name, seed, segments)
    rate = schedule(ScheduleConfig(name="cosine", warmup=50), steps)
    plan = Plan(seed=seed, steps=steps, lr_factor=rate)

    def batches(step: int) -> Batch:
        batch = texts(seed * 1_000_000 + step, segments)
        if state.heads is not None:  # reconstruction counts what is scored, so all of the text is, a little
            weight = torch.where(batch.mask, 8.0, 1e-3)
            batch = replace(batch, mask=torch.ones_like(batch.mask), weight=weight)
        return seen(name, batch)

    for _ in fit(state, batches, objective_of(state, plan), plan):
        pass
    return accuracy(state.model, seen(name, texts(10**9 + seed, segments, 1024)))


def corpus_values(name: str, seed: int) -> dict[str, Any]:
    settings, weight = MODELS[name]
    values = preset("python", 300, seed, ["memory"] if weight else [])
    values["model"] = {**values["model"], "memory_segment": 32, **settings}
    if name == "segments alone":
        values["model"] |= {"block_size": 32}
        values["train"] |= {"batch_size": 4 * values["train"]["batch_size"]}
    if weight:
        values["auxiliary"] |= {"memory_weight": 0.1}
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--segments", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    states = {name: recall_state(name, 0, options.segments) for name in MODELS}
    works = {}
    for name, state in states.items():
        plan = Plan(seed=0, steps=1 << 40, lr_factor=lambda step: 1.0)
        works[name] = fit(
            state, lambda step, name=name: seen(name, texts(step, options.segments)), objective_of(state, plan), plan
        )  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(20):
        for name, work in works.items():
            times[name].append(processor_time(lambda work=work: next(work)))  # type: ignore[misc]
    full = statistics.median(times["full attention"])
    print(f"{'recall':<26}{'cost':>6}   accuracy", flush=True)
    for name in MODELS:
        shares = [recall(name, seed, options.steps, options.segments) for seed in options.seeds]
        cost = statistics.median(times[name]) / full
        print(f"{name:<26}{cost:>6.2f}   {', '.join(f'{share:.3f}' for share in shares)}", flush=True)
    print("loss on the default corpus")
    for name in MODELS:
        losses = [
            trained(corpus_values(name, seed), options.out / f"memory-{name.replace(', ', '-')}-{seed}")
            for seed in options.seeds
        ]
        print(f"{name:<26}{statistics.mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})", flush=True)


if __name__ == "__main__":
    main()
