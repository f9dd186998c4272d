"""What tests of studies share: small studies, what they leave, and an engine that trains in this process."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nanogrove.record.reading import last_event
from nanogrove.studies import engines
from nanogrove.studies.compare import Options, Update, compare
from nanogrove.studies.engines import Choice
from nanogrove.studies.engines.contract import Happened, Job, Place
from nanogrove.studies.judge import Findings
from nanogrove.studies.packing import alone
from nanogrove.studies.settings import StudySettings, read_settings
from nanogrove.studies.work import run_job

MakeStudy = Callable[..., StudySettings]


@pytest.fixture(scope="session")
def study(tiny: Any) -> MakeStudy:
    """Makes a study of two learning rates over six seeds of four steps; keywords replace its settings."""

    def make(**settings: Any) -> StudySettings:
        preset = tiny(train={"steps": 4}, evaluate={"every": 4, "tokens": 50}, save={"every": 2})
        arms = [{"name": "slow", "overrides": ["optimizer.lr=0.0001"]}, {"name": "fast"}]
        return read_settings({"name": "rates", "preset": preset, "arms": arms, "seeds": 6, **settings}, "the study")

    return make


DATA: dict[str, dict[str, Any]] = {
    "text": {},
    "grammar": {"type": "rhm", "v": 8, "m": 2, "L": 3, "targets": "all", "training_set": 20, "held_out": 10},
    "task": {"type": "task", "task": "copy", "base": [1, 3], "held_out": 5},
}


@pytest.fixture(scope="session")
def mixed(tiny: Any) -> MakeStudy:
    """Makes a study of two arms that are one program, an arm that is not, and one of another method, over 16 runs."""

    def make(kind: str = "text", steps: int = 24) -> StudySettings:
        sections: dict[str, Any] = {
            "model": {"n_layer": 1, "block_size": 8},
            "evaluate": {"every": steps // 4, "tokens": 100},
            "sample": {"tokens": 0},
            "save": {"every": steps // 12},
        }
        preset = tiny(train={"steps": steps}, **sections)
        evolve = tiny(method={"name": "evolve", "population_size": 2, "generations": 3}, **sections)
        evolve["method"] |= {"steps_per_generation": steps // 6, "replaced": 0.5, "parents": 0.5}
        del evolve["train"]["steps"]
        if kind != "text":
            preset["data"] = evolve["data"] = DATA[kind]
        arms = [
            {"name": "base"},
            {"name": "fast", "overrides": ["optimizer.lr=0.01"]},
            {"name": "sgd", "overrides": ["optimizer.name=sgd"]},
            {"name": "evolve", "preset": evolve},
        ]
        return read_settings({"preset": preset, "arms": arms, "seeds": 4, "level": 0.49}, "the study")

    return make


def content(run: Path) -> dict[str, object]:
    """All that a run folder holds, without figures of the clock and what depends on them."""
    files: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.name == "events.jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            files[name] = [{key: value for key, value in line.items() if key != "time"} for line in lines]
        elif path.name == "state.json":
            state = json.loads(path.read_text())
            files[name] = {k: v for k, v in state.items() if k not in ("seconds", "position", "record", "checksum")}
        elif path.is_file() and path.name != ".lock":
            files[name] = path.read_bytes()
    return files


def left(study: Path) -> dict[str, object]:
    """All that the runs of a study left, and its results, without figures of the clock."""
    rows = [json.loads(line) for line in (study / "results.jsonl").read_text().splitlines()]
    results = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return {"results.jsonl": results, **{f"runs/{name}": each for name, each in content(study / "runs").items()}}


def lasting(study: Path) -> dict[str, object]:
    """What a study left, less the states before the newest of each run, which are there for rescue alone."""
    return {name: each for name, each in left(study).items() if "/checkpoints/prev" not in name}


def begin(study: StudySettings, out: Path, name: str, *options: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, which trains a study."""
    file = out.with_suffix(".json")
    file.write_text(study.model_dump_json())
    command = [sys.executable, "-m", "nanogrove", "compare", str(file), "--out", str(out), "--engine", name, *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def in_training(out: Path) -> list[Path]:
    """The run folders with a checkpoint that are not at their end."""
    states = out.glob("runs/*/*/checkpoints/current/state.json")
    return [folder for state in states if last_event((folder := state.parents[2]) / "events.jsonl").kind != "end"]


def wait_for(condition: Callable[[], object]) -> None:
    """Waits until something holds, for minutes at most."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


TRAINED: list[str] = []  # labels of the runs that the engine `here` was given


def train_in_process(jobs: Sequence[Job], place: Place) -> Iterator[Happened]:
    """The engine `here`, which trains in this process."""
    for job in jobs:
        TRAINED.extend(run.label for run in job.runs)
        for number, event in run_job([(run.preset, place.study / run.folder) for run in job.runs]):
            yield Happened(job.runs[number], event.kind, event.step, str(event.values.get("text", "")))


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[None]:
    """Adds the engine `here`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engines.ENGINES, "here", Choice(alone, train_in_process))
        yield


@pytest.fixture
def here() -> list[str]:
    """The labels of the runs that the engine `here` was given in this test."""
    TRAINED.clear()
    return TRAINED


@pytest.fixture(scope="session")
def finished_study(study: MakeStudy, tmp_path_factory: pytest.TempPathFactory, engine: None) -> Path:
    """The folder of `study()` of seven seeds, finished; not to be changed."""
    folder = tmp_path_factory.mktemp("study") / "rates"
    run(study(seeds=7), folder)
    return folder


@pytest.fixture
def finished(finished_study: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished_study, tmp_path / "rates"))


def outcome(updates: Generator[Update, None, Findings]) -> tuple[list[Update], Findings]:
    """All updates of a study, and its findings."""
    seen: list[Update] = []
    while True:
        try:
            seen.append(next(updates))
        except StopIteration as end:
            return seen, end.value


def run(study: StudySettings, out: Path, engine: str = "here", **options: Any) -> Findings:
    """A study from its beginning to its end."""
    return outcome(compare(study, out, Options(engine), **options))[1]
