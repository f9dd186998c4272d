"""Where adaptive strategies spend tokens, and whether it pays: three sources, of which one is worth learning.

    python benchmarks/mixing.py [KEY=VALUE …] --out FOLDER [--seeds 0 1 …] [--steps 400 …] [--strategies odm …]

Sources, in bytes: Python's own library, random bytes, and one sentence again and again. Each strategy trains the same
model for as many tokens as uniform mixing does. Printed for each budget are the share of all tokens that each source
was given, and the loss on held-out text of the library less that of uniform mixing of the same seed: its mean over
seeds with a 95 % interval (Student's t), and the value of each seed. `excess_loss` is over the uniform run of its seed.
`library alone` trains on nothing else: what could be had at best. Runs lie in FOLDER; one that is there is only read.
"""

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from nanogrove.config.overrides import resolve
from nanogrove.language_model import load
from nanogrove.record.events import read_events
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.sampling.source_weights import reference_losses

SENTENCE = "the quick brown fox jumps over the lazy dog and goes home.\n"
SIZE = 4_000_000  # bytes of noise and of sentences
STRATEGIES = ("loss", "learning_progress", "odm", "excess_loss", "library alone")
HELD_OUT = 100_000  # tokens on which a model is scored, all sources together


def preset(folder: Path, seed: int, steps: int, adaptive: dict[str, Any] | None, alone: bool) -> dict[str, Any]:
    """A small model of the three sources, or of the library alone."""
    others = [] if alone else [str(folder / "noise.txt"), str(folder / "sentence.txt")]
    return {
        "name": "mixing",
        "seed": seed,
        "data": {"sources": ["python-stdlib", *others], "tokenizer": "byte"},
        "model": {"family": "nanochat", "n_layer": 3, "n_head": 4, "n_embd": 96, "block_size": 128},
        "train": {"steps": steps, "batch_size": 32, "threads": 1, "precision": "float32", "accumulation": 1},
        "optimizer": {"name": "muon", "lr": 0.02, "adamw_lr": 0.005, "weight_decay": 0.0},
        "schedule": {"name": "wsd", "warmup": 10, "decay": 0.5, "final": 0.0},
        "evaluate": {"every": 10**6, "tokens": 50_000},
        "sample": {"tokens": 0},
        "method": {"name": "pretrain", "adaptive": adaptive},
    }


def trained(values: dict[str, Any], out: Path, overrides: list[str]) -> tuple[float, list[float]]:
    """Loss on held-out text of the library, and the share of the tokens that each source was given."""
    chosen = resolve(values, overrides)
    if adaptive := values["method"]["adaptive"]:
        tokens = chosen.train.batch_size * chosen.model.block_size
        adaptive["interval"] = (chosen.train.steps or 0) * tokens // 20
        chosen = resolve(values, overrides)
    if not (out / "report.html").exists():
        for _ in train(chosen, out, resume=(out / "preset.json").exists()):
            pass
    source_events = [event.values for event in read_events(out / "events.jsonl") if event.kind == "sources"]
    seen = np.diff([0, *(values["seen"] for values in source_events)])
    shares = (
        [float(np.average([v["share"][n] for v in source_events], weights=seen)) for n in range(3)]
        if source_events
        else [1.0]
    )
    model = load(out).model
    corpus = build(chosen).corpus
    loss = reference_losses(model, corpus, HELD_OUT)[0]  # type: ignore[arg-type]
    return loss, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[800])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "sentence.txt").exists():
        noise = np.random.default_rng(0).integers(32, 127, SIZE, dtype=np.uint8)
        (out / "noise.txt").write_bytes(noise.tobytes())
        (out / "sentence.txt").write_text(SENTENCE * (SIZE // len(SENTENCE)))
    for steps in options.steps:
        results: dict[str, list[tuple[float, list[float]]]] = {}
        for seed, name in itertools.product(options.seeds, ("uniform", *options.strategies)):
            reference = {"reference": str(out / f"uniform-{steps}-{seed}")} if name == "excess_loss" else {}
            adaptive = None if name in ("uniform", "library alone") else {"strategy": name, **reference}
            values = preset(out, seed, steps, adaptive, name == "library alone")
            result = trained(values, out / f"{name.replace(' ', '-')}-{steps}-{seed}", options.overrides)
            results.setdefault(name, []).append(result)
            row = {"steps": steps, "seed": seed, "strategy": name, "loss": result[0], "shares": result[1]}
            print(json.dumps(row), flush=True)
        print_table(steps, results)


def print_table(steps: int, results: dict[str, list[tuple[float, list[float]]]]) -> None:
    """Shares and losses of each strategy, and what they bring over uniform mixing."""
    print(f"{steps} steps")
    print("strategy            share of library, noise, sentence   loss    over uniform (95 %), by seed")
    for name, runs in results.items():
        losses = [loss for loss, _ in runs]
        more = np.array([loss - base for loss, (base, _) in zip(losses, results["uniform"], strict=True)])
        half = stats.t.ppf(0.975, len(more) - 1) * stats.sem(more) if len(more) > 1 else math.nan
        shares = [statistics.mean(s[n] for _, s in runs) for n in range(len(runs[0][1]))]
        print(
            f"{name:<20}{', '.join(f'{share:.2f}' for share in shares):<36}{statistics.mean(losses):<8.3f}"
            f"{more.mean():+.3f} ({more.mean() - half:+.3f} to {more.mean() + half:+.3f})  "
            f"{', '.join(f'{value:+.3f}' for value in more)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
