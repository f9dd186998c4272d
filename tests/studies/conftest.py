"""What tests of studies share: small studies, and an engine that trains in this process."""

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

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
