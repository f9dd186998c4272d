"""Whether beginning with easy rows makes a better model: `method.curriculum` against none, on Python's own library.

    python benchmarks/curriculum.py --out FOLDER [--seeds 0 1 2] [--steps 300]

The model of `muzero-quick` without heads. Equal reading: as many steps, so that a curriculum trains on fewer rows.
Equal training: as many more steps as make as many rows. Told is the loss with a curriculum less that without, on
held-out text, the mean over seeds and its 95 % interval (Student's t over paired differences). Runs lie in FOLDER,
which may be that of `ablation.py`; one that is there is only read.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from ablation import interval, preset, trained

CHOICES: dict[str, dict[str, float]] = {
    "half of the rows, all at half the run": {"start": 0.5, "until": 0.5},
    "a quarter, all at half the run": {"start": 0.25, "until": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain = [
        trained(preset("python", options.steps, seed, []), options.out / f"python-plain-1-{seed}")
        for seed in options.seeds
    ]
    print(f"{'rows at first':<40}{'equal reading':<34}equal training")
    for name, choice in CHOICES.items():
        mean = 1 - (1 - choice["start"]) * choice["until"] / 2  # share of the rows that are trained on
        intervals = []
        for steps in (options.steps, round(options.steps / mean)):
            losses = []
            for seed in options.seeds:
                values: dict[str, Any] = preset("python", steps, seed, [])
                values["method"] = {"name": "pretrain", "curriculum": choice}
                label = f"curriculum-{choice['start']:g}-{choice['until']:g}-{steps}-{seed}"
                losses.append(trained(values, options.out / label))
            intervals.append(interval([loss - other for loss, other in zip(losses, plain, strict=True)]))
        print(f"{name:<40}{intervals[0]:<34}{intervals[1]}", flush=True)


if __name__ == "__main__":
    main()
