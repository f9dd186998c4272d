"""A job waits for a folder that is in use, and says what to do where one of its runs cannot be trained."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.errors import RunError, StudyError
from nanogrove.record.events import note
from nanogrove.record.folder import RunFolder
from nanogrove.studies import work
from nanogrove.studies.work import run_job


@pytest.fixture
def preset(tiny: Any) -> Preset:
    """Of a run of one step."""
    return resolve(tiny(train={"steps": 1}, sample={"tokens": 0}))


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens at each wait, in turn; the clock goes on by 20 s whenever it is read."""
    left: list[Callable[[], object]] = []
    clock = count(0.0, 20.0)
    fake = SimpleNamespace(sleep=lambda _: left.pop(0)(), monotonic=lambda: next(clock))
    monkeypatch.setattr(work, "time", fake)
    return left


def test_a_folder_is_waited_for_while_its_record_grows(
    preset: Preset, sleeps: list[Callable[[], object]], tmp_path: Path
) -> None:
    held = RunFolder(tmp_path / "b")
    held.write_preset(preset.model_dump(mode="json"))
    sleeps += [lambda: held.append(note("grows"))] * 20 + [held.close]
    events = list(run_job([(preset, tmp_path / "a"), (preset, tmp_path / "b")]))
    (waited,) = [(number, event.values["text"]) for number, event in events if "in use" in str(event.values)]
    assert waited[0] == 1
    assert waited[1].endswith("waiting for it")
    assert [event.kind for _, event in events].count("end") == 2


def test_a_folder_whose_record_stands_still_is_given_up(
    preset: Preset, sleeps: list[Callable[[], object]], tmp_path: Path
) -> None:
    sleeps += [lambda: None] * 40
    with RunFolder(tmp_path), pytest.raises(StudyError, match="added nothing to its record for 600 s; stop that, and"):
        list(run_job([(preset, tmp_path)]))
    assert sleeps


def test_an_error_of_a_run_says_how_a_study_goes_on(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RunError("the disk is full; free some space and continue with --resume")

    monkeypatch.setattr(work, "train", fails)
    with pytest.raises(StudyError, match="; then compare again, which resumes all runs"):
        list(run_job([(preset, tmp_path)]))
