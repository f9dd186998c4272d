"""A study in one line: the ways that it compares, and how many of its runs are finished."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nanogrove.atomic import open_to_read
from nanogrove.errors import RunError, StudyError
from nanogrove.record.listing import is_held
from nanogrove.studies.folder import read_part
from nanogrove.ui.notes import Notes, read_notes

RESULTS_BYTES = 1 << 24  # of results.jsonl, at most


@dataclass(frozen=True)
class Study:
    """A study as it is listed.

    Args:
        name: its path, relative to the folder that is shown.
        arms: the names of the ways.
        measure: what they are judged by; empty before it is planned.
        results: how many of its runs are finished.
        running: whether a process holds its lock.
        notes: what a person wrote.
        damage: what is wrong; empty where nothing is.
    """

    name: str
    arms: tuple[str, ...] = ()
    measure: str = ""
    results: int = 0
    running: bool = False
    notes: Notes = field(default_factory=Notes)
    damage: str = ""


def read_study(path: Path, name: str) -> Study:
    """The study in a folder."""
    notes = Notes()
    try:
        notes = read_notes(path)
        study, plan = read_part(path / "study.json") or {}, read_part(path / "plan.json")
        arms = study.get("arms")
        names = tuple(str(arm["name"]) for arm in arms) if isinstance(arms, list) else ()
    except (RunError, StudyError) as error:
        return Study(name, notes=notes, damage=str(error))
    except (KeyError, TypeError):
        return Study(name, notes=notes, damage="study.json is damaged")
    if plan is not None and not isinstance(plan.get("measure"), str):
        return Study(name, names, notes=notes, damage="plan.json is damaged")
    return Study(name, names, str((plan or {}).get("measure", "")), _results(path), is_held(path), notes)


def is_within(run: str, study: str) -> bool:
    """Whether a run lies in the folder of a study, by their names in addresses."""
    return study == "." or run.startswith(f"{study}/")


def _results(path: Path) -> int:
    """The lines of `results.jsonl`."""
    with suppress(OSError), open_to_read(path / "results.jsonl") as file:
        return file.read(RESULTS_BYTES).count(b"\n")
    return 0
