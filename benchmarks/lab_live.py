"""What `nanogrove ui` costs while it shows a run that trains: CPU time and memory, as the record grows.

    python benchmarks/lab_live.py                            a minute, in which 200,000 events are written
    python benchmarks/lab_live.py --events 10000 --seconds 50
    python benchmarks/lab_live.py --known 1000000 --events 5000      a long record, before the page is opened
    python benchmarks/lab_live.py --known 10000 --events 0           a page of a run that waits
    python benchmarks/lab_live.py --pages 5                  several pages of one run

A process writes the record at an even speed, and clients open the page and read its stream as browsers do. Prints the
CPU time of opening the page, then at even distances the events so far, the share of a CPU that the server took since
the line before, and its memory; last the share of all that time, opening included, which must be 2 % at most. Times are
those of the process, so that other programs on the machine count little.
"""

import argparse
import http.client
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
MOST = 0.02  # of a CPU


def read_stream(opener: urllib.request.OpenerDirector, url: str, received: list[int]) -> None:
    """Reads events until the server ends, and counts their bytes."""
    try:
        with opener.open(url) as answer:
            while part := answer.read1(1 << 16):
                received.append(len(part))
    except (OSError, http.client.HTTPException):
        pass


def step(number: int) -> str:
    """The line of a step."""
    values = {"loss": 2 + 3 / number**0.3, "lr": 1e-3, "grad_norm": 1.0, "tokens": 64 * number}
    return Event("step", number, values, {"seconds": 0.1 * number, "tokens_per_second": 640.0}).line()


def cpu_seconds(server: psutil.Process) -> float:
    """The CPU time of a process until now."""
    return sum(server.cpu_times()[:2])


def grow(record: Path, known: int, events: int, seconds: float, server: psutil.Process) -> None:
    """Writes so many steps in so many seconds, and prints what the server takes meanwhile."""
    begin, number, before = time.perf_counter(), known, cpu_seconds(server)
    with record.open("a") as file:
        for line in range(1, LINES + 1):
            since = time.perf_counter()
            while (passed := (time.perf_counter() - begin) / seconds) < line / LINES:
                due = known + int(min(passed, 1.0) * events)
                file.writelines(step(n) for n in range(number + 1, due + 1))
                file.flush()
                number = due
                time.sleep(0.05)
            now = cpu_seconds(server)
            share, memory = (now - before) / (time.perf_counter() - since), server.memory_info().rss / 1e6
            print(f"{number:>9,} events   {share:6.1%} of a CPU   {memory:7.0f} MB", flush=True)
            before = now


def main() -> None:
    """Starts the server and the clients, and lets the record grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=0)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pages", type=int, default=1)
    options = parser.parse_args()
    root, received = Path(tempfile.mkdtemp(prefix="lab-")), list[int]()
    (root / "run").mkdir()
    total = options.known + options.events
    (root / "run" / "preset.json").write_text(json.dumps({"name": "run", "train": {"steps": total}}))
    record = root / "run" / "events.jsonl"
    with record.open("w") as file:
        file.write(Event("start", 0, {"name": "run", "steps": total}).line())
        file.writelines(step(number) for number in range(1, options.known + 1))
    command = [sys.executable, "-m", "nanogrove", "ui", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = re.match(r"http://[^/]+", line := process.stdout.readline())
            assert match is not None, line
            opener, server = (
                urllib.request.build_opener(urllib.request.HTTPCookieProcessor()),
                psutil.Process(process.pid),
            )
            opener.open(line.split()[0]).close()
            first, begin = cpu_seconds(server), time.perf_counter()
            for _ in range(options.pages):
                page = opener.open(f"{match[0]}/run?name=run").read().decode()
                stream = re.search('data-events="([^"]+)"', page)
                assert stream is not None, page
                address = match[0] + stream[1].replace("&amp;", "&")
                threading.Thread(target=read_stream, args=(opener, address, received), daemon=True).start()
            print(f"opened     {cpu_seconds(server) - first:6.2f} s of CPU", flush=True)
            grow(record, options.known, options.events, options.seconds, server)
            share = (cpu_seconds(server) - first) / (time.perf_counter() - begin)
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(root)
    print(f"{share:.2%} of a CPU in all; {sum(received) / 1e6:.1f} MB were sent to {options.pages} pages")
    raise SystemExit(share > MOST)


if __name__ == "__main__":
    main()
