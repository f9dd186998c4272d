"""A run that lost a part goes on to the very end it would have had, or is refused with what can be done, untouched."""

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from nanogrove.cli.render import described_minutes
from nanogrove.config.overrides import resolve
from nanogrove.errors import NanogroveError
from nanogrove.record.events import Event, read_events
from nanogrove.runs.train import train


@pytest.fixture(scope="module")
def preset(tiny: Any) -> Any:
    """A run of a tenth of a second that saves after steps 4, 8 and 12, and evaluates after 5 and 10."""
    values = tiny(train={"steps": 14}, evaluate={"tokens": 100}, sample={"tokens": 0})
    return resolve(values)


@pytest.fixture(scope="module")
def whole(preset: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, to its end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    for _ in train(preset, out):
        pass
    return out


@pytest.fixture(scope="module")
def cut_run(preset: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, killed in step 11."""
    return cut(preset, tmp_path_factory.mktemp("cut") / "run", 11)


@pytest.fixture
def run(cut_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(cut_run, tmp_path / "run")


def cut(preset: Any, out: Path, step: int) -> Path:
    for event in train(preset, out, resume=out.exists()):
        if event.kind == "step" and event.step == step:
            break
    return out


def resumed(preset: Any, run: Path) -> list[Event]:
    return list(train(preset, run, resume=True))


def notes(events: list[Event]) -> list[str]:
    return [event.values["text"] for event in events if event.kind == "note"]


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run folder but its lock."""
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def tensors(run: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(run).items() if re.match(r".*/(current|best)/.*safetensors$", name)}


def record(run: Path, after: int = 0) -> list[tuple[str, int, Any]]:
    """The record after a step, less the clock."""
    events = read_events(run / "events.jsonl")
    return [(event.kind, event.step, event.values) for event in events if event.step > after]


def refused(preset: Any, run: Path, message: str, resume: bool = True) -> None:
    """Sees that a run is refused in one line, and that nothing in it is touched."""
    before = contents(run)
    with pytest.raises(NanogroveError, match=message) as error:
        list(train(preset, run, resume))
    assert "\n" not in str(error.value)
    assert contents(run) == before


def test_a_record_that_is_lost_costs_nothing_else(preset: Any, whole: Path, run: Path) -> None:
    (run / "events.jsonl").unlink()
    said = notes(resumed(preset, run))
    assert said == [f"{run / 'events.jsonl'}: is lost; a new record begins at step 8"]
    assert tensors(run) == tensors(whole)
    begun, *after = record(run)
    assert begun[:2] == ("start", 8)
    assert after == record(whole, after=8)
    assert (run / "report.html").exists()


@pytest.mark.parametrize("step", [9, 13])
def test_a_new_record_goes_on_after_another_kill(preset: Any, whole: Path, run: Path, step: int) -> None:
    (run / "events.jsonl").write_bytes(b"")
    cut(preset, run, step)
    assert not notes(resumed(preset, run))
    assert tensors(run) == tensors(whole)
    assert record(run, after=8) == record(whole, after=8)


def test_a_record_of_another_run_or_a_damaged_one_is_kept(preset: Any, whole: Path, run: Path) -> None:
    data = (run / "events.jsonl").read_bytes()
    for other in (data[:100], data.replace(b'"loss": ', b'"loss":  ', 1), b"precious\n" * 10_000):
        (run / "events.jsonl").write_bytes(other)
        refused(
            preset, run, "events.jsonl: is not the record that its checkpoint .* or move this one away, and --resume"
        )
    (run / "events.jsonl").rename(run / "damaged")  # as the message says
    resumed(preset, run)
    assert tensors(run) == tensors(whole)


def test_without_its_preset_a_run_is_refused(preset: Any, whole: Path, run: Path) -> None:
    (run / "preset.json").rename(run / "kept")
    for resume in (False, True):
        message = "preset.json: missing, and events.jsonl and checkpoints of a run are here; put it back, or train in"
        refused(preset, run, message, resume)
    (run / "events.jsonl").rename(run / "record")
    refused(preset, run, "preset.json: missing, and checkpoints of a run are here")
    (run / "record").rename(run / "events.jsonl")
    (run / "kept").rename(run / "preset.json")
    resumed(preset, run)
    assert tensors(run) == tensors(whole)


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints/*"])
def test_without_its_checkpoints_a_run_is_refused(preset: Any, run: Path, gone: str) -> None:
    for path in run.glob(gone):
        shutil.rmtree(path)
    refused(
        preset, run, "checkpoints: no checkpoint is left of a run that reached step 11; put them back, or start anew"
    )


def test_without_its_checkpoints_a_stopped_or_finished_run_is_refused(preset: Any, whole: Path, tmp_path: Path) -> None:
    out = cut(preset, tmp_path / "stopped", 3)
    shutil.rmtree(out / "checkpoints")
    refused(preset, out, "no checkpoint is left of a run that reached step 3")
    done = shutil.copytree(whole, tmp_path / "done")
    shutil.rmtree(done / "checkpoints")
    refused(preset, done, "no checkpoint is left of a run that reached step 14")


def test_a_run_in_which_nothing_was_saved_begins_again_and_says_so(preset: Any, whole: Path, tmp_path: Path) -> None:
    out = cut(preset, tmp_path / "run", 3)
    said = notes(resumed(preset, out))
    assert said == [f"{out}: nothing was saved yet, so the run begins again from its first step"]
    assert (tensors(out), record(out)) == (tensors(whole), record(whole))


def test_without_its_best_model_a_run_is_refused_and_goes_on_as_the_message_says(preset: Any, run: Path) -> None:
    best, current = run / "checkpoints" / "best", run / "checkpoints" / "current"
    weights = (best / "model.safetensors").read_bytes()
    (best / "model.safetensors").write_bytes(weights[:-1])
    refused(
        preset, run, "best/model.safetensors: damaged, its checksum differs; put it back, or go on without it: copy"
    )
    shutil.rmtree(best)
    refused(preset, run, f"best: missing; put it back, or go on without it: copy {current} to {best}")
    shutil.copytree(current, best)
    assert resumed(preset, run)[-1].kind == "end"


def test_a_finished_run_says_that_it_is_finished_and_is_left_alone(preset: Any, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before = contents(run)
    events = resumed(preset, run)
    assert notes(events) == [f"{run}: the run is finished, all of its 14 steps; nothing is left to train"]
    assert [event.kind for event in events] == ["note", "end"]
    assert contents(run) == before
    (run / "report.html").unlink()
    resumed(preset, run)
    assert contents(run).keys() == before.keys(), "the report is written where it is missing"


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_changes_changes_nothing(
    preset: Any, whole: Path, run: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    """Neither that of the process nor that of the files."""
    for path in run.rglob("*"):
        os.utime(path, (time.time() - years * 3e7,) * 2)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + years * 3e7)
    resumed(preset, run)
    assert (tensors(run), record(run)) == (tensors(whole), record(whole))


def test_what_follows_the_position_of_the_checkpoint_is_of_no_account(preset: Any, whole: Path, run: Path) -> None:
    """A power cut may leave anything there."""
    data = (run / "events.jsonl").read_bytes()
    position = json.loads((run / "checkpoints/current/state.json").read_bytes())["position"]
    for tail in (b"", b"\0" * 1000, b'{"kind": "end", "step": 8, "time": {}', os.urandom(500)):
        out = shutil.copytree(run, run.with_name(f"tail-{len(tail)}"))
        (out / "events.jsonl").write_bytes(data[:position] + tail)
        resumed(preset, out)
        assert (tensors(out), record(out)) == (tensors(whole), record(whole))


def test_a_missing_newest_checkpoint_is_named(preset: Any, whole: Path, run: Path) -> None:
    checkpoints = run / "checkpoints"
    shutil.rmtree(checkpoints / "current")
    assert notes(resumed(preset, run)) == [
        f"{checkpoints / 'current'}: missing; going on from {checkpoints / 'prev'} instead"
    ]
    assert tensors(run) == tensors(whole)


@pytest.mark.parametrize(("saved", "first"), [(False, "of minutes"), (True, "of minutes"), (True, "of steps")])
def test_the_minutes_of_a_lost_record_are_known(tiny: Any, tmp_path: Path, saved: bool, first: str) -> None:
    """Whichever of its two presets a run is resumed with first, the one it was started with is still its own."""
    budget = {"steps": None, "minutes": 0.005}
    minutes = resolve(tiny(train=budget, evaluate={"every": 1, "tokens": 50}, sample={"tokens": 0}))
    for event in train(minutes, tmp_path / "run"):
        if event.kind == "step" and event.step == (6 if saved else 1):
            break
    (tmp_path / "run" / "events.jsonl").unlink()
    steps = resolve(json.loads((tmp_path / "run" / "preset.json").read_bytes()))
    cut(steps if first == "of steps" else minutes, tmp_path / "run", 8)
    resumed(minutes, tmp_path / "run")
    start = read_events(tmp_path / "run" / "events.jsonl")[0]
    assert start.time["minutes"] == 0.005
    assert ("step_ms" in start.time) == saved
    assert "for 0.005 minutes" in described_minutes(start.time)
    refused(
        resolve(tiny(train={**budget, "minutes": 1}, evaluate={"every": 1, "tokens": 50}, sample={"tokens": 0})),
        tmp_path / "run",
        "train.minutes",
    )
