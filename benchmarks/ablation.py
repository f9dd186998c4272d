"""Whether auxiliary heads make the next token better: each alone, and all, at equal tokens and at equal time.

    python benchmarks/ablation.py --out FOLDER [--data python grammar] [--seeds 0 1 2] [--steps 300]

Two data: `python`, Python's own library with the model of `muzero-quick`, and `grammar`, the preset `rlm-deep`. Equal
tokens: as many steps as the plain run. Equal time: the plain run that takes as long, interpolated between plain runs of
several lengths, each with its whole schedule; the cost of heads is measured here, in processor time, in turn. Told is
the loss with heads less the plain one, on held-out text, the mean over seeds and its 95 % interval (Student's t over
paired differences). Runs lie in FOLDER; one that is there is only read.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from auxiliary import HEADS, costs
from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.record.events import read_events
from nanogrove.runs.setup import build
from nanogrove.runs.train import train

LENGTHS = (1.0, 1.3, 1.75, 2.4, 3.0)  # of plain runs, over the steps of those with heads
SETTLED = {"threads": 1, "precision": "float32", "accumulation": 1, "compile": False}
HORIZON = {"python": 8, "grammar": 4}


def preset(data: str, steps: int, seed: int, heads: list[str]) -> dict[str, Any]:
    """The preset of a run."""
    values = read_preset_file({"python": "muzero-quick", "grammar": "rlm-deep"}[data])
    return {
        **values,
        "seed": seed,
        "train": {**values["train"], "steps": steps, "device": "cpu", **SETTLED},
        "auxiliary": {"value_horizon": HORIZON[data], **{f"enable_{name}": True for name in heads}},
        "evaluate": {"every": 10**6, "tokens": 20_000},
        "sample": {"tokens": 0},
        "save": {"every": 10**6},
    }


def trained(values: dict[str, Any], out: Path) -> float:
    """The loss on held-out data at the end of a run."""
    if not (out / "report.html").exists():
        for _ in train(resolve(values), out, resume=(out / "preset.json").exists()):
            pass
    loss: float = next(e.values["loss"] for e in read_events(out / "events.jsonl") if e.kind == "end")
    return loss


def interval(differences: list[float]) -> str:
    """Their mean and its 95 % interval."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.4f}"
    reach = student.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.4f} ({mean - reach:+.4f} to {mean + reach:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=HORIZON, default=list(HORIZON))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for data in options.data:
        plain: dict[int, list[float]] = {}
        losses: dict[str, dict[int, float]] = {label: {} for label in HEADS}
        for seed in options.seeds:
            plain[seed] = []
            for length in LENGTHS:
                values = preset(data, round(options.steps * length), seed, [])
                plain[seed].append(trained(values, options.out / f"{data}-plain-{length:g}-{seed}"))
            for label, heads in HEADS.items():
                name = f"{data}-{'-'.join(heads)}-{seed}"
                losses[label][seed] = trained(preset(data, options.steps, seed, heads), options.out / name)
        parts = build(resolve(preset(data, options.steps, 0, [])))
        _, ratios = costs(
            HEADS, parts.model_on_data, parts.preset.train.batch_size, options.rounds, value_horizon=HORIZON[data]
        )
        shown = ", ".join(f"{statistics.mean(row[n] for row in plain.values()):.4f}" for n in range(len(LENGTHS)))
        print(
            f"\n{data}: plain runs of {', '.join(f'{length:g}' for length in LENGTHS)} x {options.steps} steps: {shown}"
        )
        if "best_loss" in parts.corpus.describe():
            print(f"  the best loss there is: {parts.corpus.describe()['best_loss']:.4f}")
        print(f"  {'heads':<26}{'cost':>6}  {'at equal tokens':<32}at equal time")
        for label in HEADS:
            cost = ratios[label][1]
            tokens = [losses[label][seed] - plain[seed][0] for seed in options.seeds]
            times = [
                losses[label][seed] - float(np.interp(math.log(cost), np.log(LENGTHS), plain[seed]))
                for seed in options.seeds
            ]
            print(f"  {label:<26}{cost:>6.2f}  {interval(tokens):<32}{interval(times)}", flush=True)


if __name__ == "__main__":
    main()
