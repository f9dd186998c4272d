"""Where adaptive strategies spend tokens, and whether it pays: three sources, of which one is worth learning.

    python benchmarks/mixing.py --out FOLDER [--seeds 0 1 2] [--steps 800] [KEY=VALUE …]

Sources, in bytes: Python's own library, random bytes, and one sentence again and again. Each strategy trains the same
model for as many tokens as uniform mixing does; told are the share of all tokens that each source was given, and the
loss on held-out text of the library, over that of uniform mixing. `excess_loss` is over the uniform run of its seed.
`library alone` trains on nothing else: what could be had at best. Runs lie in FOLDER; one that is there is only read.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from nanogrove import lab
from nanogrove.language_model import load
from nanogrove.parts import build
from nanogrove.preset import resolve
from nanogrove.record.events import read_events
from nanogrove.train.source_weights import reference_losses

SENTENCE = "the quick brown fox jumps over the lazy dog and goes home.\n"
SIZE = 4_000_000  # bytes of noise and of sentences


def preset(folder: Path, seed: int, steps: int, adaptive: dict[str, Any] | None, alone: bool) -> dict[str, Any]:
    """A small model of the three sources, or of the library alone."""
    others = [] if alone else [str(folder / "noise.txt"), str(folder / "sentence.txt")]
    interval = steps * 32 * 128 // 20
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
        "method": {"name": "pretrain", "adaptive": adaptive and {"interval": interval, **adaptive}},
    }


def trained(values: dict[str, Any], out: Path, overrides: list[str]) -> tuple[float, list[float]]:
    """Loss on held-out text of the library, and the share of the tokens that each source was given."""
    chosen = resolve(values, overrides)
    if not (out / "report.html").exists():
        for _ in lab.train(chosen, out, resume=(out / "preset.json").exists()):
            pass
    told = [event.values for event in read_events(out / "events.jsonl") if event.kind == "sources"]
    seen = np.diff([0, *(values["seen"] for values in told)])
    shares = [float(np.average([v["share"][n] for v in told], weights=seen)) for n in range(3)] if told else [1.0]
    model = load(out).model
    corpus = build(chosen).corpus
    loss = reference_losses(model, corpus, 300_000)[0]  # type: ignore[arg-type]
    return loss, shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "sentence.txt").exists():
        noise = np.random.default_rng(0).integers(32, 127, SIZE, dtype=np.uint8)
        (out / "noise.txt").write_bytes(noise.tobytes())
        (out / "sentence.txt").write_text(SENTENCE * (SIZE // len(SENTENCE)))
    results: dict[str, list[tuple[float, list[float]]]] = {}
    for seed in options.seeds:
        reference = str(out / f"uniform-{seed}")
        strategies: dict[str, dict[str, Any] | None] = {
            "uniform": None,
            **{name: {"strategy": name} for name in ("loss", "learning_progress", "odm")},
            "excess_loss": {"strategy": "excess_loss", "reference": reference},
            "library alone": None,
        }
        for name, adaptive in strategies.items():
            values = preset(out, seed, options.steps, adaptive, name == "library alone")
            found = trained(values, out / f"{name.replace(' ', '-')}-{seed}", options.overrides)
            results.setdefault(name, []).append(found)
            print(json.dumps({"seed": seed, "strategy": name, "loss": found[0], "shares": found[1]}), flush=True)
    print("strategy            share of library, noise, sentence   loss on the library   over uniform")
    for name, found in results.items():
        losses = [loss for loss, _ in found]
        more = [loss - base for loss, (base, _) in zip(losses, results["uniform"], strict=True)]
        shares = [statistics.mean(s[n] for _, s in found) for n in range(len(found[0][1]))]
        spread = f"{min(more):+.3f} to {max(more):+.3f}"
        print(
            f"{name:<20}{', '.join(f'{share:.2f}' for share in shares):<36}{statistics.mean(losses):<22.3f}"
            f"{statistics.mean(more):+.3f} ({spread})"
        )


if __name__ == "__main__":
    main()
