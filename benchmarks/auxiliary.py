"""What auxiliary heads cost: a step with them over a plain one, 4 x 128, 12 x 64 tokens, on one thread, in turn.

    python benchmarks/auxiliary.py

Times are those of the processor, so that other work on the machine disturbs them little; the ratio is the median over
rounds of a step with heads over the plain step of the same round, with its quartiles.
"""

import argparse
import statistics
import time

import torch

from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.train.auxiliary import with_heads
from nanogrove.train.fit import Plan, fit
from nanogrove.train.objective import Objective, next_token, weighted
from nanogrove.train.optim import OptimizerConfig, make_optimizer
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


def step_with(names: list[str], vocabulary: int) -> Work:
    """A step of training with these heads."""
    config = ModelConfig(vocab_size=vocabulary, block_size=64, n_layer=4, n_head=4, n_embd=128)
    model = GPT(config).initialize(0)
    heads = None
    if names:
        enabled = AuxiliaryConfig.model_validate({f"enable_{name}": True for name in names})
        heads = Heads(enabled, config).initialize(0)
    state = TrainState(model, make_optimizer(model, OptimizerConfig(), heads=heads), heads=heads)
    objective: Objective = next_token if heads is None else with_heads(state, 0, weighted, False)
    batch = tokens(12, 64, vocabulary)
    events = fit(state, lambda step: batch, objective, Plan(seed=0, steps=1 << 40, rate=lambda step: 1.0))
    return lambda: next(events) and None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for vocabulary in (65, 2048):
        contenders = {"plain": step_with([], vocabulary)} | {k: step_with(n, vocabulary) for k, n in HEADS.items()}
        seconds: dict[str, list[float]] = {label: [] for label in contenders}
        for _ in range(options.rounds):
            for label, work in contenders.items():
                began = time.process_time()
                work()
                seconds[label].append(time.process_time() - began)
        print(f"vocabulary {vocabulary:,}: a plain step {1000 * statistics.median(seconds['plain']):.1f} ms")
        for label in HEADS:
            ratios = [ours / plain for ours, plain in zip(seconds[label], seconds["plain"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"  {label:<26}{middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
