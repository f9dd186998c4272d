"""The table of verbs, and the two that only show: presets and settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogrove.cli import verbs
from nanogrove.cli.main import VERBS
from nanogrove.config.catalog import list_presets, packaged_text


def test_a_verb_is_a_file_and_a_line() -> None:
    files = {path.stem for path in Path(next(iter(verbs.__path__))).glob("*.py")}
    assert files == {*VERBS, "__init__"}


@pytest.mark.parametrize("name", ["quickstart", "evolve"])
def test_a_preset_is_printed_in_full(command: Callable[..., Any], name: str) -> None:
    shown = command("presets", name)
    assert shown.code == 0
    assert shown.out == (packaged_text(name) or "").rstrip() + "\n"
    assert json.loads(shown.out)["description"] == list_presets()[name]


def test_a_misspelt_preset_gets_the_nearest(command: Callable[..., Any]) -> None:
    missing = command("presets", "quikstart")
    assert missing.error() == "error: no preset is called 'quikstart'; did you mean quickstart?"


def test_settings_show_values_default_and_meaning(command: Callable[..., Any]) -> None:
    shown = command("settings", "save.snapshots")
    assert shown.out == (
        "save.snapshots\n    true or false; default false\n    also keep step-1, step-2, step-4, step-8, …\n"
    )
    section = command("settings", "save").out
    assert section.splitlines()[:2] == ["save", "    a section"]
    assert "save.snapshots" in section


def test_settings_as_json(command: Callable[..., Any]) -> None:
    (setting,) = json.loads(command("settings", "data.sources.glob", "--json").out)[:1]
    assert setting == {
        "key": "data.sources[].glob",
        "of": "text",
        "type": "text",
        "required": False,
        "default": "**/*.txt",
        "description": "which files of a folder to read",
    }
    everything = json.loads(command("settings", "--json").out)
    assert {"train", "method.rounds", "data.sources[].format"} <= {setting["key"] for setting in everything}


def test_a_misspelt_setting_gets_the_nearest(command: Callable[..., Any]) -> None:
    missing = command("settings", "train.stepz")
    assert missing.error() == "error: no setting is called 'train.stepz'; did you mean train.steps?"
