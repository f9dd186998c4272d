"""What tests of studies share: small studies, and an engine that trains in this process."""

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


@pytest.fixture
def study(tiny: Any) -> MakeStudy:
    """Makes a study of two learning rates over six seeds of four steps; keywords replace its settings."""

    def make(**settings: Any) -> StudySettings:
        preset = tiny(train={"steps": 4}, evaluate={"every": 4, "tokens": 50}, save={"every": 2})
        arms = [{"name": "slow", "overrides": ["optimizer.lr=0.0001"]}, {"name": "fast"}]
        return read_settings({"name": "rates", "preset": preset, "arms": arms, "seeds": 6, **settings}, "the study")

    return make


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engine `here`, which trains in this process; the labels of the runs that it was given."""
    labels: list[str] = []

    def train(jobs: Sequence[Job], place: Place) -> Iterator[Happened]:
        for job in jobs:
            labels.extend(run.label for run in job.runs)
            for number, event in run_job([(run.preset, place.study / run.folder) for run in job.runs]):
                yield Happened(job.runs[number], event.kind, event.step, str(event.values.get("text", "")))

    monkeypatch.setitem(engines.ENGINES, "here", Choice(alone, train))
    return labels


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
