"""What a rolling memory recalls across segments, with and without reconstruction, and what it costs.

    python benchmarks/memory.py [--seeds 8] [--steps 750] [--segments 3]

A text names 4 of 16 values in its first segment of 16 tokens, then comes noise, and in the last segment the values are
asked for in another order. Chance is 1/4 for who knows which four there were, 1/16 for who does not. Models of 2 x 64
with full attention, with attention within segments only, and with a memory of 8 vectors, with and without
reconstruction; the accuracy on fresh texts. Seeds are paired, and the model with reconstruction trains for as many
fewer steps as its step takes longer than that of the memory alone, in CPU time, in turn; the verdict is that of
`nanogrove compare`. What a memory brings on text is the study `reconstruction` of `claims.py`.
"""

import argparse
import statistics
from dataclasses import replace

import torch
from torch import Tensor

from auxiliary import processor_time
from nanogrove.data.batch import Batch
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.record.measures import Measure
from nanogrove.studies.verdict import Rule, decide
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


def costs(segments: int) -> dict[str, float]:
    """CPU time of a step of each model over that of full attention, all in turn."""
    works = {}
    for name in MODELS:
        state, plan = recall_state(name, 0, segments), Plan(seed=0, steps=1 << 40, lr_factor=lambda step: 1.0)
        batches = lambda step, name=name: seen(name, texts(step, segments))  # noqa: E731
        works[name] = fit(state, batches, objective_of(state, plan), plan)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(20):
        for name, work in works.items():
            times[name].append(processor_time(lambda work=work: next(work)))  # type: ignore[misc]
    full = statistics.median(times["full attention"])
    return {name: statistics.median(each) / full for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--segments", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cost = costs(options.segments)
    steps = dict.fromkeys(MODELS, options.steps)
    steps["memory, reconstruction"] = round(options.steps * cost["memory"] / cost["memory, reconstruction"])
    print(f"{'recall':<26}{'cost':>6}{'steps':>7}   accuracy", flush=True)
    figures: dict[str, dict[int, float | None]] = {}
    for name in MODELS:
        shares = {seed: recall(name, seed, steps[name], options.segments) for seed in range(options.seeds)}
        figures[name] = dict(shares)
        listed = ", ".join(f"{share:.3f}" for share in shares.values())
        print(f"{name:<26}{cost[name]:>6.2f}{steps[name]:>7}   {listed}", flush=True)
    pair = {name: figures[name] for name in ("memory", "memory, reconstruction")}
    print(decide([pair], Rule(Measure("accuracy", "accuracy", better="higher")))[0].sentence)


if __name__ == "__main__":
    main()
