"""How far evolution strategies come, and what breeding costs. What breeding gains is a study of `claims.py`.

    python benchmarks/evolution.py strategies --out FOLDER
    python benchmarks/evolution.py breeding --out FOLDER

`strategies` runs the preset evolve-es, each seed from a base that is right in half of its answers. `breeding` times a
generation's parts at 16 members of 2 × 64, and the memory of 32. Runs lie in FOLDER; one that is there goes on, or is
only read.
"""

import argparse
import json
import resource
import statistics
from pathlib import Path
from typing import Any

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.record.events import Event, read_events
from nanogrove.runs.train import train


def changed(preset: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A preset with values set by dotted key."""
    values = json.loads(json.dumps(preset))
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
    return values


def record(preset: dict[str, Any], out: Path, overrides: list[str]) -> list[Event]:
    """The events of a run, made now where it is not there."""
    settings = ["sample.tokens=0", *overrides]
    for _ in train(resolve(preset, settings), out, resume=(out / "preset.json").exists()):
        pass
    return read_events(out / "events.jsonl")


def interval(values: list[float]) -> str:
    """The median and the range, which of five values holds the true median 15 times in 16."""
    return f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def half_way(preset: dict[str, Any], seed: int, out: Path, overrides: list[str]) -> int:
    """The base steps after which about half of the answers are right."""
    looked = changed(preset, {"train.steps": 120, "method.generations": 1, "evaluate.every": 2})
    events = record(looked, out / f"base-{seed}", [f"seed={seed}", *overrides])
    wrong = {event.step: event.values["score"] for event in events if event.kind == "eval" and event.step <= 120}
    return min(wrong, key=lambda step: abs(wrong[step] - 0.5))


def strategies(seeds: list[int], out: Path, overrides: list[str]) -> None:
    preset, reached = read_preset_file("evolve-es"), []
    for seed in seeds:
        begin = half_way(preset, seed, out, overrides)
        settings = [f"seed={seed}", f"train.steps={begin}", *overrides]
        events = record(preset, out / f"es-{seed}", settings)
        right = {event.step: 1 - event.values["score"] for event in events if event.kind == "eval"}
        last = [event for event in events if event.kind == "step"][-1]
        reached.append(right[last.step])
        print(
            f"seed {seed}: exact match {right[begin]:.3f} after {begin} base steps, {right[last.step]:.3f} after "
            f"{last.step - begin} generations, {last.time['seconds']:.0f} s",
            flush=True,
        )
    print(f"exact match {interval(reached)}, asked >= .95")


def breeding(out: Path, overrides: list[str]) -> None:
    preset = changed(read_preset_file("evolve-pbt"), {"method.significance": None, "method.noise": 0.02})
    events = record(preset, out / "breeding", overrides)
    times = [event.time for event in events if event.kind == "generation"][1:-1]
    total = {name: sum(time[name] for time in times) for name in times[0]}
    for name in ("breed", "assess", "compare"):
        print(f"{name:<8} {total[name] / len(times) * 1000:8.1f} ms a generation, {total[name] / total['train']:.2%}")
    print("asked: breed < 2 % of training")
    record(preset, out / "memory", ["method.population_size=32", "method.generations=3", *overrides])
    print(f"peak memory with 32 members {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, asked < 1.5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("strategies", "breeding"):
        chosen = verbs.add_parser(verb)
        chosen.add_argument("overrides", nargs="*")
        chosen.add_argument("--out", type=Path, required=True)
        if verb != "breeding":
            chosen.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    if options.verb == "strategies":
        strategies(options.seeds, options.out, options.overrides)
    else:
        breeding(options.out, options.overrides)


if __name__ == "__main__":
    main()
