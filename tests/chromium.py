"""Chromium, node and the modules by which tests drive it: where they are, or why a test is skipped."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
MODULES = ("playwright-core", "axe-core")  # one drives Chromium, the other judges pages
REQUIRED = "NANOGROVE_BROWSER"  # where it is `required`, as in .ci/run, a test fails that would be skipped


class Chromium(NamedTuple):
    """What drives pages.

    Args:
        path: Chromium.
        modules: a folder of node modules that has MODULES.
    """

    path: str
    modules: Path


def chromium() -> Chromium:
    """What is on this machine; skips the test that asks where something is missing."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    modules = next((each for each in _folders() if all((each / name).is_dir() for name in MODULES)), None)
    if path is not None and modules is not None and shutil.which("node"):
        return Chromium(path, modules.resolve())
    reason = "needs Chromium, node, and playwright-core and axe-core; `make browser` installs them"
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def _folders() -> Iterator[Path]:
    """Where node modules may be: in the virtual environment, in .venv, and where NODE_PATH says."""
    yield Path(sys.prefix) / "npm" / "node_modules"
    yield ROOT / ".venv" / "npm" / "node_modules"
    yield from map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)))
