"""Whether pretrained weights pay on a text of 4 kB: from nothing, and from a model of Python's standard library.

    python benchmarks/pretrained.py --out FOLDER [--seeds 8]

First a model of 4 layers x 128 trains on the standard library, once. Then `nanogrove compare` trains on the first 60 %
of 4,096 characters of a file of nanogrove, from nothing and from those weights, at equal tokens, each at the best of
the same trials of learning rates, which the next 20 % decide, and scores the loss on the last 20 %. Minutes on two
cores; one that was stopped goes on. `--tiny` tries the logic at a size for tests.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

import nanogrove
from nanogrove.cli.studies import finish, show
from nanogrove.studies.compare import compare
from nanogrove.studies.settings import read_settings

CHARACTERS = 4096
FILE = Path(__file__).parent.parent / "src/nanogrove/train/loop.py"
MODEL = {"family": "llama", "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 128}
TINY = {"family": "llama", "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32}


def base_preset(tiny: bool) -> dict[str, Any]:
    """Training on the standard library."""
    return {
        "data": {"sources": "python-stdlib", "tokenizer": "bpe", "vocab_size": 300 if tiny else 1024},
        "model": TINY if tiny else MODEL,
        "train": {"steps": 5 if tiny else 1000, "batch_size": 8, "threads": 1},
        "optimizer": {"name": "muon", "lr": 0.03, "adamw_lr": 0.01},
        "schedule": {"name": "wsd", "warmup": 20, "decay": 0.5, "final": 0.0},
        "evaluate": {"every": 250, "tokens": 20_000},
        "sample": {"tokens": 0},
    }


def study(base: Path, text: Path, seeds: int, tiny: bool) -> dict[str, Any]:
    """From nothing and from the weights of the run `base`: the same model, tokens and trials of rates."""
    preset = {
        "data": {
            "sources": str(text),
            "tokenizer": str(base / "checkpoints/best/tokenizer.json"),
            "split": "tail",
            "validation": 0.2,
            "test": 0.2,
        },
        "model": {**(TINY if tiny else MODEL), "block_size": 32},
        "train": {"steps": 5 if tiny else 80, "batch_size": 8},
        "schedule": {"name": "cosine", "warmup": 5},
        "evaluate": {"every": 5, "tokens": None},
        "sample": {"tokens": 0},
    }
    return {
        "name": "pretrained",
        "seeds": seeds,
        "preset": preset,
        "arms": [
            {"name": "nothing", "overrides": []},
            {"name": "pretrained", "overrides": [f"train.init={base}"]},
        ],
        "tune": {"optimizer.lr": [0.001] if tiny else [0.0003, 0.001, 0.003, 0.01]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="a size for tests")
    options = parser.parse_args()
    base, text = options.out.absolute() / "base", options.out.absolute() / "text.txt"
    nanogrove.run(base_preset(options.tiny), base, resume=base.exists())
    text.write_text(FILE.read_text(encoding="utf-8")[:CHARACTERS], encoding="utf-8")
    settings = read_settings(study(base, text, options.seeds, options.tiny), "pretrained")
    console = Console()
    finish(show(compare(settings, options.out / "study"), console), options.out / "study", console)


if __name__ == "__main__":
    main()
