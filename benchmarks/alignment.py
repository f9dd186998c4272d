"""Whether self-alignment raises the reward of what a model writes, and what it costs in perplexity.

    python benchmarks/alignment.py --seeds 0 1 2 3 4 --out FOLDER [KEY=VALUE …]

The preset align-terms for each seed. For each it prints the mean reward of texts written anew, after prompts that no
round saw, by the model before the first round and by the one that was kept, the z of their difference, and what the
latter's perplexity on validation text is above the former's.
"""

import argparse
import math
import statistics
from pathlib import Path

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.language_model import load
from nanogrove.methods import align
from nanogrove.model.gpt import GPT
from nanogrove.record.events import read_events
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import load_latest

TEXTS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    gains, costs = [], []
    for seed in options.seeds:
        out = options.out / f"seed-{seed}"
        preset = resolve(read_preset_file("align-terms"), [f"seed={seed}", "sample.tokens=0", *options.overrides])
        for _ in train(preset, out, resume=(out / "preset.json").exists()):
            pass
        events = read_events(out / "events.jsonl")
        losses = {event.step: event.values["loss"] for event in events if event.kind == "eval"}
        before = next(event.step for event in events if event.kind == "reward")
        best = next(event.values["best_step"] for event in events if event.kind == "end")
        aligned = load(out).model
        reference = GPT(aligned.config)
        checkpoint, _ = load_latest(out / "checkpoints")
        assert checkpoint is not None
        reference.load_state_dict(checkpoint.method_tensors)
        assert isinstance(preset.method, align.Config)
        corpus, config = build(preset).corpus, preset.method.model_copy(update={"texts": TEXTS})
        means, errors = [], []
        for model in (reference.eval(), aligned):
            samples = align.written(model, corpus, config, seed, "benchmark")
            scores = config.reward.find(False)([sample.text for sample in samples])
            means.append(statistics.mean(scores))
            errors.append(statistics.stdev(scores) / TEXTS**0.5)
        z = (means[1] - means[0]) / math.hypot(*errors)
        cost = math.exp(losses[best] - losses[before]) - 1
        gains.append(means[1] - means[0])
        costs.append(cost)
        print(f"seed {seed}: reward {means[0]:.3f} to {means[1]:.3f} (z {z:.1f}), perplexity {cost:+.1%}", flush=True)
    t = statistics.mean(gains) / (statistics.stdev(gains) / len(gains) ** 0.5)
    print(f"mean gain {statistics.mean(gains):.3f}, t over seeds {t:.1f}")
    print(f"perplexity at most {max(costs):+.1%}, asked <= 5 %")


if __name__ == "__main__":
    main()
