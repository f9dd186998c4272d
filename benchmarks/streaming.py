"""What training on a large table costs before and beside the training: the first step, memory, tokenising.

    python benchmarks/streaming.py               2 GB of CSV and of JSONL, made here and deleted; about 40 minutes
    python benchmarks/streaming.py --gb 0.2      a quick look

For each kind a small model is trained in a fresh process. Told are the seconds from its start to the first step; the
most memory that it and the process which reads have held, over what the same training holds on a small text; and the
rate at which the whole file becomes tokens, reading and writing included, over that of the `tokenizers` library alone
on the same rows in memory, in turn, on all cores and on one. Asked: 20 s, 600 MB, 80 %.
"""

import argparse
import csv
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus_size import made_up_sentences

ROWS = 20_000  # in memory for the library alone, and tokenised by us for the comparison


def rows() -> Iterator[dict[str, Any]]:
    """Rows of a table of reviews: a title, a text of a few sentences with commas, quotes and newlines, two numbers."""
    rng = random.Random(0)
    sentences = made_up_sentences(rng)
    for number in itertools.count():
        text = " ".join(rng.choices(sentences, k=rng.randint(2, 12))).replace("\n", "")
        text += rng.choice(("", '\nHe said: "no".', " Yes, well, no."))
        yield {"id": number, "title": rng.choice(sentences)[:40].strip(), "text": text, "stars": rng.randint(1, 5)}


def write(path: Path, kind: str, size: int) -> int:
    """A file of about `size` bytes: a million rows, again and again. Returns its rows."""
    written = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["id", "title", "text", "stars"])
        if kind == "csv":
            table.writeheader()
        for row in rows():
            if kind == "csv":
                table.writerow(row)
            else:
                file.write(json.dumps(row) + "\n")
            written += 1
            if written % 1000 == 0 and file.tell() >= size:
                return written
    return written


def preset(source: dict[str, Any], steps: int) -> dict[str, Any]:
    """A small model of that source, with nothing left to measure first."""
    return {
        "name": "streaming",
        "data": {"sources": [source], "tokenizer": "bpe", "vocab_size": 4096},
        "model": {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 128},
        "train": {
            "steps": steps,
            "batch_size": 8,
            "device": "cpu",
            "threads": 1,
            "precision": "float32",
            "accumulation": 1,
            "compile": False,
        },
        "evaluate": {"every": 10**6, "tokens": 10_000},
        "sample": {"tokens": 0},
        "save": {"every": 10**6},
    }


def held(pid: int) -> dict[int, int]:
    """Bytes of memory that a process and its children hold of their own, by process."""
    memory: dict[int, int] = {}
    for line in subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split():
        memory |= held(int(line))
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        memory[pid] = 1024 * int(status.split("RssAnon:")[1].split()[0])
    except (OSError, IndexError):
        pass
    return memory


def trained(values: dict[str, Any], folder: Path, seconds: float | None) -> dict[str, float]:
    """A training in a fresh process, ended after `seconds`: when its first step came, and the most memory it held."""
    folder.mkdir(parents=True)
    (folder / "preset.json").write_text(json.dumps(values))
    script = (
        "import json, sys; from pathlib import Path; from nanogrove.config.overrides import resolve\n"
        "from nanogrove.runs.train import train\n"
        f"for event in train(resolve(json.loads(Path({str(folder / 'preset.json')!r}).read_text())), "
        f"Path({str(folder / 'run')!r})):\n    print(event.kind, flush=True)"
    )
    environment = {**os.environ, "NANOGROVE_CACHE": str(folder / "cache")}
    began, peak, first = time.monotonic(), 0, float("nan")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        output = b""
        while process.poll() is None and (seconds is None or time.monotonic() < began + seconds):
            output += process.stdout.read() or b""
            if b"step" in output and first != first:
                first = time.monotonic() - began
            peak = max(peak, sum(held(process.pid).values()))
            time.sleep(0.05)
        readers = [pid for pid in held(process.pid) if pid != process.pid]
        process.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in readers):  # they end with the process
        time.sleep(0.1)
    shutil.rmtree(folder)
    return {"first": first, "peak": peak}


def tokenising(
    source: dict[str, Any], texts: list[str], folder: Path, threads: int, rounds: int
) -> tuple[float, float]:
    """Characters a second that we read, tokenise and write, and that the library alone tokenises; the best of each."""
    script = f"""
import sys, time
from pathlib import Path
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.prepare import write
from nanogrove.data.tokenizer import bpe_tokenizer
import json
texts = json.loads(Path({str(folder / "texts.json")!r}).read_text())
source = {source!r}
config = DataConfig.model_validate({{"sources": [source], "split": "document"}})
tokenizer = bpe_tokenizer(iter(texts[:2000]), 4096)
size = sum(map(len, texts))
for turn in range({rounds}):
    folder = Path({str(folder)!r}) / f"shards-{{turn}}"
    folder.mkdir()
    began = time.perf_counter()
    for _ in write(config, config.all_sources[0], folder, tokenizer):
        pass
    ours = size / (time.perf_counter() - began)
    began = time.perf_counter()
    for first in range(0, len(texts), 2000):
        tokenizer.backend.encode_batch_fast(texts[first : first + 2000], add_special_tokens=False)
    print(ours, size / (time.perf_counter() - began))
"""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    pairs = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    return max(ours for ours, _ in pairs), max(alone for _, alone in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument(
        "--seconds", type=float, default=None, help="of each training at most; to the file's end if not"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nanogrove-streaming-"))
    try:
        small = folder / "small.csv"
        write(small, "csv", 2_000_000)
        base = trained(preset({"type": "csv", "path": str(small)}, 200), folder / "base", None)
        print(f"a table of 2 MB: {base['peak'] / 1e6:.0f} MB held at most")
        texts = [row["text"] for row in itertools.islice(rows(), ROWS)]
        (folder / "texts.json").write_text(json.dumps(texts))
        for kind in ("csv", "jsonl"):
            large, part = folder / f"large.{kind}", folder / f"part.{kind}"
            count = write(large, kind, int(options.gb * 1e9))
            source = {"type": kind, "path": str(large)}
            result = trained(preset(source, 10**7), folder / "run", options.seconds or 60 + 400 * options.gb)
            more = (result["peak"] - base["peak"]) / 1e6
            print(f"{kind}, {large.stat().st_size / 1e9:.2f} GB, {count:,} rows")
            print(f"  first step after {result['first']:.1f} s (asked: 20)", flush=True)
            print(f"  {more:.0f} MB more than on the small table at most (asked: 600)", flush=True)
            large.unlink()
            with part.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, ["id", "title", "text", "stars"])
                if kind == "csv":
                    table.writeheader()
                for row in itertools.islice(rows(), ROWS):
                    _ = table.writerow(row) if kind == "csv" else file.write(json.dumps(row) + "\n")
            for threads in (os.cpu_count() or 1, 1):
                at = folder / f"tokenising-{kind}-{threads}"
                at.mkdir()
                shutil.copy(folder / "texts.json", at)
                ours, alone = tokenising({"type": kind, "path": str(part)}, texts, at, threads, options.rounds)
                print(
                    f"  tokenising on {threads} threads: {ours / 1e6 / threads:.2f} M characters/s each, "
                    f"{ours / alone:.0%} of the library alone (asked: 80 %)",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
