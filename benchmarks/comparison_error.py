"""How often a comparison of equal arms is decided, by real trainings: the error rate of `nanogrove compare`.

    python benchmarks/comparison_error.py [--comparisons 400] [--equal tokens] [--out differences.jsonl]
    python benchmarks/comparison_error.py --equal time        # steps by a measured ratio

Both arms of a comparison are one preset, and their runs of a seed share initial weights and dropout. They differ in
something that cannot matter, the order of their batches, which here, and nowhere else, follows from the arm too. So
each verdict is wrong. Models have 2 layers of 32; a third of the comparisons train on text, on a grammar, and on a
task. They are trained as `stacked` trains them, and judged as `compare` judges.

At equal time such arms have equal steps by rule. Here that rule is off: the second arm gets the steps of both ends of
a measured ratio, and a verdict must hold at both.

Printed is the share that was decided, with its Clopper-Pearson interval of 95 %. With `--out` the paired differences
are written, for `comparison_replay.py`.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SHIFT = 1 << 40  # added to the seed of the second arm: its weights are those of the seed without it
WORDS = ("the", "a", "sun", "moon", "river", "stone", "lamp", "walks", "sings", "waits", "over", "quiet", "old", "or")
SEEDS, STEPS, TOGETHER = 8, 40, 4  # of a comparison; of a run; comparisons in a program
MODEL = {"n_layer": 2, "n_embd": 32, "n_head": 2, "block_size": 32}
DATA: dict[str, dict[str, Any]] = {
    "text": {"tokenizer": "char"},
    "grammar": {"type": "rlm", "L": 5, "v": 8, "held_out": 500, "training_set": 2000},
    "task": {"type": "task", "task": "reverse", "base": [1, 4], "held_out": 20},
}


class Outcome(NamedTuple):
    """A comparison: what it was about, what was decided, and the paired differences of costs, at its first end."""

    setting: str
    outcome: str
    differences: list[float]


def preset(setting: str, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """The preset of a run, as a study pins it."""
    data = {**DATA[setting], **({"sources": str(folder / "text.txt")} if setting == "text" else {})}
    plain = {"device": "cpu", "precision": "float32", "threads": 1, "accumulation": 1, "compile": False}
    return {
        "seed": seed,
        "data": data,
        "model": MODEL,
        "train": {"steps": steps, "batch_size": 8, **plain},
        "optimizer": {"lr": 0.003},
        "schedule": {"name": "wsd", "warmup": 5, "decay": 0.5, "final": 0.0},
        "evaluate": {"every": STEPS * 2, "tokens": 2000},
        "sample": {"tokens": 0},
        "save": {"every": STEPS * 2},
    }


def share_weights() -> None:
    """Makes the weights and the dropout of a run those of its seed without `SHIFT`."""
    from nanogrove.runs import setup
    from nanogrove.train import loop

    for module in (setup, loop):
        original = module.derived_seed
        module.derived_seed = lambda seed, *purpose, draw=original: draw(seed % SHIFT, *purpose)  # type: ignore[attr-defined]


def trained(runs: list[tuple[str, int, int]], folder: Path) -> list[float | None]:
    """The final losses of runs of (setting, seed, steps), of one setting, those of equal steps as one program."""
    from nanogrove.config.overrides import resolve
    from nanogrove.studies.work import run_job

    losses: list[float | None] = [None] * len(runs)
    for steps in sorted({run[2] for run in runs}):
        numbers = [n for n, run in enumerate(runs) if run[2] == steps]
        with tempfile.TemporaryDirectory(dir=folder) as out:
            job = [(resolve(preset(runs[n][0], folder, *runs[n][1:])), Path(out) / str(n)) for n in numbers]
            for place, event in run_job(job):
                if event.kind == "end":
                    losses[numbers[place]] = event.values["loss"]
    return losses


def steps_at_equal_time(setting: str, folder: Path) -> tuple[int, int]:
    """The steps of the second arm at both ends of a ratio that is measured, of two arms that compute the same."""
    from nanogrove.config.overrides import resolve
    from nanogrove.runs.setup import build
    from nanogrove.studies import timing
    from nanogrove.studies.arms import Candidate

    requested = [resolve(preset(setting, folder, seed, STEPS)) for seed in (0, SHIFT)]
    timing.ROUND_SECONDS = 0.03
    first, second = timing.measure_times([Candidate(f"arm{n}", each, build(each)) for n, each in enumerate(requested)])
    ratio = second.cost.main / first.cost.main
    return round(STEPS / ratio / second.high), round(STEPS / ratio / second.low)


def compare(task: tuple[str, int, bool, str]) -> list[Outcome]:
    """Some comparisons of one setting, from the seed of the first."""
    from nanogrove.record.measures import measured
    from nanogrove.studies.verdict import Rule, decide

    setting, first, timed, name = task
    folder = Path(name)
    seeds = [[first + SEEDS * n + k for k in range(SEEDS)] for n in range(TOGETHER)]
    ends = [steps_at_equal_time(setting, folder) if timed else (STEPS,) for _ in seeds]
    runs = [(setting, seed, STEPS) for group in seeds for seed in group]
    runs += [
        (setting, seed + SHIFT, steps)
        for group, arm in zip(seeds, ends, strict=True)
        for steps in arm
        for seed in group
    ]
    losses = dict(zip(runs, trained(runs, folder), strict=True))
    rule = Rule(measured({"loss": 0.0})[0])
    outcomes = []
    for group, arm in zip(seeds, ends, strict=True):
        figures = [
            {
                "one": {seed: losses[setting, seed, STEPS] for seed in group},
                "other": {seed: losses[setting, seed + SHIFT, steps] for seed in group},
            }
            for steps in arm
        ]
        (verdict,) = decide(figures, rule)
        pairs = zip(figures[0]["one"].values(), figures[0]["other"].values(), strict=True)
        differences = [one - other for one, other in pairs if one is not None and other is not None]
        outcomes.append(Outcome(setting, verdict.outcome, differences))
    return outcomes


def tasks(comparisons: int, timed: bool, folder: Path) -> Iterator[tuple[str, int, bool, str]]:
    """Groups of comparisons, the settings in turn; no seed comes twice."""
    for number in range(-(-comparisons // TOGETHER)):
        setting = list(DATA)[number % len(DATA)]
        yield setting, number * TOGETHER * SEEDS, timed, str(folder)


def begin() -> None:
    """Prepares a process."""
    import torch

    torch.set_num_threads(1)
    os.fsync = lambda fd: None  # nothing of it outlives this script
    share_weights()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=400)
    parser.add_argument("--equal", choices=("tokens", "time"), default="tokens")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    began, outcomes = time.perf_counter(), list[Outcome]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (
            " ".join(WORDS[(7 * n * n + 3 * k * n + k) % len(WORDS)] for k in range(n % 7 + 3)) for n in range(4000)
        )
        (folder / "text.txt").write_text("\n".join(lines))
        os.environ["NANOGROVE_CACHE"] = str(folder / "cache")
        work = list(tasks(arguments.comparisons, arguments.equal == "time", folder))
        with multiprocessing.get_context("spawn").Pool(arguments.workers, begin) as pool:
            for number, some in enumerate(pool.imap_unordered(compare, work), 1):
                outcomes += some
                if number % 10 == 0:
                    print(f"{len(outcomes)} comparisons, {time.perf_counter() - began:.0f} s", flush=True)
    if arguments.out is not None:
        arguments.out.write_text("".join(json.dumps(each._asdict()) + "\n" for each in outcomes))
    report(outcomes, arguments.equal)


def report(outcomes: list[Outcome], equal: str) -> None:
    """Prints a line for each setting, and one for all. Ends where the batches of both arms were the same."""
    from comparison_replay import clopper_pearson

    for setting in (*DATA, "all"):
        some = [each for each in outcomes if setting in (each.setting, "all")]
        if some:
            assert all(any(each.differences) for each in some), "both arms trained on the same batches"
            wrong = sum(each.outcome != "not shown" for each in some)
            low, high = clopper_pearson(wrong, len(some))
            share = f"{wrong / len(some):.3f} ({low:.3f} to {high:.3f})"
            print(f"equal {equal}, {setting}: {wrong} of {len(some)} comparisons decided, {share}")


if __name__ == "__main__":
    main()
