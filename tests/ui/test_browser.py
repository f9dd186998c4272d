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
from tests.ui.conftest import write_run

from nanogrove.config.overrides import resolve
from nanogrove.errors import RunError
from nanogrove.runs.train import train
from nanogrove.ui.processes import Processes

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
        timeout=300,
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


def test_runs_are_listed_and_compared(tools: Chromium, three: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    with served(lab) as address:
        assert not problems(tools, address, "list", "compare", "refused", filled=str(three), lab=str(lab))


def written(command: Command, run: Path, fields: dict[str, str]) -> str:
    """What `nanogrove generate` writes with the settings that are in fields of the page."""
    options = [word for name, value in fields.items() for word in (OPTIONS[name], value) if word]
    done = command("generate", run, *options)
    assert done.code == 0, done.err
    return done.out.rstrip()


def test_a_run_writes_and_another_is_started(tools: Chromium, three: Path, command: Command) -> None:
    plain = {"Prompt": "The ", "Tokens": "30", "Seed": "3"}
    cut = plain | {"Seed": "4", "Temperature": "1.2", "Top k; empty for off": "9", "Top p; empty for off": "0.9"}
    texts = [
        {"fields": fields, "runs": runs, "written": [written(command, three / run, fields) for run in runs]}
        for fields, runs in ((plain, ["ended"]), (cut, ["ended", "other"]))
    ]
    with served(three) as address:
        assert not problems(tools, address, "play", "new_run", texts=texts)


def test_a_run_is_watched_killed_stopped_and_continued(tools: Chromium, tiny: Tiny, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    preset = tmp_path / "live.json"
    preset.write_text(json.dumps(tiny(train={"steps": 6000}, evaluate={"every": 100}, save={"every": 500})))
    training = [sys.executable, "-m", "nanogrove", "train", str(preset), "--out", str(runs / "live")]
    runs.mkdir()
    with subprocess.Popen(training, stdout=subprocess.DEVNULL) as trainer, served(runs) as address:
        try:
            assert not problems(tools, address, "run", trainer=trainer.pid)
        finally:
            trainer.kill()
            with suppress(RunError):  # the one that goes on
                Processes().stop(runs / "live")
