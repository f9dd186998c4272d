"""What a run of a study costs besides its training: `nanogrove compare` over many runs of a few steps.

    python benchmarks/study_overhead.py                     # 100 runs of 5 steps, by processes and by stacked
    python benchmarks/study_overhead.py --engines stacked --rounds 3

All of the command counts, from its start to its report: imports, plan, processes, records, checkpoints, verdicts. CPU
is that of all its processes; the text is prepared before. The load is that of the machine before each command: what
trains beside it makes wall times longer, and CPU times by a little.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RATES = (0.001, 0.002, 0.003, 0.004)
WORDS = ("the", "a", "sun", "moon", "river", "stone", "lamp", "walks", "sings", "waits", "over", "quiet", "old", "or")


def study(text: Path, seeds: int, steps: int) -> dict[str, Any]:
    """Four learning rates at 2 x 32."""
    preset = {
        "data": {"sources": str(text), "tokenizer": "char"},
        "model": {"n_layer": 2, "n_embd": 32, "n_head": 4, "block_size": 16},
        "train": {"steps": steps, "batch_size": 4, "device": "cpu"},
        "evaluate": {"every": steps, "tokens": 4000},
        "save": {"every": steps},
    }
    return {
        "preset": preset,
        "arms": [{"name": f"lr-{rate}", "overrides": [f"optimizer.lr={rate}"]} for rate in RATES],
        "seeds": seeds,
    }


def run(values: dict[str, Any], engine: str, workers: int) -> tuple[float, float, float]:
    """Seconds of a study: wall, CPU of all its processes, and training alone of all its runs together."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "study.json", Path(folder) / "out"
        file.write_text(json.dumps(values))
        command = [sys.executable, "-m", "nanogrove", "compare", str(file), "--out", str(out), "--engine", engine]
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(done.stderr)
        results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        assert len(results) == len(values["arms"]) * values["seeds"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, sum(result["seconds"] for result in results)


def main() -> None:
    """Prints seconds a run, by engine and round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["processes", "stacked"])
    parser.add_argument("--seeds", type=int, default=25, help="of each of four arms")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that this one begins
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANOGROVE_CACHE"] = f"{folder}/cache"
        text, draw = Path(folder) / "text.txt", random.Random(0)
        text.write_text("\n".join(" ".join(draw.choices(WORDS, k=8)) for _ in range(2000)))
        run(study(text, 7, 1), "stacked", 1)  # prepares the text
        runs = len(RATES) * options.seeds
        print(f"{runs} runs of {options.steps} steps, 2 x 32: seconds a run")
        print("engine        wall     CPU   training   CPU besides   load")
        for _ in range(options.rounds):
            for engine in options.engines:
                load = os.getloadavg()[0]
                wall, cpu, trained = (
                    seconds / runs
                    for seconds in run(study(text, options.seeds, options.steps), engine, options.workers)
                )
                print(
                    f"{engine:<10} {wall:7.3f} {cpu:7.3f} {trained:10.3f} {cpu - trained:13.3f} {load:6.1f}", flush=True
                )


if __name__ == "__main__":
    main()
