"""A run that is killed, stopped or damaged, and resumed, is the run that was left alone, bit for bit."""

import hashlib
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanogrove.language_model import load
from nanogrove.train.checkpoint import load_latest

SMALL = {
    "train": {"steps": 24},
    "evaluate": {"every": 4},
    "save": {"every": 3, "snapshots": True},
    "schedule": {"name": "constant"},
}
FILES = ("model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json", "state.json")


def outcome(run: Path) -> dict[str, Any]:
    """All that two runs of one preset must have in common: the record less its clock, and every bit of the tensors."""
    contents: dict[str, Any] = {}
    for line in (run / "events.jsonl").read_text("utf-8").splitlines():
        event = json.loads(line)
        del event["time"]
        contents[f"event {len(contents)}"] = event
    for file in sorted((run / "checkpoints").glob("*/*")):
        name = file.parent.name
        if name.startswith(("prev", ".")):
            continue  # which older ones are kept depends on when a run was stopped
        data = file.read_bytes()
        if file.name == "state.json":
            state = json.loads(data)
            data = json.dumps({key: state[key] for key in ("step", "tokens", "round", "best", "data")}).encode()
        contents[f"{name}/{file.name}"] = hashlib.sha256(data).hexdigest()
    assert {f"current/{name}" for name in FILES} < contents.keys()
    assert {"best/model.safetensors", "step-16/model.safetensors"} < contents.keys()
    left = {path.name for path in (run / "checkpoints").glob(".*")}
    assert left <= {".current.old"}, "more was left over than what the next save takes away"
    assert (run / "report.html").stat().st_size > 10_000
    return contents


@dataclass
class Reference:
    """A preset, what comes of it undisturbed, and the changes of the file system on the way there."""

    preset: Path
    outcome: dict[str, Any]
    changes: list[str]


@pytest.fixture(scope="module")
def reference(forked: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """Makes the undisturbed run of an optimizer, once."""
    references: dict[str, Reference] = {}

    def make(optimizer: str) -> Reference:
        if optimizer not in references:
            folder = tmp_path_factory.mktemp(optimizer)
            preset, changes = folder / "preset.json", folder / "changes"
            lr = {"adamw": 0.05, "muon": 0.3}[optimizer]  # so high that the best model is not always the last
            values = tiny(**SMALL, optimizer={"name": optimizer, "lr": lr, "adamw_lr": lr})
            preset.write_text(json.dumps(values))
            assert forked("train", preset, "--out", folder / "first").code == 0  # prepares the text, too
            assert forked("train", preset, "--out", folder / "run", count=str(changes)).code == 0
            contents = outcome(folder / "run")
            assert contents == outcome(folder / "first")
            references[optimizer] = Reference(preset, contents, changes.read_text().splitlines())
        return references[optimizer]

    return make


def resume(forked: Any, run: Path, reference: Reference, **request: Any) -> Any:
    """Goes on with a run, by its folder where that holds one, else by its preset."""
    if (run / "preset.json").exists():
        return forked("train", run, "--resume", **request)
    return forked("train", reference.preset, "--out", run, "--resume", **request)


def finish(forked: Any, run: Path, reference: Reference) -> str:
    """Resumes to the end, sees that the outcome is the undisturbed one, and returns what was said."""
    ended = resume(forked, run, reference)
    assert (ended.code, ended.err) == (0, "")
    assert outcome(run) == reference.outcome
    return str(ended.out)


@pytest.mark.parametrize(
    ("optimizer", "kills"),
    [("adamw", 5), *(pytest.param(name, 10, marks=pytest.mark.slow) for name in ("adamw", "muon"))],
)
def test_kills_on_the_way(
    forked: Any, reference: Callable[[str], Reference], tmp_path: Path, optimizer: str, kills: int
) -> None:
    """One run dies at random places, by turns between two changes of the file system and amid a write."""
    undisturbed, run, rng = reference(optimizer), tmp_path / "run", random.Random(len(optimizer))
    changes = undisturbed.changes
    saves = [n for n, change in enumerate(changes) if change.endswith(".current.part") and "rename" in change]
    reached = [0]
    for number, place in enumerate(sorted(rng.sample(range(1, len(changes) - 10), kills))):
        begun = saves[reached[-1] // 3 - 1] if reached[-1] else 0
        kind = "tear" if number % 2 else "kill"
        mishap = {"at": max(place - begun, 1), "kind": kind, "bytes": rng.randint(1, 20_000)}
        died = resume(forked, run, undisturbed, mishap=mishap)
        assert died.code == -(signal.SIGKILL if kind == "kill" else signal.SIGXFSZ), died
        newest, _ = load_latest(run / "checkpoints")
        reached.append(newest.state["step"] if newest else 0)
    assert reached == sorted(reached), "a kill lost a checkpoint that was there"
    assert len(set(reached)) >= min(kills - 1, 4), f"the kills did not fall all over the run: {reached}"
    finish(forked, run, undisturbed)


def rotation(changes: list[str]) -> range:
    """The changes of the first save that finds all three older checkpoints, from one to the next save's first."""
    first = next(n for n, change in enumerate(changes) if change.endswith("prev2") and "rename" in change)
    begin = max(n for n in range(first) if changes[n].endswith(".current.part"))
    end = next(n for n in range(first, len(changes)) if "mkdir" in changes[n])
    return range(begin + 1, end + 2)  # counted from 1


def sweep(forked: Any, undisturbed: Reference, places: list[int], folder: Path, kind: str = "kill") -> None:
    for at in places:
        run = folder / f"{kind}-{at}"
        mishap = {"at": at, "kind": kind, "bytes": 300}
        died = resume(forked, run, undisturbed, mishap=mishap)
        assert died.code in (-signal.SIGKILL, -signal.SIGXFSZ), (at, died)
        newest, problems = load_latest(run / "checkpoints")
        assert not [p for p in problems if not p.endswith(": missing")], (
            "a kill left a damaged checkpoint under a final name"
        )
        if newest is not None:
            load(run)  # at any moment there is a model to use
        finish(forked, run, undisturbed)
        shutil.rmtree(run)


@pytest.mark.slow
def test_kills_between_the_renames_of_a_rotation(
    forked: Any, reference: Callable[[str], Reference], tmp_path: Path
) -> None:
    undisturbed = reference("adamw")
    places = rotation(undisturbed.changes)
    changes = [undisturbed.changes[at - 1] for at in places]
    renames = [at for at, change in zip(places, changes, strict=True) if "rename" in change]
    assert len(renames) == 4, changes  # prev2, prev, current each one on, and the new one into place
    sweep(forked, undisturbed, [*renames, renames[-1] + 1], tmp_path)


@pytest.mark.slow
def test_kills_before_anything_is_saved(forked: Any, reference: Callable[[str], Reference], tmp_path: Path) -> None:
    undisturbed = reference("adamw")
    changes = undisturbed.changes
    preset = next(n for n, change in enumerate(changes) if ".preset.json." in change and "rename" in change) + 1
    saved = next(n for n, change in enumerate(changes) if ".current.part" in change and "rename" in change) + 1
    sweep(forked, undisturbed, [2, preset, preset + 1, saved], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "tear"])
def test_kills_at_every_change_of_the_file_system(
    forked: Any, reference: Callable[[str], Reference], tmp_path: Path, kind: str
) -> None:
    undisturbed = reference("adamw")
    last = len(undisturbed.changes) - 8  # a tear needs a write after it
    sweep(forked, undisturbed, list(range(1, last)), tmp_path, kind)


def started(*arguments: object) -> subprocess.Popen[str]:
    """The real command line in a process of its own."""
    command = [sys.executable, "-m", "nanogrove", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def signalled(process: subprocess.Popen[str], run: Path, lines: int, number: int) -> tuple[str, str]:
    """Sends a signal once the record has more than `lines` lines; what the process said in its life."""
    record = run / "events.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if record.exists() and record.read_bytes().count(b"\n") > lines:
            process.send_signal(number)
            break
        time.sleep(0.002)
    return process.communicate(timeout=60)


@pytest.fixture(scope="module")
def slower(tiny: Any) -> dict[str, Any]:
    """A preset whose steps take some milliseconds, so that a signal from outside finds it at work."""
    values: dict[str, Any] = tiny(**SMALL)
    values["train"] = {**values["train"], "steps": 60, "batch_size": 16}
    values["model"] = {**values["model"], "block_size": 64, "n_embd": 32}
    return values


@pytest.mark.slow
def test_the_real_command_killed_and_stopped_from_outside(forked: Any, slower: Any, tmp_path: Path) -> None:
    preset, run = tmp_path / "preset.json", tmp_path / "run"
    preset.write_text(json.dumps(slower))
    assert forked("train", preset, "--out", tmp_path / "whole").code == 0
    process = started("train", preset, "--out", run)
    signalled(process, run, lines=23, number=signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    process = started("train", run, "--resume")
    output, errors = signalled(process, run, lines=50, number=signal.SIGTERM)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, "")
    assert output.splitlines()[-1].endswith(f"go on with: nanogrove train {run} --resume")
    assert forked("train", run, "--resume").code == 0
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_the_real_command_killed_ten_times(forked: Any, slower: Any, tmp_path: Path, optimizer: str) -> None:
    preset, run = tmp_path / "preset.json", tmp_path / "run"
    preset.write_text(json.dumps({**slower, "optimizer": {"name": optimizer, "lr": 0.01}}))
    assert forked("train", preset, "--out", tmp_path / "whole").code == 0
    lines = len((tmp_path / "whole" / "events.jsonl").read_text().splitlines())
    rng = random.Random(len(optimizer))
    for begun in sorted(rng.randrange(lines - 12) for _ in range(10)):
        process = started("train", preset, "--out", run, "--resume")
        signalled(process, run, begun, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    process = started("train", preset, "--out", run, "--resume")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(
    forked: Any, reference: Callable[[str], Reference], tmp_path: Path, number: signal.Signals
) -> None:
    undisturbed, run = reference("adamw"), tmp_path / "a run"
    scored = [n for n, change in enumerate(undisturbed.changes, 1) if re.search("mkdir.*/.best.part", change)]
    mishap = {"at": scored[0], "kind": "signal", "signals": [number]}  # at step 4, where nothing else saves current
    stopped = forked("train", undisturbed.preset, "--out", run, mishap=mishap)
    assert (stopped.code, stopped.err) == (128 + number, "")
    newest, _ = load_latest(run / "checkpoints")
    assert newest is not None
    last = stopped.out.splitlines()[-1]
    assert last.startswith(f"stopped and saved at step {newest.state['step']}; go on with: nanogrove train ")
    assert newest.state["step"] == 4
    _, *arguments = shlex.split(last.partition("go on with: ")[2])
    assert forked(*arguments).code == 0, "the command that was named does not work"
    assert outcome(run) == undisturbed.outcome


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_ends_at_once(
    forked: Any, reference: Callable[[str], Reference], tmp_path: Path, number: int, code: int
) -> None:
    undisturbed, run = reference("adamw"), tmp_path / "run"
    middle = len(undisturbed.changes) // 2
    mishap = {"at": middle, "kind": "signal", "signals": [number, number]}
    ended = resume(forked, run, undisturbed, mishap=mishap)
    assert ended.code == code
    assert "stopped and saved" not in ended.out
    assert "Traceback" not in ended.err
    finish(forked, run, undisturbed)


@pytest.fixture(scope="module")
def stopped_run(forked: Any, reference: Callable[[str], Reference], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed in its second half, with current, prev and prev2."""
    undisturbed, run = reference("adamw"), tmp_path_factory.mktemp("stopped") / "run"
    at = 2 * len(undisturbed.changes) // 3
    assert resume(forked, run, undisturbed, mishap={"at": at, "kind": "kill"}).code == -signal.SIGKILL
    assert all((run / "checkpoints" / name / "state.json").exists() for name in ("current", "prev", "prev2"))
    return run


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage(path: Path, how: str) -> None:
    if how == "flipped":
        flip(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("model.safetensors", "flipped"),
        *(pytest.param(file, "flipped", marks=pytest.mark.slow) for file in FILES[1:]),
        ("optimizer.safetensors", "cut"),
        ("state.json", "gone"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_passed_over(
    forked: Any, reference: Callable[[str], Reference], stopped_run: Path, tmp_path: Path, file: str, how: str
) -> None:
    run = shutil.copytree(stopped_run, tmp_path / "run")
    damage(run / "checkpoints" / "current" / file, how)
    output = finish(forked, run, reference("adamw"))
    notes = [line for line in output.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1, output
    assert str(run / "checkpoints" / "current" / file) in notes[0]
    assert notes[0].endswith(f"going on from {run / 'checkpoints' / 'prev'} instead")


def test_when_all_are_damaged_nothing_is_touched(forked: Any, stopped_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stopped_run, tmp_path / "run")
    for name in ("current", "prev", "prev2"):
        flip(run / "checkpoints" / name / "model.safetensors")
    before = (run / "events.jsonl").read_bytes()
    error = forked("train", run, "--resume").error()
    for name in ("current", "prev", "prev2"):
        assert f"{run / 'checkpoints' / name / 'model.safetensors'}: damaged" in error
    assert "--out" in error
    assert (run / "events.jsonl").read_bytes() == before


def test_a_finished_run_stays_what_it_is(forked: Any, reference: Callable[[str], Reference], tmp_path: Path) -> None:
    undisturbed, run = reference("adamw"), tmp_path / "run"
    finish(forked, run, undisturbed)
    finish(forked, run, undisturbed)


def test_the_comparison_sees_a_difference(forked: Any, reference: Callable[[str], Reference], tmp_path: Path) -> None:
    undisturbed, run = reference("adamw"), tmp_path / "run"
    assert forked("train", undisturbed.preset, "seed=1", "--out", run).code == 0
    other = outcome(run)
    assert other.keys() == undisturbed.outcome.keys()
    same = {key for key, value in other.items() if value == undisturbed.outcome[key]}
    assert not {"current/model.safetensors", "current/optimizer.safetensors", "event 5"} & same
