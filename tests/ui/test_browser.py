"""The pages in a real browser: what people do with them, judged by Chromium and by axe-core.

Pictures of the pages are left in NANOGROVE_PICTURES, where that is set.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.chromium import Chromium, chromium
from tests.conftest import Command, Tiny
from tests.ui.conftest import write_run, write_study

from nanogrove.config.overrides import resolve
from nanogrove.errors import RunError
from nanogrove.runs.train import train
from nanogrove.ui.processes import Processes

pytestmark = pytest.mark.browser
SCRIPT = Path(__file__).with_name("browser.mjs")
# Fields of the page, with the options of `generate` that say the same.
OPTIONS = {
    "Prompt": "",
    "Tokens": "--tokens",
    "Seed": "--seed",
    "Temperature": "--temperature",
    "Top k; empty for off": "--top-k",
    "Top p; empty for off": "--top-p",
}


@pytest.fixture
def tools() -> Chromium:
    return chromium()


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """The address that `nanogrove ui` prints for a folder, until the block ends."""
    command = [sys.executable, "-m", "nanogrove", "ui", str(runs), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        match = re.match(r"http://\S+", server.stdout.readline())
        assert match is not None
        try:
            yield match[0]
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode == 130


def problems(tools: Chromium, address: str, *pages: str, **asked: Any) -> str:
    """What `browser.mjs` finds wrong with pages."""
    pictures = os.environ.get("NANOGROVE_PICTURES")
    asked |= {"modules": str(tools.modules), "chromium": tools.path, "address": address, "pages": pages}
    done = subprocess.run(
        ["node", str(SCRIPT)],
        input=json.dumps({"pictures": pictures, **asked}),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    return done.stdout + done.stderr


@pytest.fixture
def three(tiny: Tiny, tmp_path: Path) -> Path:
    """A folder of three runs, which differ in their seeds, and a damaged one."""
    folder = tmp_path / "three"
    for seed, name in enumerate(("ended", "other", "third")):
        for _ in train(resolve(tiny(seed=seed)), folder / name):
            pass
    damaged = write_run(folder / "damaged")
    (damaged / "events.jsonl").write_text("nonsense\n" * 2)
    (damaged / "preset.json").write_text("nonsense")
    return folder


def written(command: Command, run: Path, fields: dict[str, str]) -> str:
    """What `nanogrove generate` writes with the settings that are in fields of the page."""
    options = [word for name, value in fields.items() for word in (OPTIONS[name], value) if word]
    done = command("generate", run, *options)
    assert done.code == 0, done.err
    return done.out.rstrip()


def test_runs_are_listed_compared_and_write_and_another_is_started(
    tools: Chromium, three: Path, tmp_path: Path, command: Command
) -> None:
    plain = {"Prompt": "The ", "Tokens": "30", "Seed": "3"}
    cut = plain | {"Seed": "4", "Temperature": "1.2", "Top k; empty for off": "9", "Top p; empty for off": "0.9"}
    texts = [
        {"fields": fields, "runs": runs, "written": [written(command, three / run, fields) for run in runs]}
        for fields, runs in ((plain, ["ended"]), (cut, ["ended", "other"]))
    ]
    pages = ("list", "compare", "refused", "play", "new_run")
    lab = tmp_path / "lab"
    lab.mkdir()
    with served(lab) as address:
        assert not problems(tools, address, *pages, filled=str(three), lab=str(lab), texts=texts)


def test_a_grammar_votes_a_study_and_a_dropped_file_have_their_pages(
    tools: Chromium, tiny: Tiny, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    data = {"type": "rhm", "v": 4, "m": 2, "s": 2, "L": 2, "held_out": 8, "targets": "all"}
    method = {"name": "evolve", "population_size": 3, "generations": 1, "steps_per_generation": 2}
    method |= {"replaced": 0.34, "parents": 0.34, "noise": 0.5, "significance": None}
    population = tiny(evaluate={"every": 2}, save={"every": 2}, train={"steps": None}, model={"block_size": 32})
    for name, preset in (
        ("grammar", tiny(train={"steps": 2}) | {"data": data}),
        ("voters", population | {"method": method}),
    ):
        for _ in train(resolve(preset), runs / name):
            pass
    slow = [2.0, 2.1, 2.2, 2.05, 2.15, 2.25]
    write_study(runs / "rates", tiny(), {"slow": slow, "fast": [loss - 0.5 - loss / 90 for loss in slow]}, name="rates")
    with served(runs) as address:
        assert not problems(tools, address, "study", "beside", "files")


def test_a_run_is_watched_killed_stopped_and_continued(tools: Chromium, tiny: Tiny, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    preset = tmp_path / "live.json"
    slow = {"steps": 1_000_000, "batch_size": 32}  # so that it is under way all along, and its record stays short
    preset.write_text(json.dumps(tiny(train=slow, evaluate={"every": 20}, save={"every": 100})))
    training = [sys.executable, "-m", "nanogrove", "train", str(preset), "--out", str(runs / "live")]
    runs.mkdir()
    with subprocess.Popen(training, stdout=subprocess.DEVNULL) as trainer, served(runs) as address:
        try:
            assert not problems(tools, address, "run", trainer=trainer.pid)
        finally:
            trainer.kill()
            with suppress(RunError):  # the one that goes on
                Processes().stop(runs / "live")
