"""Runs below a folder, in one line each."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nanogrove.errors import RunError
from nanogrove.record.events import Event
from nanogrove.record.folder import RunFolder
from nanogrove.record.listing import TAIL_BYTES, Listed, is_held, list_runs

START = Event("start", 0, {"steps": 20})
EVAL = Event("eval", 10, {"split": "validation", "loss": 2.5})
TEST = Event("eval", 10, {"split": "test", "loss": 9.0})
STEPS = [Event("step", n, {"loss": 3.0}) for n in range(11, 15)]
END = Event("end", 20, {"split": "test", "loss": 2.25})
PRESET = {"method": {"name": "pretrain"}, "data": {"type": "text", "sources": [{"type": "text", "path": "a/b.txt"}]}}


def make(folder: Path, events: list[Event], preset: Any = PRESET) -> Path:
    """A run folder with a preset and a record."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "preset.json").write_text(json.dumps(preset))
    (folder / "events.jsonl").write_text("".join(event.line() for event in events))
    return folder


def only(root: Path) -> Listed:
    (run,) = list_runs(root)
    return run


def test_a_run_is_listed_with_what_it_trains_how_far_it_came_and_how_good_it_is(tmp_path: Path) -> None:
    make(tmp_path / "deep" / "one", [START, EVAL, *STEPS, END])
    os.utime(tmp_path / "deep" / "one" / "events.jsonl", (5, 5))
    assert only(tmp_path) == Listed(
        *("deep/one", "pretrain", "text", ("b.txt",), 20, 20, "loss", 2.25, "finished"), modified=5.0
    )


@pytest.mark.parametrize(
    ("events", "state", "step", "figure"),
    [
        ([START, EVAL, TEST, *STEPS], "stopped", 14, 2.5),
        ([START], "stopped", 0, None),
        ([], "stopped", 0, None),
        ([START, EVAL, Event("diverged", 12, {"reason": "NaN"})], "diverged", 12, 2.5),
        ([START, Event("eval", 3, {"loss": [1.0, 2.0]})], "stopped", 3, [1.0, 2.0]),
        ([START, Event("eval", 3, {"loss": None})], "stopped", 3, None),
    ],
)
def test_a_run_that_is_not_finished(tmp_path: Path, events: list[Event], state: str, step: int, figure: object) -> None:
    make(tmp_path / "one", events)
    run = only(tmp_path)
    assert (run.state, run.step, run.figure) == (state, step, figure)


def test_a_last_line_that_is_cut_short_is_left_out(tmp_path: Path) -> None:
    record = make(tmp_path / "one", [START, EVAL]) / "events.jsonl"
    record.write_text(record.read_text() + END.line()[:20])
    assert (only(tmp_path).state, only(tmp_path).step) == ("stopped", 10)


def test_a_run_is_running_while_its_lock_is_held(tmp_path: Path) -> None:
    run = make(tmp_path / "one", [START, EVAL])
    with RunFolder(run):
        assert only(tmp_path).state == "running"
        assert is_held(run)
    assert (only(tmp_path).state, is_held(run)) == ("stopped", False)
    with RunFolder(run), pytest.raises(RunError, match="in use"), RunFolder(run):
        pass  # the question took no lock


def test_an_evaluation_long_before_the_end_is_found(tmp_path: Path) -> None:
    steps = [Event("step", n, {"loss": 3.0, "padding": "x" * 200}) for n in range(TAIL_BYTES[0] // 200)]
    make(tmp_path / "one", [START, EVAL, *steps])
    assert only(tmp_path).figure == 2.5


@pytest.mark.parametrize(
    ("name", "content", "damage"),
    [
        ("preset.json", None, "no preset.json"),
        ("preset.json", "{", "preset.json is damaged"),
        ("preset.json", "[]", "preset.json is damaged"),
        ("preset.json", '{"method": 1, "data": {}}', "preset.json is damaged"),
        ("preset.json", "[" * 100_000, "preset.json is damaged"),
        ("events.jsonl", None, "no events.jsonl"),
        ("events.jsonl", "poem\nand another line\n", "events.jsonl is damaged"),
        ("events.jsonl", START.line() + "poem\n", "events.jsonl is damaged"),
        ("events.jsonl", os.mkfifo, "events.jsonl is damaged"),
        ("preset.json", os.mkfifo, "preset.json is damaged"),
        ("events.jsonl", os.mkdir, "events.jsonl is damaged"),
        ("events.jsonl", lambda path: os.symlink("/dev/zero", path), "events.jsonl is a link"),
        ("preset.json", lambda path: os.symlink("/dev/zero", path), "preset.json is a link"),
    ],
)
def test_a_damaged_run_is_listed_as_such_with_what_is_known_of_it(
    tmp_path: Path, name: str, content: Any, damage: str
) -> None:
    part = make(tmp_path / "one", [START, END]) / name
    part.unlink()
    if isinstance(content, str):
        part.write_text(content)
    elif content is not None:
        content(part)
    run = only(tmp_path)
    assert (run.name, run.state, run.damage) == ("one", "damaged", damage)


def test_runs_are_sorted_and_links_and_parts_of_runs_are_not_entered(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside" / "run", [START])
    for name in ("b", "a/z", "a-1", "b/nested"):
        make(tmp_path / "runs" / name, [START])
    make(tmp_path / "runs" / "b" / "data" / "copy", [START])
    (tmp_path / "runs" / "link").symlink_to(outside.parent)
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["a/z", "a-1", "b", "b/nested"]
    assert [run.name for run in list_runs(tmp_path, ("outside", "missing"))] == ["outside/run"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    assert only(tmp_path).damage == "may not be read"


@pytest.mark.parametrize(
    ("events", "preset_steps", "shown"),
    [
        ([START, EVAL, Event("resume", 10, {"steps": 60, "changed": {}}), *STEPS], None, (14, 60)),
        ([START, EVAL, Event("resume", 10, {"steps": 60}), Event("resume", 10, {"changed": {}}), *STEPS], 60, (14, 60)),
        ([START, EVAL, Event("resume", 10, {"steps": 14}), *STEPS], 14, (14, 14)),  # fewer than it began with
        ([START, EVAL, Event("resume", 10, {"changed": {}}), *STEPS], None, (14, 20)),
        ([START, EVAL, Event("resume", 10, {"steps": "many"}), *STEPS], None, (14, None)),
    ],
)
def test_a_run_that_goes_on_has_the_steps_of_its_newest_budget(
    tmp_path: Path, events: list[Event], preset_steps: object, shown: tuple[int, object]
) -> None:
    make(tmp_path / "one", events, {**PRESET, "train": {"steps": preset_steps}})
    assert (only(tmp_path).step, only(tmp_path).steps) == shown


def test_grammars_and_tasks_have_names(tmp_path: Path) -> None:
    make(tmp_path / "a", [], {"method": {"name": "pretrain"}, "data": {"type": "rlm"}})
    make(tmp_path / "b", [], {"method": {"name": "self_improve"}, "data": {"type": "task", "task": "copy"}})
    make(tmp_path / "c", [], {"method": {"name": "pretrain"}, "data": {"sources": ["x/y/", {"dataset": "o/n"}, 3]}})
    assert [(run.data, run.sources) for run in list_runs(tmp_path)] == [
        ("rlm", ()),
        ("task", ("copy",)),
        ("text", ("y", "n")),
    ]


def test_a_folder_without_runs_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r": no run is here; name a folder that holds runs"):
        list_runs(tmp_path)
    with pytest.raises(RunError, match=r"nope: is not a folder; name a folder that holds runs"):
        list_runs(tmp_path / "nope")
