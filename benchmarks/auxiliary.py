"""What auxiliary heads cost: a step with them over a plain one, 4 x 128, 12 x 64 tokens, on one thread, in turn.

    python benchmarks/auxiliary.py

Times are those of the processor, so that other work on the machine disturbs them little; the ratio is the median over
rounds of a step with heads over the plain step of the same round, with its quartiles.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.train.loop import fit
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState
from side_by_side import Work, tokens

HEADS = {
    "value": ["value"],
    "dynamics": ["dynamics"],
    "span": ["span_contrastive"],
    "multi_token": ["multi_token"],
    "value, dynamics, policy": ["value", "dynamics", "policy"],
    "all": ["value", "dynamics", "policy", "span_contrastive", "multi_token"],
}


def step_with(names: list[str], model: ModelConfig, rows: int, settings: dict[str, Any]) -> Work:
    """A step of training with these heads."""
    gpt, heads = GPT(model).initialize(0), None
    if names:
        enabled = AuxiliaryConfig.model_validate({**settings, **{f"enable_{name}": True for name in names}})
        heads = Heads(enabled, model).initialize(0)
    state = TrainState(gpt, make_optimizer(gpt, OptimizerConfig(), heads=heads), heads=heads)
    plan = Plan(seed=0, steps=1 << 40, lr_factor=lambda step: 1.0)
    batch = tokens(rows, model.block_size, model.vocab_size or 1)
    events = fit(state, lambda step: batch, objective_of(state, plan), plan)
    return lambda: next(events) and None


def costs(
    heads: dict[str, list[str]], model: ModelConfig, rows: int, rounds: int, **settings: Any
) -> tuple[float, dict[str, list[float]]]:
    """Median seconds of a plain step, and over it a step with each choice of heads: quartiles over the rounds."""
    plain = step_with([], model, rows, settings)
    contenders = {name: step_with(names, model, rows, settings) for name, names in heads.items()}
    baseline, seconds = [], {label: [] for label in heads}  # type: ignore[var-annotated]
    for _ in range(rounds):
        baseline.append(processor_time(plain))
        for label, work in contenders.items():
            seconds[label].append(processor_time(work) / baseline[-1])
    return statistics.median(baseline), {label: statistics.quantiles(ratios, n=4) for label, ratios in seconds.items()}


def processor_time(work: Work) -> float:
    """Seconds of the processor that it takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for vocabulary in (65, 2048):
        model = ModelConfig(vocab_size=vocabulary, block_size=64, n_layer=4, n_head=4, n_embd=128)
        plain, timings = costs(HEADS, model, 12, options.rounds)
        print(f"vocabulary {vocabulary:,}: a plain step {1000 * plain:.1f} ms")
        for label, (low, middle, high) in timings.items():
            print(f"  {label:<26}{middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
