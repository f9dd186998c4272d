"""The pages in a real browser: curves grow, a run is killed, stopped and continued, notes are kept."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.conftest import Tiny
from tests.ui.conftest import write_run

from nanogrove.config.overrides import resolve
from nanogrove.errors import RunError
from nanogrove.runs.train import train
from nanogrove.ui.processes import Processes

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / ".venv" / "npm" / "node_modules", *map(Path, os.environ.get("NODE_PATH", "").split(os.pathsep)))


@pytest.fixture
def modules() -> Path:
    """A folder of node modules with playwright-core, which drives Chromium, and axe-core, which judges pages."""
    folder = next(
        (each for each in FOLDERS if all((each / name).is_dir() for name in ("playwright-core", "axe-core"))), None
    )
    if folder is None or not shutil.which("node") or not shutil.which("chromium"):
        pytest.skip("needs node, chromium, and playwright-core and axe-core from `make npm`, or in NODE_PATH")
    return folder.resolve()


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


@pytest.mark.slow
def test_a_run_is_watched_killed_stopped_and_continued(modules: Path, tiny: Tiny, tmp_path: Path) -> None:
    """Pictures of the pages are left in NANOGROVE_PICTURES, where that is set."""
    runs = tmp_path / "runs"
    for _ in train(resolve(tiny()), runs / "ended"):
        pass
    (write_run(runs / "damaged") / "events.jsonl").write_text("nonsense\n" * 2)
    preset = tmp_path / "live.json"
    preset.write_text(json.dumps(tiny(train={"steps": 6000}, evaluate={"every": 100}, save={"every": 500})))
    pictures = Path(os.environ.get("NANOGROVE_PICTURES", tmp_path))
    training = [sys.executable, "-m", "nanogrove", "train", str(preset), "--out", str(runs / "live")]
    script, chromium = Path(__file__).with_name("browser.mjs"), str(shutil.which("chromium"))
    with subprocess.Popen(training, stdout=subprocess.DEVNULL) as trainer, served(runs) as url:
        try:
            command = ["node", str(script), str(modules), chromium, url, str(pictures), str(trainer.pid)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        finally:
            trainer.kill()
            with suppress(RunError):  # the one that goes on
                Processes().stop(runs / "live")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
