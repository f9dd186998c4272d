"""Claims of the docs about methods, decided by `nanogrove compare`: paired seeds, equal compute.

    python benchmarks/claims.py NAME ... --out FOLDER [--seeds 8]      # a study in FOLDER/NAME; all when left out
    python benchmarks/claims.py --list

Each study takes up to about 20 minutes of two cores. One that was stopped goes on, and one that is there is only read.

- `optimizers`: Muon and AdamW, with the same trials of rates.
- `token-shift`, `curriculum`, `heads` and `each-head` (at equal tokens), `heads-time`.
- `reconstruction`, of a memory, on text.
- `breeding`: population based training whose 16 members begin with rates from all that is allowed; random search over
  the same, with and without decay; and one model, at the rate that was the best of 0.001, 0.002, 0.004, 0.008 and 0.016
  on a seed that the study does not have.
- `low-rates`: the same where all rates begin too low.
"""

import argparse
from pathlib import Path
from typing import Any

BASE: dict[str, Any] = {
    "data": {"sources": ["python-stdlib"], "tokenizer": "bpe", "vocab_size": 512},
    "model": {"family": "nanochat", "n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64},
    "train": {"steps": 600, "batch_size": 16},
    "optimizer": {"name": "muon", "lr": 0.04, "adamw_lr": 0.01, "weight_decay": 0.0},
    "schedule": {"name": "wsd", "warmup": 10, "decay": 0.7, "final": 0.0},
    "evaluate": {"every": 100, "tokens": 20_000},
    "save": {"every": 300},
}
ONE_MODEL: dict[str, Any] = {
    "data": {"sources": ["python-stdlib"], "tokenizer": "char"},
    "model": {"family": "nanochat", "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32},
    "train": {"steps": 1000, "batch_size": 8},
    "optimizer": {"name": "adamw", "weight_decay": 0.0},
    "schedule": BASE["schedule"],
    "evaluate": {"every": 500, "tokens": 8192},
    "save": {"every": 500},
}
RATES = {"low": 1e-6, "high": 1.0, "factor": 2.0}
LOW_RATES = {**RATES, "start": [1e-6, 1e-3]}
BRED: dict[str, Any] = {
    **ONE_MODEL,
    "method": {
        "name": "evolve",
        "population_size": 16,
        "generations": 12,
        "steps_per_generation": 20,
        "vary": {"lr": RATES},
    },
    "train": {"batch_size": 8},
    "schedule": {"name": "constant"},
    "evaluate": {"every": 100, "tokens": 8192},
}
SEARCH = "method.selection=none"
DECAY = ("schedule.name=wsd", "schedule.warmup=10", "schedule.decay=0.7", "schedule.final=0")
HEADS = ("policy", "value", "dynamics", "span_contrastive", "multi_token")


def arm(name: str, *overrides: str, **settings: Any) -> dict[str, Any]:
    """An arm of a study."""
    return {"name": name, "overrides": list(overrides), **settings}


SHORT = {**BASE, "train": {"steps": 300, "batch_size": 16}}
WITH_HEADS = {
    "preset": SHORT,
    "arms": [arm("plain"), arm("heads", *(f"auxiliary.enable_{head}=true" for head in HEADS))],
}
STUDIES: dict[str, dict[str, Any]] = {
    "optimizers": {
        "preset": BASE,
        "equal": "time",
        "arms": [arm("muon"), arm("adamw", "optimizer.name=adamw")],
        "tune": {"optimizer.lr": [0.003, 0.01, 0.03, 0.1]},
    },
    "token-shift": {
        "preset": BASE,
        "equal": "time",
        "arms": [arm("plain", "model.token_shift=false"), arm("shift", "model.token_shift=true")],
    },
    "curriculum": {
        "preset": SHORT,
        "equal": "time",
        "arms": [arm("plain"), arm("easy-first", "method.curriculum.start=0.5", "method.curriculum.until=0.5")],
    },
    "heads": {**WITH_HEADS, "equal": "tokens"},
    "heads-time": {**WITH_HEADS, "equal": "time"},
    "each-head": {
        "preset": SHORT,
        "equal": "tokens",
        "arms": [arm("plain"), *(arm(head.replace("_", "-"), f"auxiliary.enable_{head}=true") for head in HEADS[1:])],
    },
    "reconstruction": {
        "preset": {**SHORT, "model": {**BASE["model"], "block_size": 128, "memory_tokens": 8, "memory_segment": 32}},
        "equal": "time",
        "arms": [
            arm("memory"),
            arm("reconstruction", "auxiliary.enable_memory=true"),
        ],
    },
    "breeding": {
        "preset": BRED,
        "equal": "time",
        "arms": [
            arm("pbt"),
            arm("search", SEARCH),
            arm("search-with-decay", SEARCH, *DECAY),
            arm("one-model", "optimizer.lr=0.008", preset=ONE_MODEL),
        ],
    },
    "low-rates": {
        "preset": {**BRED, "method": {**BRED["method"], "generations": 20, "vary": {"lr": LOW_RATES}}},
        "equal": "time",
        "arms": [arm("pbt"), arm("search", SEARCH), arm("search-with-decay", SEARCH, *DECAY)],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list or arguments.out is None:
        print("\n".join(STUDIES))
        return
    from rich.console import Console

    from nanogrove.cli.studies import finish, show
    from nanogrove.studies.compare import compare
    from nanogrove.studies.settings import read_settings

    console = Console()
    for name in arguments.names or STUDIES:
        study = read_settings({"name": name, "seeds": arguments.seeds, **STUDIES[name]}, name)
        finish(show(compare(study, arguments.out / name), console), arguments.out / name, console)


if __name__ == "__main__":
    main()
