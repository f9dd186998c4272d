"""All engines leave the same bits, also where processes of a study are killed, or the study with or without them."""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.studies.conftest import MakeStudy, begin, in_training, lasting, left, outcome, run, wait_for

from nanogrove.record.events import read_events
from nanogrove.record.reading import last_event
from nanogrove.studies.compare import Options, compare, train_index
from nanogrove.studies.engines import local

pytestmark = pytest.mark.slow
STEPS = 240  # of runs of about a second each
KILLS = 6


@pytest.fixture(scope="module")
def undisturbed(mixed: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What `mixed(steps=STEPS)` leaves where nothing happens to it."""
    out = tmp_path_factory.mktemp("undisturbed") / "study"
    run(mixed(steps=STEPS), out, "stacked")
    return lasting(out)


def ended(out: Path) -> dict[Path, bytes]:
    """The records of the runs that are at their end, with the figures of the clock, which no other training has."""
    records = out.glob("runs/*/*/events.jsonl")
    return {path: path.read_bytes() for path in records if (event := last_event(path)) and event.kind == "end"}


def workers(parent: int) -> list[psutil.Process]:
    """The processes of a study that train."""
    with suppress(psutil.NoSuchProcess):
        return [each for each in psutil.Process(parent).children() if each.status() != psutil.STATUS_ZOMBIE]
    return []


@pytest.mark.parametrize("kind", ["text", "grammar"])
def test_all_engines_give_equal_bits(kind: str, mixed: MakeStudy, tmp_path: Path) -> None:
    study = mixed(kind)
    run(study, tmp_path / "stacked", "stacked")
    run(study, tmp_path / "processes", "processes")
    outcome(compare(study, tmp_path / "index", train=False))
    for index in random.sample(range(16), 16):
        list(train_index(tmp_path / "index", index))
    outcome(compare(study, tmp_path / "index", train=False))
    expected = left(tmp_path / "stacked")
    assert len(expected["results.jsonl"]) == 16  # type: ignore[arg-type]
    assert left(tmp_path / "processes") == expected
    assert left(tmp_path / "index") == expected


@pytest.mark.parametrize("name", ["stacked", "processes"])
def test_processes_killed_at_random_moments_are_replaced(
    name: str,
    mixed: MakeStudy,
    undisturbed: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "ATTEMPTS", KILLS + 1)  # chance may kill one as it starts, again and again
    out, finished, due, kills = tmp_path / "study", dict[Path, bytes](), time.monotonic(), 0
    for update in compare(mixed(steps=STEPS), out, Options(name)):
        if kills < KILLS and time.monotonic() > due and (alive := workers(os.getpid())):
            finished |= ended(out)
            killed = random.choice(alive)
            killed.kill()
            kills, due = kills + 1, time.monotonic() + random.uniform(0, 2)
            print(f"killed {killed.pid} at {update.share:.1%}, {len(finished)} runs at their end")
    assert kills == KILLS
    assert lasting(out) == undisturbed
    assert finished.items() <= ended(out).items(), "what was at its end is not trained again"


@pytest.mark.parametrize("name", ["stacked", "processes"])
@pytest.mark.parametrize("all_of_it", [False, True], ids=["parent", "all"])
def test_a_study_killed_at_random_moments_goes_on(
    name: str, all_of_it: bool, mixed: MakeStudy, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    out, finished = tmp_path / "study", dict[Path, bytes]()
    for number in range(KILLS + 1):
        process = begin(mixed(steps=STEPS), out, name)
        if number < KILLS:
            seconds = random.uniform(0, 20)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            alive = workers(process.pid)
            for each in [process.pid, *([each.pid for each in alive] if all_of_it else [])]:
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            if not all_of_it:  # what they finish before their next message counts
                psutil.wait_procs(alive, 1)
            finished |= ended(out)
            print(f"killed after {seconds:.2f} s with {len(alive)} workers, {len(finished)} runs at their end")
        text = process.communicate()[0]
    assert process.returncode == 0, text
    assert lasting(out) == undisturbed
    assert finished.items() <= ended(out).items(), "what was at its end is not trained again"


@pytest.mark.parametrize("name", ["stacked", "processes"])
def test_a_worker_that_outlives_its_study_is_waited_for_and_ends(
    name: str, mixed: MakeStudy, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    """It is frozen, so that it holds its run folders however slow the rest is."""
    out = tmp_path / "study"
    process = begin(mixed(steps=STEPS), out, name)
    wait_for(lambda: in_training(out))
    frozen = workers(process.pid)
    for worker in frozen:
        worker.suspend()
    process.kill()
    process.communicate()
    held = {folder: (folder / "events.jsonl").read_bytes() for folder in in_training(out)}
    waited = ""
    for update in compare(mixed(steps=STEPS), out, Options(name, workers=2)):
        if "waiting" in update.text and not waited:
            waited = update.text
            assert any(f"in use by process {worker.pid}; " in waited for worker in frozen)
            assert held == {folder: (folder / "events.jsonl").read_bytes() for folder in held}
            for worker in frozen:
                worker.resume()
    assert waited
    print(waited)
    assert not psutil.wait_procs(frozen, 60)[1], "they end at their next message"
    assert lasting(out) == undisturbed


@pytest.mark.parametrize("name", ["stacked", "processes"])
def test_ctrl_c_saves_all_runs(name: str, mixed: MakeStudy, undisturbed: dict[str, object], tmp_path: Path) -> None:
    out = tmp_path / "study"
    process = begin(mixed(steps=STEPS), out, name)
    wait_for(lambda: in_training(out))
    process.send_signal(signal.SIGINT)
    text = process.communicate()[0]
    assert process.returncode == 130, text
    assert "stopped; what runs have saved stays" in text
    stopped = in_training(out)
    for folder in stopped:
        state = json.loads((folder / "checkpoints" / "current" / "state.json").read_text())
        steps = [event.step for event in read_events(folder / "events.jsonl") if event.kind == "step"]
        print(f"{folder.relative_to(out)} stopped at step {steps[-1]}")
        assert state["step"] == steps[-1]
    run(mixed(steps=STEPS), out, name)
    assert lasting(out) == undisturbed
