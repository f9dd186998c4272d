"""Time of eight members as one program against eight processes of one model each, on the cores that this may use.

    taskset -c 0,1 python benchmarks/ensemble_time.py --text FILE --out FILE.json

Processes are started once, set up and warmed up. In each round, in turn: the eight of one thread step all at once, then
two at a time, then the one program steps on one thread, and on two. Every model takes the same steps, of the settings
of `ensemble.py`. Printed are medians over rounds of seconds of a clock and of CPU seconds, for a step of all eight, and
of the ratios of each round, which other work on the machine disturbs less.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from nanogrove.record.events import Event

MEMBERS, WARM_STEPS = 8, 3


def child(text: Path, members: int, threads: int) -> None:
    """Trains a model, or `members` as one program: of each number of steps on standard input the CPU seconds."""
    import torch

    from nanogrove.config.overrides import resolve
    from nanogrove.runs.setup import build

    preset: dict[str, Any] = {
        "data": {"sources": str(text), "tokenizer": "char", "validation": 0.1, "test": 0.1},
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64},
        "train": {"steps": 100_000, "batch_size": 32, "device": "cpu", "precision": "float32", "compile": False},
        "optimizer": {"name": "adamw", "lr": 0.003},
        "evaluate": {"every": 1_000_000},
        **({"method": {"name": "ensemble", "members": members}} if members > 1 else {}),
    }
    preset["train"] |= {"threads": threads, "accumulation": 1}
    torch.set_num_threads(threads)
    setup = build(resolve(preset))
    events = setup.method.run(setup.new_state(), setup.corpus, setup.plan, setup.preset.method)
    take(events, WARM_STEPS)
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.process_time()
        take(events, int(line))
        print(time.process_time() - began, flush=True)


def take(events: Iterator[Event], steps: int) -> None:
    """Takes so many steps."""
    while steps:
        steps -= next(events).kind == "step"


class Process:
    """A child that is ready."""

    def __init__(self, text: Path, members: int, threads: int) -> None:
        command = [sys.executable, __file__, "--text", str(text), "--child", str(members), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, steps: int) -> None:
        """Has it take steps."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)

    def answer(self) -> str:
        """Its next line, which is waited for."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def timed(processes: list[Process], at_once: int, steps: int) -> tuple[float, float]:
    """Seconds of a clock and CPU seconds in which all take steps, so many at once, the others in turn."""
    began, cpu, working, left = time.perf_counter(), 0.0, deque[Process](), deque(processes)
    while left or working:
        while left and len(working) < at_once:
            working.append(left.popleft())
            working[-1].begin(steps)
        cpu += float(working.popleft().answer())
    return (time.perf_counter() - began) / steps, cpu / steps


def main() -> None:
    """Times, and prints the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="the file of the text")
    parser.add_argument("--out", type=Path, help="a file for the figures of each round")
    parser.add_argument("--steps", type=int, default=8, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.text, *options.child)
        return
    alone = [Process(options.text, 1, 1) for _ in range(MEMBERS)]
    one, two = Process(options.text, MEMBERS, 1), Process(options.text, MEMBERS, 2)
    for process in (*alone, one, two):
        if process.answer().strip() != "ready":
            raise SystemExit("a process ended before it was ready; its message is above")
    ways = {
        "eight processes at once": (alone, MEMBERS),
        "eight processes, two at a time": (alone, 2),
        "one program, one thread": ([one], 1),
        "one program, two threads": ([two], 1),
    }
    rounds = [{name: timed(*way, options.steps) for name, way in ways.items()} for _ in range(options.rounds)]
    for process in (*alone, one, two):
        process.process.kill()
    for name in ways:
        clock, cpu = (median(each[name][kind] for each in rounds) for kind in (0, 1))
        print(f"{name}: {1000 * clock:.0f} ms of a clock, {1000 * cpu:.0f} ms of CPU time")
    for other in list(ways)[:2]:
        for ours in list(ways)[2:]:
            ratios = sorted(each[other][0] / each[ours][0] for each in rounds)
            print(f"{other} / {ours}: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    if options.out:
        options.out.write_text(json.dumps(rounds) + "\n", "utf-8")


if __name__ == "__main__":
    main()
