"""Policy gradients and evolution strategies from one base, on one score, for the same time of a CPU.

    python benchmarks/policy_gradient.py --seeds 0 1 2 3 4 5 --out FOLDER [--seconds 30] [KEY=VALUE …]

Copying three digits. Each seed trains a base until about half of the validation answers are right; it is saved. From
there each arm sees right or wrong alone: `grpo` and `rloo` with the preset policy-gradient-quick, `evolve-es` with its
preset. After 1, 3, 10 and 30 seconds of CPU time of this process, one thread, decoding and scoring of members
included and evaluations not, the exact match of greedy answers to test prompts is taken. Overrides are for the
policy gradients. Printed are the figures of each seed, and for each pair of arms the mean difference over seeds at the
end with its 95 % interval and the exact p of a sign-flip test. Finished arms are kept in FOLDER and not run again.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.methods import load_method
from nanogrove.record.events import read_events
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.studies.statistics import sign_flip, t_interval

PLAIN = ["train.threads=1", "train.accumulation=1", "train.compile=false", "train.precision=float32", "sample.tokens=0"]
LOOKS = (1.0, 3.0, 10.0, 30.0)  # seconds
ARMS = ("grpo", "rloo", "evolve-es")
MOST_BASE_STEPS = 120


def base(seed: int, out: Path) -> tuple[Path, int, float]:
    """The folder of a base that is right in about half of its answers, its steps, and that share."""
    preset = read_preset_file("evolve-es") | {"method": {"name": "pretrain"}, "save": {"every": 1000}}
    settings = [f"seed={seed}", *PLAIN, "evaluate.every=2"]
    looked = out / f"look-{seed}"
    for _ in train(
        resolve(preset, [*settings, f"train.steps={MOST_BASE_STEPS}"]), looked, resume=looked.exists(), report=False
    ):
        pass
    right = {e.step: e.values["exact_match"] for e in read_events(looked / "events.jsonl") if e.kind == "eval"}
    steps = min(right, key=lambda step: abs(right[step] - 0.5))
    folder = out / f"base-{seed}"
    for _ in train(resolve(preset, [*settings, f"train.steps={steps}"]), folder, resume=folder.exists(), report=False):
        pass
    return folder, steps, right[steps]


def preset_of(arm: str, seed: int, begin: Path, overrides: list[str]) -> Any:
    """The preset of an arm, from a saved base, that does not end by itself."""
    common = [f"seed={seed}", *PLAIN, f"method.base={begin}", "evaluate.every=100000000"]
    if arm == "evolve-es":
        return resolve(read_preset_file(arm), [*common, "method.generations=1000000"])
    chosen = [f"method.algorithm={arm}", "method.base_steps=0", "train.steps=1000000", *overrides]
    return resolve(read_preset_file("policy-gradient-quick"), [*common, *chosen])


def exact_match(built: Any, state: Any) -> float:
    """The share of greedy answers to test prompts that are right."""
    return float(evaluate_split(state.model, built.corpus, "test")["exact_match"])


def looks(preset: Any, seconds: float) -> dict[str, Any]:
    """Exact match before training, and when an arm has had as much CPU time as each of `LOOKS` says; and its steps."""
    built = build(preset)
    state = built.new_state()
    figures: dict[str, float] = {}
    due, spent = [each for each in LOOKS if each <= seconds], 0.0
    method, began = load_method(preset.method.name), time.process_time()
    for event in method.run(state, built.corpus, built.plan, preset.method):
        if event.kind != "step":
            began = time.process_time()  # evaluations and what comes before the first step do not count
            figures.setdefault("0", exact_match(built, state))
            continue
        spent += time.process_time() - began
        while due and spent >= due[0]:
            figures[f"{due.pop(0):g}"] = exact_match(built, state)
        if not due:
            break
        began = time.process_time()
    return {"exact_match": figures, "steps": state.step, "seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--seconds", type=float, default=LOOKS[-1], help="CPU time of each arm")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    ends: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in options.seeds:
        folder, steps, right = base(seed, options.out)
        print(f"seed {seed}: exact match {right:.3f} of validation after {steps} base steps", flush=True)
        for arm in ARMS:
            kept = options.out / f"{arm}-{seed}.json"
            if not kept.exists():
                found = looks(preset_of(arm, seed, folder, options.overrides), options.seconds)
                kept.write_text(json.dumps(found))
            found = json.loads(kept.read_text())
            figures = ", ".join(f"{share:.3f} at {at} s" for at, share in found["exact_match"].items())
            print(f"  {arm:10} {figures}; {found['steps']} steps", flush=True)
            ends[arm].append(list(found["exact_match"].values())[-1])
    for arm in ARMS:
        print(f"{arm:10} mean {mean(ends[arm]):.3f}, {min(ends[arm]):.3f} to {max(ends[arm]):.3f}")
    for first, second in (("grpo", "evolve-es"), ("rloo", "evolve-es"), ("rloo", "grpo")):
        gained = [a - b for a, b in zip(ends[first], ends[second], strict=True)]
        low, high = t_interval(gained, 0.05)
        print(f"{first} less {second}: {mean(gained):+.3f} ({low:+.3f} to {high:+.3f}), p {sign_flip(gained):.3f}")


if __name__ == "__main__":
    main()
