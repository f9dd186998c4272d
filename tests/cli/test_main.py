"""The table of verbs, and the two that only show: presets and settings."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanogrove.cli import verbs
from nanogrove.cli.main import VERBS, main
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
        "values": {"kind": "text", "null": False, "choices": [], "least": None, "most": None},
    }
    everything = json.loads(command("settings", "--json").out)
    assert {"train", "method.rounds", "data.sources[].format"} <= {setting["key"] for setting in everything}


def test_a_misspelt_setting_gets_the_nearest(command: Callable[..., Any]) -> None:
    missing = command("settings", "train.stepz")
    assert missing.error() == "error: no setting is called 'train.stepz'; did you mean train.steps?"


def test_the_version_names_what_a_report_of_a_fault_should(command: Callable[..., Any]) -> None:
    shown = command("--version")
    assert shown.code == 0
    assert re.fullmatch(r"nanogrove \S+ \(torch \S+, Python \S+, \w+\)\n", shown.out)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("prests", "no such verb: prests; did you mean presets?"),
        ("xyzzy", f"no such verb: xyzzy; verbs are {', '.join(VERBS)}"),
        ("--versoin", "no such option: --versoin; did you mean --version?"),
        (f"report {'x' * 300}", f"{'x' * 300}: file name too long; give a shorter name"),
        ("train .", ".: is a folder, and a preset is a file; the run in a folder goes on with --resume"),
        ("evaluate preset.json", "preset.json: no run here; give a folder such as runs/NAME"),
    ],
)
def test_a_wrong_command_ends_in_one_line(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preset.json").write_text("{}")
    assert command(*given.split()).error() == f"error: {line}"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.EMFILE, "Too many open files", "a"),
            "a: too many open files; raise the limit of open files, as",
        ),
        (PermissionError(errno.EACCES, "Permission denied", b"a"), "a: permission denied; allow this user to read and"),
        (OSError(errno.EIO, "Input/output error"), "input/output error; --debug shows what was under way"),
        (OSError("odd"), "odd; --debug shows what was under way"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_a_remedy(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: OSError, line: str
) -> None:
    def refused() -> dict[str, str]:
        raise error

    monkeypatch.setattr("nanogrove.config.catalog.list_presets", refused)
    assert command("presets").error().startswith(f"error: {line}")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_standard_output_that_is_full_is_said_in_one_line(buffered: str) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "nanogrove", "presets"],
            env={**os.environ, "PYTHONUNBUFFERED": buffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.stderr == "error: standard output: no space left on device; free some space\n"
    assert ended.returncode == 2


def test_ctrl_c_ends_a_verb_in_one_line(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("nanogrove.config.catalog.list_presets", interrupted)
    stopped = command("presets")
    assert (stopped.code, stopped.out, stopped.err) == (130, "", "stopped by Ctrl-C\n")


def test_a_preset_may_come_from_standard_input(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(json.dumps(tiny()).encode())))
    shown = command("train", "-", "train.steps=7", "--dry-run")
    assert " in 7 steps" in shown.out
    assert "time        less than a minute of training, by timing a few steps just now" in shown.out
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"\xff")))
    assert command("train", "-").error().startswith("error: standard input: not UTF-8 text")
    monkeypatch.setattr("sys.stdin", None)
    assert command("train", "-").error() == "error: standard input: is closed, so nothing can be read from it"


def test_several_texts_are_divided_and_a_dash_is_standard_input(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        """Writes an X after each prompt."""

        def generate(self, prompts: list[str], tokens: int, **options: Any) -> list[str]:
            assert options["stop"] == ["\n", "end"]
            return [f"{prompt}X" for prompt in prompts]

        def precision(self, asked: str) -> Any:
            return SimpleNamespace(format="float32", reason="usual")

    monkeypatch.setattr("nanogrove.language_model.load", lambda run: Model())
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"two\nlines\n")))
    options = ["--stop", r"\n", "--stop", "end", "--precision", "float32"]
    assert command("generate", "run", "one", "-", *options).out == "--- 1 of 2 ---\noneX\n--- 2 of 2 ---\ntwo\nlinesX\n"
    assert command("generate", "run", "one", *options).out == "oneX\n"
    assert command("generate", "run", "-", "-").error() == "error: standard input is one prompt; give - once"


def test_a_shell_is_offered_presets_runs_and_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/preset.json").write_text("{}")
    (tmp_path / "my.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    def offered(*words: str) -> list[str]:
        monkeypatch.setenv("_NANOGROVE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["nanogrove", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out.split()

    assert offered("train", "quick") == ["quickstart"]
    assert offered("train", "m") == ["muzero-general", "muzero-quick", "my.json"]
    assert offered("generate", "ru") == ["runs/", "runs/mine"]
    assert offered("generate", "runs/m") == ["runs/mine"]
    assert offered("train", "quickstart", "optimizer.l") == ["optimizer.lr="]
    monkeypatch.setattr("nanogrove.config.settings.all_settings", None)
    assert offered("train", "quickstart", "optimizer.l") == ["optimizer.lr="], "from the cache"
