"""Two ranks of one thread each against one process of two threads, in turn: one model, or a population.

python benchmarks/ranks.py                one model of 4 x 128, 12 x 64 tokens: each rank has half of the rows
python benchmarks/ranks.py --members 8    so many models of 2 x 64, on the same tokens: each rank trains half of them

Prints tokens a second of both, their ratio, and the share of a step in which rank 0 waits for and adds gradients.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc_per_node=2"]
TOKENS = 12 * 64
SETTINGS: dict[str, Any] = {
    "data": {"sources": ["python-stdlib"], "tokenizer": "char"},
    "model": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "dropout": 0.0},
    "train": {"batch_size": 12, "device": "cpu", "precision": "float32", "accumulation": 1, "compile": False},
    "evaluate": {"every": 100_000, "tokens": 1000},
    "save": {"every": 100_000},
    "sample": {"tokens": 0},
}
CLOCKED = """
import sys, time
from nanogrove.cli import main as cli
from nanogrove.train.parallel import ranks as distributed
spent, real = [], distributed.Ranks.sum
def timed(self, tensors):
    began = time.perf_counter()
    real(self, tensors)
    spent.append(time.perf_counter() - began)
distributed.Ranks.sum = timed
out = sys.argv[sys.argv.index("--out") + 1]
try:
    cli.main()
finally:
    if distributed.Ranks.from_environment().first:
        open(out + ".sums", "w").write(" ".join(map(str, spent)))
"""


def settings(steps: int, threads: int, members: int | None) -> dict[str, Any]:
    """The preset of one model, or of a population that breeds once, in the middle."""
    train: dict[str, Any] = {**SETTINGS["train"], "threads": threads}
    if members is None:
        return {"name": "ranks", **SETTINGS, "train": {**train, "steps": steps}}
    method = {"name": "evolve", "population_size": members, "generations": 2, "steps_per_generation": steps // 2}
    model = {**SETTINGS["model"], "n_layer": 2, "n_embd": 64}
    return {"name": "ranks", **SETTINGS, "method": method, "model": model, "train": train}


def seconds_a_step(folder: Path, name: str, ranks: int, steps: int, members: int | None) -> tuple[float, float]:
    """Median seconds of a step, and of the sums in it."""
    preset, out, script = folder / "preset.json", folder / name, folder / "clocked.py"
    threads = 2 // ranks
    preset.write_text(json.dumps(settings(steps, threads, members)))
    script.write_text(CLOCKED)
    subprocess.run(
        [sys.executable, *(TORCHRUN if ranks == 2 else []), str(script), "train", str(preset), "--out", str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    events = [json.loads(line) for line in (out / "events.jsonl").read_text("utf-8").splitlines()]
    ends = [event["time"]["seconds"] for event in events if event["kind"] == "step"]
    sums = list(map(float, Path(f"{out}.sums").read_text().split()))
    return statistics.median(b - a for a, b in pairwise(ends[10:])), statistics.median(sums[10:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--members", type=int)
    options = parser.parse_args()
    tokens = TOKENS * (options.members or 1)
    ratios, shares = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            one, _ = seconds_a_step(Path(folder), f"one-{number}", 1, options.steps, options.members)
            two, sums = seconds_a_step(Path(folder), f"two-{number}", 2, options.steps, options.members)
            ratios.append(one / two)
            shares.append(sums / two)
            print(
                f"1 process {tokens / one:,.0f} tokens/s, 2 ranks {tokens / two:,.0f}, sums {sums / two:.0%}",
                flush=True,
            )
    print(f"2 ranks / 1 process {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"share of the sums {statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})")


if __name__ == "__main__":
    main()
