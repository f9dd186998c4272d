"""What the size of a corpus costs: preparing it, a training step, reading a batch, memory, and a late resume.

    python benchmarks/corpus_size.py              1 GB beside 10 MB; a few minutes and 4 GB of disk, given back
    python benchmarks/corpus_size.py --gb 0.1     a quick look

Preparation grows with the text. Nothing else should: batch number n is computed, not reached, so a step, its memory
and a resume at step 100,000 cost the same for any corpus. Each figure comes from a fresh process with one thread.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

LATE = 100_000
REPEATS = 3  # trainings, of which the median counts: the allocator's peak varies by a quarter from run to run
PLAIN = {"threads": 1, "precision": "float32", "accumulation": 1, "compile": False}  # nothing measured first
HELD_OUT = 50_000  # characters, whatever the size, so that the last evaluation costs the same


def made_up_sentences(rng: random.Random) -> list[str]:
    """Made-up sentences over a vocabulary with a long tail, a line each."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    weights = [1 / (n + 1) for n in range(len(letters))]
    words = ["".join(rng.choices(letters, weights, k=rng.randint(1, 9))) for _ in range(20_000)]
    frequency = [1 / (n + 1) for n in range(len(words))]
    return [" ".join(rng.choices(words, frequency, k=rng.randint(4, 14))).capitalize() + ".\n" for _ in range(50_000)]


def write_corpus(path: Path, size: int) -> None:
    """Made-up sentences, about `size` bytes of them."""
    rng = random.Random(0)
    sentences = made_up_sentences(rng)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            written += file.write("".join(rng.choices(sentences, k=10_000)))


def preset(corpus: Path, size: int, steps: int, tokenizer: str) -> dict[str, Any]:
    """A small model of that corpus."""
    return {
        "name": "corpus-size",
        "data": {
            "sources": str(corpus),
            "tokenizer": tokenizer,
            "vocab_size": 1024,
            "split": "tail",
            "validation": HELD_OUT / size,
            "test": 0,
        },
        "model": {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 128},
        "train": {"steps": steps, "batch_size": 8, "device": "cpu", **PLAIN},
        "evaluate": {"every": 100, "tokens": 10_000},
        "sample": {"tokens": 0},
        "save": {"every": 100},
    }


def memory() -> dict[str, float]:
    """This process's highest memory so far and its anonymous memory now, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmHWM", "RssAnon")}


def prepare(values: dict[str, Any], run: Path) -> dict[str, float]:
    """Makes the tokens of a corpus; one that streams is read by a process of its own, whose memory then counts."""
    from nanogrove.config.overrides import resolve
    from nanogrove.data.text.config import DataConfig
    from nanogrove.data.text.prepare import prepare

    before, began = memory()["VmHWM"], time.monotonic()
    config = resolve(values).data
    assert isinstance(config, DataConfig)
    prepared = prepare(config)
    peak = memory()["VmHWM"] - before
    if prepared.process is not None:
        prepared.process.process.wait()
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": time.monotonic() - began, "peak": peak}


def train(values: dict[str, Any], run: Path) -> dict[str, float]:
    """Trains on prepared data, then reads batches from all over it."""
    from nanogrove.config.overrides import resolve
    from nanogrove.data.text.config import DataConfig
    from nanogrove.data.text.corpus import TextCorpus
    from nanogrove.runs.train import train

    before = memory()
    chosen = resolve(values)
    seconds, anonymous = [], []
    for event in train(chosen, run):
        if event.kind == "step":
            seconds.append(event.time["seconds"])
            anonymous.append(memory()["RssAnon"])
    steps = [after - at for at, after in pairwise(seconds[20:])]
    after = memory()
    assert isinstance(chosen.data, DataConfig)
    corpus = TextCorpus(chosen.data, chosen.model.block_size, chosen.train.batch_size, chosen.seed)
    reads = []
    for step in random.Random(0).sample(range(LATE), 300):
        began = time.perf_counter()
        corpus.batch(step)
        reads.append(time.perf_counter() - began)
    return {
        "tokens": corpus.sources[0].count("train"),
        "step": 1000 * statistics.median(steps),
        "read": 1000 * statistics.median(reads),
        "peak": after["VmHWM"] - before["VmHWM"],
        "anonymous": statistics.median(anonymous) - before["RssAnon"],
    }


def advance(values: dict[str, Any], run: Path) -> dict[str, float]:
    """A run stopped after its second step, whose checkpoint is saved again as if it had come to step 100,000."""
    from nanogrove.config.overrides import resolve
    from nanogrove.model.gpt import GPT
    from nanogrove.runs.train import train
    from nanogrove.train.checkpoint import load_latest
    from nanogrove.train.optim.optimizer import make_optimizer
    from nanogrove.train.saving import save_checkpoint
    from nanogrove.train.state import TrainState

    chosen = resolve({**values, "train": {**values["train"], "steps": LATE + 100}, "save": {"every": 2}})
    events = train(chosen, run)
    for event in events:
        if event.kind == "step" and event.step == 3:
            break
    events.close()  # type: ignore[attr-defined]
    checkpoint, _ = load_latest(run / "checkpoints")
    assert checkpoint is not None
    model = GPT(checkpoint.config)
    state = TrainState(model, make_optimizer(model, chosen.optimizer))
    checkpoint.restore(state)
    state.step = LATE
    extra = {key: checkpoint.state[key] for key in ("position", "best", "data", "nanogrove")}
    save_checkpoint(run / "checkpoints", "current", state, checkpoint.tokenizer, extra)
    return {}


def resume(values: dict[str, Any], run: Path) -> dict[str, float]:
    """The moments at which imports are done and the first new step is."""
    from nanogrove.config.overrides import resolve
    from nanogrove.record.folder import read_preset
    from nanogrove.runs.train import train

    imported = time.monotonic()
    events = train(resolve(read_preset(run) or {}), run, resume=True)
    first = next(event for event in events if event.kind == "step")
    done = time.monotonic()
    events.close()  # type: ignore[attr-defined]
    assert first.step == LATE + 1, first
    return {"imported": imported, "done": done}


def fresh(task: str, values: dict[str, Any], run: Path) -> dict[str, float]:
    """Does a task in a process of its own; its figures."""
    arguments = json.dumps([task, values, str(run)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--task", arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(folder: Path, size: int, steps: int, tokenizer: str) -> dict[str, float]:
    """All figures of a corpus of that many bytes."""
    folder.mkdir()
    corpus = folder / "corpus.txt"
    write_corpus(corpus, size)
    values = preset(corpus, size, steps, tokenizer)
    prepared = fresh("prepare", values, folder / "run")
    runs = [fresh("train", values, folder / f"run-{n}") for n in range(REPEATS)]
    trained = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    fresh("advance", values, folder / "late")
    began = time.monotonic()
    resumed = fresh("resume", values, folder / "late")
    return {
        "megabytes": corpus.stat().st_size / 1e6,
        "million tokens": trained["tokens"] / 1e6,
        "preparing, s": prepared["seconds"],
        "preparing, MB": prepared["peak"],
        "median step, ms": trained["step"],
        "reading a batch, ms": trained["read"],
        "training, peak MB": trained["peak"],
        "training, anonymous MB": trained["anonymous"],
        "late resume, s": resumed["done"] - began,
        "… of it imports, s": resumed["imported"] - began,
    }


def main() -> None:
    """Measures both sizes and prints them side by side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0, help="size of the large corpus")
    parser.add_argument("--mb", type=float, default=10.0, help="size of the small one")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tokenizer", default="bpe", help="char, byte or bpe")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task, values, run = json.loads(options.task)
        tasks = {"prepare": prepare, "train": train, "advance": advance, "resume": resume}
        print(json.dumps(tasks[task](values, Path(run))))
        return
    folder = Path(tempfile.mkdtemp(prefix="corpus-size-"))
    os.environ["NANOGROVE_CACHE"] = str(folder / "cache")
    try:
        small = measure(folder / "small", int(options.mb * 1e6), options.steps, options.tokenizer)
        large = measure(folder / "large", int(options.gb * 1e9), options.steps, options.tokenizer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{'':<24}{'small':>10}{'large':>10}{'ratio':>8}")
    for name, value in small.items():
        ratio = f"{large[name] / value:.2f}" if value else ""
        print(f"{name:<24}{value:>10.2f}{large[name]:>10.2f}{ratio:>8}")


if __name__ == "__main__":
    main()
