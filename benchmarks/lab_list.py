"""How long the list of `nanogrove ui` takes: the first time, and after that.

    python benchmarks/lab_list.py                 1,000 runs of 10,000 events, in a new folder that goes at the end
    python benchmarks/lab_list.py --runs 100 --events 1000

Prints the seconds of CPU of the first list, of the second, of the first after a new start, which has the index of the
folder alone, of a list in which one run has grown, of the page of a run, and of a comparison of twenty.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from starlette.testclient import TestClient

from nanogrove.record.events import Event
from nanogrove.ui.app import application
from nanogrove.ui.index import Index

ADDRESS, SECRET = "http://127.0.0.1:8100", "secret"
LIST_SECONDS, AGAIN_SECONDS, PAGE_SECONDS, COMPARE_SECONDS = 5.0, 1.0, 1.0, 2.0  # at most


def record(events: int) -> str:
    """A record of about so many events: steps, and an evaluation after each hundredth."""
    lines = [Event("start", 0, {"name": "run", "steps": events, "vocabulary": 256}).line()]
    for step in range(1, events + 1):
        loss = 2.0 + 3.0 / step**0.3
        if step % 100 == 0:
            values = {"split": "validation", "loss": loss + 0.1, "seen": 1024 * step}
            lines.append(Event("eval", step, values, {"seconds": 0.1 * step}).line())
        named = {"loss": loss, "lr": 0.001, "grad_norm": 1.0, "tokens": 1024 * step}
        lines.append(Event("step", step, named, {"seconds": 0.1 * step, "tokens_per_second": 10240.0}).line())
    return "".join([*lines, Event("end", events, {"loss": 2.1, "best_step": events}, {"seconds": 0.1 * events}).line()])


def write_runs(root: Path, runs: int, events: int) -> None:
    """So many run folders, each with files of its own."""
    text = record(events)
    for number in range(runs):
        run = root / f"group-{number % 10}" / f"run-{number}"
        (run / "checkpoints" / "best").mkdir(parents=True)
        model = {"block_size": 64, "n_layer": 4, "n_head": 4, "n_embd": 128}
        preset = {
            "name": "run",
            "model": model,
            "method": {"name": "pretrain"},
            "data": {"type": "text", "sources": ["text.txt"]},
        }
        (run / "preset.json").write_text(json.dumps({**preset, "train": {"steps": events}, "seed": number}))
        (run / "events.jsonl").write_text(text)


def client(root: Path) -> TestClient:
    """A browser that has been let in, of a server that has just started."""
    browser = TestClient(application(Index(root), SECRET)[0], base_url=ADDRESS)
    browser.cookies.set("nanogrove-8100", SECRET)
    return browser


def timed(label: str, work: Callable[[], object], most: float) -> bool:
    """Prints the seconds of CPU of some work, which other programs lengthen little; whether they are few enough."""
    begin = time.process_time()
    work()
    seconds = time.process_time() - begin
    print(f"{label:<44}{seconds:7.2f} s   at most {most:g}", flush=True)
    return seconds <= most


def main() -> None:
    """Makes the runs, and times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--events", type=int, default=10_000)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="lab-"))
    try:
        write_runs(root, options.runs, options.events)
        browser = client(root)
        name = "group-0/run-0"
        good = [timed("the first list", lambda: browser.get("/"), LIST_SECONDS)]
        good.append(timed("the second list", lambda: browser.get("/"), AGAIN_SECONDS))
        restarted = client(root)
        good.append(timed("the first list after a new start", lambda: restarted.get("/"), AGAIN_SECONDS))
        with (root / name / "events.jsonl").open("a") as grown:
            grown.write(Event("end", options.events, {"loss": 2.0}).line())
        good.append(timed("a list in which one run has grown", lambda: restarted.get("/"), AGAIN_SECONDS))
        good.append(timed("a search", lambda: restarted.get("/?search=run-7&sort=measure"), AGAIN_SECONDS))
        good.append(timed("the page of a run", lambda: restarted.get(f"/run?name={name}"), PAGE_SECONDS))
        good.append(timed("the page of another", lambda: restarted.get("/run?name=group-1/run-1"), PAGE_SECONDS))
        chosen = "&".join(f"run=group-{number % 10}/run-{number}" for number in range(20))
        for y in ("loss", "training_loss"):
            page = f"/compare?{chosen}&x=flops&y={y}"
            good.append(timed(f"20 runs compared, {y}", lambda page=page: restarted.get(page), COMPARE_SECONDS))
    finally:
        shutil.rmtree(root)
    raise SystemExit(not all(good))


if __name__ == "__main__":
    main()
