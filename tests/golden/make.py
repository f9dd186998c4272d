"""The loss curves that every method must keep, from tiny runs of the command line.

    python tests/golden/make.py            writes losses.json anew, after a change that is meant to change results
    python tests/golden/make.py --compare  prints how far this machine's curves are from it, and writes nothing
    python tests/golden/make.py --compare --rate 1.01    the same with every learning rate 1 % higher

With ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2, or with avx2, AVX2 and AVX2,
the second shows what other CPUs change.
"""

import argparse
import contextlib
import io
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).with_name("losses.json")
WORDS = ["the", "a", "sun", "moon", "river", "stone", "lamp", "walks", "sings", "waits", "old", "return"]
FIELDS = {  # what is kept of each kind of event
    "step": ("loss",),
    "eval": ("loss", "score"),
    "auxiliary": ("shares",),
    "sources": ("loss", "weights"),
    "generation": ("score", "births"),
    "student": ("loss",),
    "exact": ("exact",),
    "round": ("accepted", "labels"),
    "reward": ("mean",),
}
RATES = {"lr", "adamw_lr"}
BASE: dict[str, Any] = {
    "data.sources": "text.txt",
    "data.tokenizer": "char",
    "model.n_layer": 2,
    "model.n_head": 2,
    "model.n_embd": 16,
    "model.block_size": 24,
    "train.steps": 8,
    "train.batch_size": 8,
    "train.accumulation": 1,
    "train.device": "cpu",
    "train.precision": "float32",
    "train.threads": 1,
    "train.compile": False,
    "optimizer.lr": 0.03,
    "schedule.warmup": 0,
    "evaluate.every": 4,
    "evaluate.tokens": 500,
    "sample.tokens": 0,
}
REWARDED: dict[str, Any] = {
    "data": {"type": "rewarded", "path": "rows.jsonl", "prompt": "prompt", "tokenizer": "char"},
    "method": {"name": "offline_rl", "base_steps": 3},
    "train.steps": 6,
}
CASES: dict[str, dict[str, Any]] = {
    "pretrain": {},
    "pretrain, muon": {
        "model.family": "llama",
        "optimizer": {"name": "muon", "lr": 0.02, "adamw_lr": 0.01},
        "schedule.name": "wsd",
    },
    "pretrain, heads": {
        "model.family": "nanochat",
        **{f"auxiliary.enable_{name}": True for name in ("policy", "value", "dynamics", "multi_token")},
        "auxiliary.enable_span_contrastive": True,
    },
    "pretrain, memory": {
        "model.memory_tokens": 2,
        "model.memory_segment": 8,
        "auxiliary.enable_memory": True,
    },
    "pretrain, curriculum": {"method": {"name": "pretrain", "curriculum": {"start": 0.3, "until": 0.8}}},
    "pretrain, mixing": {
        "data.sources": ["text.txt", "other.txt"],
        "data.mix_strategy": "weighted",
        "data.source_weights": [3, 1],
        "method": {"name": "pretrain", "adaptive": {"strategy": "loss", "interval": 400}},
    },
    "ensemble": {
        "method": {"name": "ensemble", "members": 3, "distill_steps": 4},
        "train.steps": 5,
        "train.average": {"half_life": 2},
    },
    "ensemble, chain": {
        "method": {"name": "ensemble", "members": 2, "chain": True, "distill_steps": 2},
        "train.steps": 4,
        "train.average": {"tail": 0.5},
    },
    "evolve": {
        "method": {
            "name": "evolve",
            "population_size": 4,
            "generations": 4,
            "steps_per_generation": 2,
            "significance": None,
            "noise": 0.01,
            "parents": 0.5,
            "crossover": "layers",
            "vary": {"weight_decay": {"low": 0.001, "high": 1.0, "factor": 2.0}},
        },
        "train.steps": None,
    },
    "evolution_strategies": {
        "method": {
            "name": "evolution_strategies",
            "population_size": 8,
            "generations": 5,
            "at_once": 8,
            "sigma": 0.02,
            "fitness": "loss",
        },
        "train.steps": 3,
    },
    "self_improve": {
        "method": {
            "name": "self_improve",
            "voters": 2,
            "si_rounds": 2,
            "si_iter": 2,
            "to": 4,
            "examples": 16,
            "guard": False,
        },
        "data": {"type": "task", "task": "copy", "base": [1, 2], "held_out": 4},
        "train.steps": 4,
        "optimizer.lr": 0.003,
    },
    "align": {
        "method": {
            "name": "align",
            "reward": {"terms": {"sun": 1.0, "o": 0.1}},
            "rounds": 2,
            "steps_per_round": 2,
            "texts": 16,
            "prompt": 4,
            "tokens": 12,
            "kl_cap": None,
            "rate": 1.0,
        },
        "train.steps": 4,
    },
    "offline_rl, rwr": {**REWARDED, "method.algorithm": "rwr"},
    "offline_rl, awr": {**REWARDED, "method.algorithm": "awr"},
    "offline_rl, kto": {**REWARDED, "method.algorithm": "kto", "optimizer.lr": 0.01},
    "offline_rl, dpo": {
        **REWARDED,
        "data": {"type": "preferences", "path": "rows.jsonl", "tokenizer": "char"},
        "method.algorithm": "dpo",
        "method.nll_weight": 0.5,
    },
    "policy_gradient, grpo": {
        "data": {"type": "task", "task": "copy", "base": [1, 2], "held_out": 10},
        "method": {
            "name": "policy_gradient",
            "base_steps": 3,
            "samples": 4,
            "iterations": 2,
            "beta": 0.1,
            "reward": {"length": 2},
        },
        "train.steps": 6,
        "optimizer.lr": 0.01,
    },
    "policy_gradient, rloo": {
        "method": {
            "name": "policy_gradient",
            "algorithm": "rloo",
            "base_steps": 3,
            "samples": 4,
            "prompt": 4,
            "tokens": 12,
            "beta": 0.1,
            "reward": {"pattern": "o"},
        },
        "train.steps": 6,
    },
    "reward_model": {
        "data": {"type": "rewarded", "path": "rows.jsonl", "tokenizer": "char"},
        "method": {"name": "reward_model"},
        "model.scalar": True,
        "optimizer.lr": 0.003,
    },
}
Curves = dict[str, list[float]]


def write_data(folder: Path) -> None:
    """The files that cases read."""
    for name, step in (("text.txt", 7), ("other.txt", 5)):
        lines = (" ".join(WORDS[(n * n + step * k) % len(WORDS)] for k in range(4 + n % 5)) for n in range(300))
        (folder / name).write_text("".join(f"{line}.\n" for line in lines), "utf-8")
    rows = (
        {
            "prompt": f"{n % 50}=",
            "text": "ab" * (n % 7 + 1),
            "reward": -n % 7,
            "chosen": "ab",
            "rejected": "ba" * (n % 3 + 2),
        }
        for n in range(120)
    )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def preset_of(case: str, rate: float = 1.0) -> dict[str, Any]:
    """The preset of a case, its learning rates times `rate`."""
    preset: dict[str, Any] = {}
    for key, value in {**BASE, **CASES[case]}.items():
        section, _, name = key.partition(".")
        if name:
            preset.setdefault(section, {})[name] = value
        else:
            preset[section] = dict(value)
    preset["optimizer"] |= {name: preset["optimizer"][name] * rate for name in RATES & preset["optimizer"].keys()}
    return preset


def flat(value: Any) -> list[float]:
    """The numbers of a value of an event, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [value] if isinstance(value, (int, float)) else []


def curves(case: str, folder: Path, rate: float = 1.0) -> Curves:
    """What a run of the command line in `folder` writes into its record, by kind of event and field."""
    write_data(folder)
    (folder / "preset.json").write_text(json.dumps(preset_of(case, rate)), "utf-8")
    here, arguments = Path.cwd(), sys.argv
    try:
        os.chdir(folder)
        sys.argv = ["nanogrove", "train", "preset.json", "--out", "run"]
        runpy.run_module("nanogrove", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = arguments
        os.chdir(here)
    found: Curves = {}
    for line in (folder / "run" / "events.jsonl").read_text("utf-8").splitlines():
        event = json.loads(line)
        for field in FIELDS.get(event["kind"], ()):
            if field in event:
                found.setdefault(f"{event['kind']}.{field}", []).extend(flat(event[field]))
    return found


def distance(found: Curves, golden: Curves) -> float:
    """The largest difference of two numbers that belong together, over the golden one or 1 where that is less.

    Infinite where a curve is missing, or has another length.
    """
    if {name: len(curve) for name, curve in found.items()} != {name: len(curve) for name, curve in golden.items()}:
        return float("inf")
    pairs = ((a, b) for name, curve in golden.items() for a, b in zip(found[name], curve, strict=True))
    return max(abs(a - b) / max(abs(b), 1.0) for a, b in pairs)


def main() -> None:
    """Writes losses.json, or compares with it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--compare", action="store_true", help="print distances from losses.json and write nothing")
    parser.add_argument("--rate", type=float, default=1.0, help="times every learning rate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["NANOGROVE_CACHE"] = f"{name}/cache"
        made = {}
        for number, case in enumerate(CASES):
            folder = Path(name) / str(number)
            folder.mkdir()
            with contextlib.redirect_stdout(io.StringIO()):
                made[case] = curves(case, folder, options.rate)
    if options.compare:
        golden = json.loads(GOLDEN.read_text("utf-8"))
        for case in CASES:
            print(f"{distance(made[case], golden[case]):.1e}  {case}")
    else:
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
