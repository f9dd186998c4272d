"""The folder of a study: `study.json` what was asked, `plan.json` what follows from it, runs, results and a report.

    studies/NAME/
      study.json      the settings
      plan.json       each way with its pinned preset and steps, the measure, and the machine; written before any run
      results.jsonl   a line for each finished run
      runs/ tune/     run folders
      report.html

One process at a time prepares and collects a study, and holds its lock. Processes that train single runs of it, by an
index, hold the locks of their run folders alone.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from nanogrove.atomic import not_plain, read_file, refusal, write_file
from nanogrove.config.overrides import resolve
from nanogrove.errors import NanogroveError, StudyError
from nanogrove.json_difference import differences, shown
from nanogrove.json_reading import BadJsonError, parse_json
from nanogrove.record.folder import parts_of_run
from nanogrove.record.lock import FolderLock, InUseError
from nanogrove.settings import cut, reason
from nanogrove.studies.plan import Plan
from nanogrove.studies.settings import StudySettings, read_settings

FILES = ("study.json", "plan.json", "results.jsonl", "report.html", ".lock")
FOLDERS = ("runs", "tune")
MOST_BYTES = 1 << 28  # of study.json and plan.json
EXTENDED = ("seeds", "arms", "name")  # what may change once a study has begun; a cap that is raised shows nothing


class StudyFolder:
    """The folder of a study, held by this process until `close`."""

    def __init__(self, path: Path) -> None:
        """Makes the folder where it is missing, and takes its lock.

        Raises StudyError when another process holds it, when it cannot be made, and when a part of it leads elsewhere.
        """
        self.path = path
        check_plain(path)
        try:
            self._lock = FolderLock(path)
        except InUseError as error:
            raise StudyError(
                f"{path}: {error.owner} compares here; wait for it, stop it, or choose another --out"
            ) from None
        except OSError as error:
            raise StudyError(
                f"{path}: no study folder can be made here {refusal(error)} or choose another --out"
            ) from None

    def write(self, name: str, values: object) -> None:
        """Writes JSON, whole or not at all. Raises StudyError when the disk refuses."""
        try:
            write_file(self.path / name, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise StudyError(f"{self.path / name}: cannot be written {refusal(error)}") from None

    def close(self) -> None:
        """Gives the folder back; one in which nothing was written goes."""
        self._lock.release(remove=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_plain(path: Path) -> None:
    """Raises StudyError where a part of a study's folder is a link, or leads elsewhere in another way."""
    if path.is_symlink():
        raise StudyError(f"{path}: is a link; give the folder that it leads to, {path.resolve()}")
    if parts := parts_of_run(path):
        raise StudyError(f"{path}: holds {' and '.join(parts)} of a run; choose another --out")
    for name in (*FILES, *FOLDERS):
        if why := not_plain(path / name, folder=name in FOLDERS):
            raise StudyError(f"{path / name}: {why}, and is not written through; move it away")


def check_run_folders(path: Path, runs: Iterable[Path]) -> None:
    """Raises StudyError where a folder that leads to the run folders of a study, or one of these, is a link."""
    for folder in dict.fromkeys(path / each for run in runs for each in (run, *run.parents) if each.name):
        if folder.is_symlink():
            raise StudyError(f"{folder}: is a link, and is not written through; put the folder itself in its place")


def read_part(path: Path) -> Any:
    """The JSON object of `study.json` or `plan.json`; None where it is missing. Raises StudyError for a damaged one."""
    try:
        values = parse_json(read_file(path, MOST_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); put back what the study wrote there") from None
    except BadJsonError as error:
        raise StudyError(f"{path}: cannot be read ({error}); put back what the study wrote there") from None
    if not isinstance(values, dict):
        raise StudyError(f"{path}: damaged, not a JSON object; put back what the study wrote there")
    return values


def read_plan(path: Path) -> Plan | None:
    """The plan of the study in a folder; None where none was made.

    Raises StudyError for a damaged one, and for one that is not of its own study: its arms name folders.
    """
    values = read_part(path / "plan.json")
    if values is None:
        return None
    where, cure = f"{path / 'plan.json'}", "put back what the study wrote there"
    try:
        plan = Plan.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        key = cut(".".join(map(str, problems[0]["loc"])))
        raise StudyError(f"{where}: damaged, {f'{key} ' if key else ''}{reason(problems)}; {cure}") from None
    study = read_settings(plan.study, where)
    known = {(each.arm, each.trial if len(study.trials) > 1 else None): tuple(each.overrides) for each in plan.arms}
    asked = {
        (arm.name, number if len(study.trials) > 1 else None): overrides
        for arm in study.arms
        for number, overrides in enumerate(study.trials)
    }
    if known != asked or len(plan.arms) != len(asked):
        raise StudyError(f"{where}: damaged, its arms are not those of its study; {cure}")
    for each in plan.arms:
        try:
            resolve(each.preset)
        except NanogroveError as error:
            raise StudyError(f"{where}: damaged, arm {each.arm}: {error}; {cure}") from None
    return plan


def refuse_changed(stored: StudySettings, asked: StudySettings, where: Path) -> None:
    """Raises StudyError where a study asks for something else than it began with; more seeds and more arms may be."""
    was, now = stored.model_dump(mode="json"), asked.model_dump(mode="json")
    for key, before, after in differences(_fixed(was), _fixed(now)):
        raise StudyError(
            f"{where}: this study began with {key} {shown(before)}, and here it is {shown(after)}; put that back, or "
            "choose another --out"
        )
    if now["arms"][: len(was["arms"])] != was["arms"]:
        arm = next(a["name"] for n, a in enumerate(was["arms"]) if now["arms"][n : n + 1] != [a])
        raise StudyError(
            f"{where}: arm {arm} is not as the study began; put it back and add arms after the last one, or choose "
            "another --out"
        )
    if asked.seeds < stored.seeds:
        raise StudyError(f"{where}: this study began with {stored.seeds} seeds; ask for as many or more")


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in EXTENDED}
