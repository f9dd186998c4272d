"""What runs of a study cost as one program, over the same runs one after the other.

    python benchmarks/stacked.py                # 16 seeds of 2 arms at 2 x 32 and 2 x 64
    python benchmarks/stacked.py --overhead     # 100 runs of 5 steps: what a run costs besides its training

Contenders in turn: a loop over all runs in one process, the same in two processes side by side, all as one program, and
as two programs side by side; each of one thread and all of it: data, weights, training, scores, records, checkpoints.
Each round begins new processes; what is imported, and the text once prepared, is not counted.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

SIZES = ((2, 32, 4, 16), (2, 64, 8, 32))  # layers, width, rows, tokens
WAYS = ("loop", "stacked")
WORDS = ("the", "a", "sun", "moon", "river", "stone", "lamp", "walks", "sings", "waits", "over", "quiet", "old", "or")


class Cost(NamedTuple):
    """Seconds from the first to the last of all processes, and of all their CPUs."""

    wall: float
    cpu: float


def settings(text: Path, size: tuple[int, int, int, int], steps: int, arm: int, seed: int) -> dict[str, Any]:
    """The preset of a run, as a study has it."""
    layers, width, rows, tokens = size
    every = steps // 2 if steps > 5 else steps
    return {
        "seed": seed,
        "data": {"sources": str(text), "tokenizer": "char"},
        "model": {"n_layer": layers, "n_embd": width, "n_head": 4, "block_size": tokens},
        "optimizer": {"lr": 0.003 * (1 + arm)},
        "train": {
            "steps": steps,
            "batch_size": rows,
            "device": "cpu",
            "precision": "float32",
            "threads": 1,
            "accumulation": 1,
            "compile": False,
        },
        "evaluate": {"every": every, "tokens": 4000},
        "sample": {"tokens": 0},
        "save": {"every": every},
    }


def work(way: str, folder: Path, presets: list[dict[str, Any]]) -> None:
    """Trains runs in one process, and prints what it took."""
    from nanogrove.config.overrides import resolve
    from nanogrove.runs.train import train
    from nanogrove.studies.stack import train_together

    runs = [(resolve(preset), folder / f"{n}") for n, preset in enumerate(presets)]
    began, cpu = time.perf_counter(), time.process_time()
    if way == "stacked":
        for _ in train_together(runs):
            pass
    else:
        for preset, out in runs:
            for _ in train(preset, out, report=False):
                pass
    print(json.dumps(Cost(time.perf_counter() - began, time.process_time() - cpu)))


def cost(way: str, processes: int, presets: list[dict[str, Any]], steps: int) -> tuple[Cost, float]:
    """What runs cost in so many processes, and the seconds of their training alone, of all runs together."""
    arguments = [sys.executable, __file__, "--work", way]
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        for part in range(processes):
            worker = subprocess.Popen(
                [*arguments, f"{folder}/{part}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert worker.stdin is not None
            json.dump(presets[part::processes], worker.stdin)
            worker.stdin.close()
            workers.append(worker)
        costs = []
        for worker in workers:
            assert worker.stdout is not None
            costs.append(Cost(*json.loads(worker.stdout.read())))
            if worker.wait():
                sys.exit(f"error: the runs of {way} failed")
        ends = [json.loads(path.read_text().splitlines()[-1]) for path in Path(folder).rglob("events.jsonl")]
        trained = sum(end["time"]["seconds"] for end in ends)
        assert all(end["kind"] == "end" and end["step"] == steps for end in ends)
        assert len(ends) == len(presets)
    return Cost(max(each.wall for each in costs), sum(each.cpu for each in costs)), trained


def compare(text: Path, options: argparse.Namespace) -> None:
    """Prints costs of all ways, in turn, and ratios of their medians."""
    print(f"{options.seeds} seeds of 2 arms, {options.steps} steps, {options.rounds} rounds in turn, medians, seconds")
    print("layers x width   way                    wall      CPU   CPU over loop")
    for size in SIZES:
        runs = [(arm, seed) for arm in range(2) for seed in range(options.seeds)]
        presets = [settings(text, size, options.steps, *run) for run in runs]
        contenders = [(way, processes) for way in WAYS for processes in (1, 2)]
        costs: dict[tuple[str, int], list[Cost]] = {contender: [] for contender in contenders}
        for _ in range(options.rounds):
            for way, processes in contenders:
                costs[way, processes].append(cost(way, processes, presets, options.steps)[0])
        median = {
            contender: Cost(*(statistics.median(part) for part in zip(*each, strict=True)))
            for contender, each in costs.items()
        }
        for (way, processes), each in median.items():
            name = way if processes == 1 else f"{way}, 2 processes"
            ratio = each.cpu / median["loop", 1].cpu
            print(f"{size[0]} x {size[1]:<12} {name:<20} {each.wall:7.2f}  {each.cpu:7.2f}   {ratio:.3f}")
        fastest = min(median["stacked", 1].wall, median["stacked", 2].wall)
        over_loop = median["stacked", 1].wall / median["loop", 1].wall
        over_best = fastest / min(median["loop", 1].wall, median["loop", 2].wall)
        print(
            f"  wall: one program over a loop {over_loop:.3f}; the faster over the faster of the others {over_best:.3f}"
        )


def overhead(text: Path, options: argparse.Namespace) -> None:
    """Prints what runs of 5 steps cost besides their training."""
    presets = [settings(text, SIZES[0], 5, 0, seed) for seed in range(100)]
    print("100 runs of 5 steps, 2 x 32: seconds a run besides its training")
    for way in WAYS:
        costs = [cost(way, 1, presets, 5) for _ in range(options.rounds)]
        wall = statistics.median(each.wall - trained for each, trained in costs) / len(presets)
        cpu = statistics.median(each.cpu - trained for each, trained in costs) / len(presets)
        print(f"{way:<10} wall {wall:.3f}, CPU {cpu:.3f}", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that this one begins
    if options.work:
        work(options.work[0], Path(options.work[1]), json.load(sys.stdin))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANOGROVE_CACHE"] = f"{folder}/cache"
        text, draw = Path(folder) / "text.txt", random.Random(0)
        text.write_text("\n".join(" ".join(draw.choices(WORDS, k=8)) for _ in range(2000)))
        cost("loop", 1, [settings(text, SIZES[0], 1, 0, 0)], 1)  # prepares the text
        (overhead if options.overhead else compare)(text, options)


if __name__ == "__main__":
    main()
