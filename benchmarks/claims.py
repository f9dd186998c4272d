"""Claims of the docs about methods, decided by `nanogrove compare`: paired seeds, equal compute, each arm tuned alike.

    python benchmarks/claims.py NAME ... --out FOLDER [--seeds 8]      # a study in FOLDER/NAME; NAMES when left out
    python benchmarks/claims.py --list

Each study takes up to about 20 minutes of two cores. One that was stopped goes on, and one that is there is only read.
"""

import argparse
from pathlib import Path
from typing import Any

CODE = {"sources": ["python-stdlib"], "tokenizer": "bpe", "vocab_size": 512}
BASE: dict[str, Any] = {
    "data": CODE,
    "model": {"family": "nanochat", "n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64},
    "train": {"steps": 600, "batch_size": 16},
    "optimizer": {"name": "muon", "lr": 0.04, "adamw_lr": 0.01, "weight_decay": 0.0},
    "schedule": {"name": "wsd", "warmup": 10, "decay": 0.7, "final": 0.0},
    "evaluate": {"every": 100, "tokens": 20_000},
    "save": {"every": 300},
}
HEADS = ["policy", "value", "dynamics", "span_contrastive", "multi_token"]
EVOLVE = {key: BASE[key] for key in ("data", "model", "evaluate", "save")} | {
    "train": {"batch_size": 8},
    "optimizer": {"name": "adamw", "weight_decay": 0.0},
    "schedule": {"name": "constant"},
}
SINGLE = {**EVOLVE, "train": {"steps": 1000, "batch_size": 8}, "schedule": BASE["schedule"]}
RATES = {"low": 1e-6, "high": 1.0, "factor": 2.0}
SEARCH = ["method.selection=none"]
DECAY = ["schedule.name=wsd", "schedule.decay=0.7", "schedule.final=0"]


def evolution(**changes: Any) -> dict[str, Any]:
    """A preset of 16 members whose rates are drawn from all that is allowed, unless `changes` say otherwise."""
    method = {"name": "evolve", "population_size": 16, "generations": 20, "steps_per_generation": 30}
    return {**EVOLVE, "method": {**method, "vary": {"lr": RATES}, **changes}}


def arm(name: str, *overrides: str, **settings: Any) -> dict[str, Any]:
    """An arm of a study."""
    return {"name": name, "overrides": list(overrides), **settings}


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
        "preset": BASE,
        "equal": "time",
        "arms": [
            arm("plain"),
            arm("easy-first", "method.curriculum.start=0.5", "method.curriculum.until=0.5"),
        ],
    },
    "heads": {
        "preset": BASE,
        "equal": "tokens",
        "arms": [arm("plain"), arm("heads", *(f"auxiliary.enable_{head}=true" for head in HEADS))],
    },
    "heads-time": {
        "preset": BASE,
        "equal": "time",
        "arms": [arm("plain"), arm("heads", *(f"auxiliary.enable_{head}=true" for head in HEADS))],
    },
    "reconstruction": {
        "preset": {**BASE, "model": {**BASE["model"], "block_size": 128, "memory_tokens": 8, "memory_segment": 32}},
        "equal": "time",
        "arms": [arm("memory"), arm("reconstruction", "auxiliary.enable_memory=true")],
    },
    "breeding": {
        "preset": evolution(),
        "equal": "time",
        "arms": [
            arm("pbt"),
            arm("search", *SEARCH),
            arm("search-with-decay", *SEARCH, *DECAY),
            arm("pbt-from-low-rates", preset=evolution(vary={"lr": {**RATES, "start": [1e-6, 1e-3]}})),
            arm(
                "one-model", preset={**EVOLVE, "train": {"steps": 1000, "batch_size": 8}, "schedule": BASE["schedule"]}
            ),
        ],
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
