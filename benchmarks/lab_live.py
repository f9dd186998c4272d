"""What `nanogrove ui` costs while it shows a run: CPU time and memory, as a record grows to 200,000 events.

    python benchmarks/lab_live.py                            a minute
    python benchmarks/lab_live.py --events 20000 --seconds 20

A process writes the record at an even speed, and a client reads the stream of its page as a browser does. Prints, at
even distances, the events so far, the share of a CPU that the server took since the line before, and its memory.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil

from nanogrove.record.events import Event

LINES = 10  # printed


def read_stream(opener: urllib.request.OpenerDirector, url: str, received: list[int]) -> None:
    """Reads events until the server ends, and counts their bytes."""
    try:
        with opener.open(url) as answer:
            while part := answer.read1(1 << 16):
                received.append(len(part))
    except OSError:
        pass


def grow(record: Path, events: int, seconds: float, server: psutil.Process) -> None:
    """Writes so many steps in so many seconds, and prints what the server takes meanwhile."""
    begin, step, before = time.perf_counter(), 0, sum(server.cpu_times()[:2])
    with record.open("a") as file:
        file.write(Event("start", 0, {"name": "run", "steps": events}).line())
        for line in range(1, LINES + 1):
            since = time.perf_counter()
            while step < events * line // LINES:
                due = min(int((time.perf_counter() - begin) / seconds * events), events)
                for n in range(step + 1, due + 1):
                    values = {"loss": 2 + 3 / n**0.3, "lr": 1e-3, "grad_norm": 1.0, "tokens": 64 * n}
                    file.write(Event("step", n, values, {"seconds": 0.1 * n, "tokens_per_second": 640.0}).line())
                file.flush()
                step = due
                time.sleep(0.05)
            now = sum(server.cpu_times()[:2])
            share, memory = (now - before) / (time.perf_counter() - since), server.memory_info().rss / 1e6
            print(f"{step:>9,} events   {share:6.1%} of a CPU   {memory:7.0f} MB", flush=True)
            before = now


def main() -> None:
    """Starts the server and the client, and lets the record grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    root, received = Path(tempfile.mkdtemp(prefix="lab-")), list[int]()
    (root / "run").mkdir()
    (root / "run" / "preset.json").write_text(json.dumps({"name": "run", "train": {"steps": options.events}}))
    (root / "run" / "events.jsonl").touch()
    command = [sys.executable, "-m", "nanogrove", "ui", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = re.match(r"http://[^/]+", line := process.stdout.readline())
            assert match is not None, line
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            opener.open(line.split()[0]).close()
            address = f"{match[0]}/run/events?name=run&seen="
            threading.Thread(target=read_stream, args=(opener, address, received), daemon=True).start()
            grow(root / "run" / "events.jsonl", options.events, options.seconds, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(root)
    print(f"{sum(received) / 1e6:.1f} MB were sent to the page")


if __name__ == "__main__":
    main()
