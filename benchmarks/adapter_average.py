"""How far averages of adapters are apart: W0 + s·mean(B)·mean(A), which is scored, and the mean of the models.

    python benchmarks/adapter_average.py [--seeds 4] [--steps 300]

Prints, by schedule and seed, the validation losses of the last weights and of both averages over the last half of the
steps, nats per token, and the distance of both over that which training moved. Eight runs take about five minutes.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogrove.config.overrides import resolve
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.model.gpt import GPT
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token

TRAIN = {"batch_size": 32, "threads": 1, "device": "cpu", "precision": "float32", "compile": False, "accumulation": 1}
SCORED_TOKENS = 50_000


def preset(
    seed: int, grammar: int, steps: int, rate: float, schedule: str | None = None, **more: Any
) -> dict[str, Any]:
    """A run on a grammar of this number."""
    return {
        "name": "adapter-average",
        "seed": seed,
        "data": {"type": "rhm", "seed_rules": grammar},
        "model": {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 32},
        "train": {"steps": steps, **TRAIN, **more},
        "optimizer": {"lr": rate},
        **({} if schedule is None else {"schedule": {"name": schedule, "warmup": 10}}),
        "evaluate": {"every": 1000, "tokens": 20_000},
        "sample": {"tokens": 0},
    }


def compare(base: Path, seed: int, steps: int, schedule: str) -> str:
    """A line of the losses and the distance of one run of adapters."""
    more = {"init": str(base), "lora": {"rank": 8, "alpha": 16.0}, "average": {"tail": 0.5}}
    setup = build(resolve(preset(seed, 1, steps, 0.01, schedule, **more)))
    state, mean, count = setup.new_state(), dict[str, Tensor](), 0
    for event in fit(state, setup.corpus.batch, next_token, setup.plan):
        if event.step > setup.plan.average_from:
            count += 1
            for name, weight in state.model.state_dict().items():
                mean[name] = mean[name].lerp(weight.double(), 1 / count) if count > 1 else weight.double()
    of_models = GPT(state.model.config)
    of_models.load_state_dict({name: weight.float() for name, weight in mean.items()})
    models = (state.model, state.scored, of_models)
    losses = [evaluate_split(model, setup.corpus, "validation", SCORED_TOKENS)["loss"] for model in models]
    assert state.adapter is not None
    apart = torch.cat([(mean[name] - weight).flatten() for name, weight in state.scored.state_dict().items()]).norm()
    bases = state.adapter.base.items()
    moved = torch.cat([(mean[f"{path}.weight"] - weight).flatten() for path, weight in bases]).norm()
    figures = "  ".join(f"{loss:.4f}" for loss in losses)
    return f"{schedule:9} {seed:4}  {figures}  {float(apart / moved):.3f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300, help="of each run of adapters")
    options = parser.parse_args()
    print("schedule  seed  last    A and B  models  distance")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            base = Path(folder) / f"base-{seed}"
            for _ in train(resolve(preset(seed, 0, 400, 0.003)), base, report=False):
                pass
            for schedule in ("constant", "cosine"):
                print(compare(base, seed, options.steps, schedule), flush=True)


if __name__ == "__main__":
    main()
