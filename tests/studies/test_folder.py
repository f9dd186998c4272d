"""The folder of a study: a stranger's folder is not written through, and damaged parts are said in a line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.studies.conftest import MakeStudy, run

from nanogrove.errors import StudyError
from nanogrove.studies.compare import train_index
from nanogrove.studies.folder import FILES, FOLDERS, StudyFolder, read_part, read_plan

FORMS: dict[str, Callable[[Path, Path], None]] = {
    "link": lambda path, outside: path.symlink_to(outside / "file"),
    "link to a folder": lambda path, outside: path.symlink_to(outside),
    "link to nothing": lambda path, outside: path.symlink_to(outside / "new"),
    "hard link": lambda path, outside: path.hardlink_to(outside / "file"),
    "pipe": lambda path, outside: os.mkfifo(path),
}


@pytest.mark.parametrize("form", FORMS)
def test_nothing_outside_is_written(study: MakeStudy, tmp_path: Path, form: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    for name in (*FILES, *FOLDERS):
        folder = tmp_path / name.strip(".")
        folder.mkdir()
        FORMS[form](folder / name, outside)
        with pytest.raises(StudyError, match="is not written through; move it away"):
            run(study(), folder)
        assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "untouched"


def test_a_study_is_not_written_through_a_link(study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "there")
    with pytest.raises(StudyError, match="here: is a link; give the folder that it leads to"):
        run(study(), tmp_path / "here")


def test_a_run_folder_is_no_folder_of_a_study(study: MakeStudy, finished: Path) -> None:
    with pytest.raises(StudyError, match=r"holds events\.jsonl and checkpoints of a run; choose another --out"):
        run(study(), finished / "runs" / "fast" / "seed-0")


def test_a_study_is_one_process_at_a_time(study: MakeStudy, tmp_path: Path) -> None:
    with (
        StudyFolder(tmp_path),
        pytest.raises(StudyError, match=rf"process {os.getpid()} compares here; wait for it, stop it"),
    ):
        run(study(), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"plan\.json: cannot be read"),
        ("[1]", "damaged, not a JSON object"),
        ("{}", r"plan\.json: damaged, study is missing; put back what the study wrote there"),
        ('{"study": 3}', r"plan\.json: damaged, study must be a JSON object"),
        ("[" * 10**5, r"plan\.json: cannot be read"),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(StudyError, match=message):
        read_plan(tmp_path)


def test_a_folder_in_which_nothing_was_written_goes(tmp_path: Path) -> None:
    with StudyFolder(tmp_path / "a" / "b"):
        pass
    assert list((tmp_path / "a").iterdir()) == []
    assert read_part(tmp_path / "missing.json") is None


def test_a_folder_that_was_deleted_meanwhile_is_given_back(tmp_path: Path) -> None:
    with StudyFolder(tmp_path / "a"):
        shutil.rmtree(tmp_path / "a")
    with StudyFolder(tmp_path / "a") as folder:
        assert [path.name for path in folder.path.iterdir()] == [".lock"]


STRANGERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an arm that leads elsewhere": (lambda plan: plan["arms"][1].update(arm="../../x"), "arms.1.arm must be text of"),
    "an arm of no study": (lambda plan: plan["arms"][1].update(arm="other"), "its arms are not those of its study"),
    "an arm less": (lambda plan: plan["arms"].pop(), "its arms are not those of its study"),
    "an arm twice": (lambda plan: plan["arms"].append(plan["arms"][0]), "its arms are not those of its study"),
    "a wrong preset": (lambda plan: plan["arms"][0]["preset"].update(seed="x"), "damaged, arm slow: seed: must be"),
    "work of none": (lambda plan: plan["arms"][0].update(flops=0), "arms.0.flops must be above 0"),
    "no measure": (lambda plan: plan.update(measure="x"), "damaged, measure: not the name of one"),
    "no trial": (lambda plan: plan.update(chosen={"slow": 7}), "damaged, chosen: not among the trials of arms"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_the_plan_of_a_stranger_trains_nothing_else(finished: Path, case: str) -> None:
    change, message = STRANGERS[case]
    plan = json.loads((finished / "plan.json").read_text())
    change(plan)
    (finished / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(StudyError, match=message):
        list(train_index(finished, 1))
    assert not (finished.parent / "x").exists()


def test_runs_are_not_trained_through_a_link(study: MakeStudy, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (finished / "results.jsonl").unlink()
    shutil.rmtree(finished / "runs" / "fast")
    (finished / "runs" / "fast").symlink_to(tmp_path / "outside")
    with pytest.raises(StudyError, match="fast: is a link, and is not written through"):
        run(study(seeds=7), finished)
    with pytest.raises(StudyError, match="fast: is a link, and is not written through"):
        list(train_index(finished, 1))
    assert not any((tmp_path / "outside").iterdir())
