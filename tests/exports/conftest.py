"""What tests of exports share: a tiny run on text."""

from pathlib import Path
from typing import Any

import pytest

from nanogrove.config.overrides import resolve
from nanogrove.runs.train import train


@pytest.fixture(scope="session")
def llama_run(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Llama's shape, whose context is 64."""
    run = tmp_path_factory.mktemp("exports") / "small run"
    preset = tiny(model={"family": "llama", "block_size": 64, "dropout": 0.0}, train={"steps": 12})
    for _ in train(resolve(preset), run):
        pass
    return run
