"""From the shell to the help text, and to the first training step on prepared data, against `import torch`.

python benchmarks/startup.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARGUMENTS = ["train", "quickstart", "train.steps=5000", "train.compile=false", "sample.tokens=0"]


def seconds_to_import_torch() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began


def seconds_to_help() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nanogrove", "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def seconds_to_first_step(out: Path) -> float:
    """Starts a run, waits for the record's first step, and ends the run."""
    record = out / "events.jsonl"
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "nanogrove", *ARGUMENTS, "--out", str(out)], stdout=subprocess.DEVNULL
    ) as run:
        while not (record.exists() and '"kind": "step"' in record.read_text()):
            if run.poll() is not None:
                sys.exit("the run ended before its first step")
            time.sleep(0.005)
        spent = time.perf_counter() - began
        run.kill()
    return spent


def wait_for_quiet(seconds: float = 180.0) -> None:
    """Until the machine has little else to do: what `auto` measures on a busy one is not kept for the next start."""
    until = time.perf_counter() + seconds
    while os.getloadavg()[0] > 0.8 and time.perf_counter() < until:
        time.sleep(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wait_for_quiet()
        seconds_to_first_step(Path(folder) / "first")  # prepares the data and measures the machine
        torch, ours, helps = [], [], []
        for round_ in range(options.rounds):
            helps.append(seconds_to_help())
            torch.append(seconds_to_import_torch())
            ours.append(seconds_to_first_step(Path(folder) / str(round_)))
    ratios = sorted(o / t for o, t in zip(ours, torch, strict=True))
    print(f"nanogrove --help {statistics.median(helps):.2f} s ({min(helps):.2f} to {max(helps):.2f}), asked <= 0.15")
    print(f"import torch {statistics.median(torch):.2f} s, first step {statistics.median(ours):.2f} s")
    print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), asked <= 1.5")


if __name__ == "__main__":
    main()
