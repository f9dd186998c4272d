"""All runs below a folder, each in one line: what it trains, how far it came, how good it is.

Of most runs the preset and the ends of the record are all that is read, so that a thousand runs take a second. Folders
may be a stranger's: no link is followed, no pipe is waited for, and a run that is damaged is listed as such.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from nanogrove.atomic import open_to_read
from nanogrove.errors import RunError
from nanogrove.json_reading import BadJsonError
from nanogrove.record.events import Event, Values, event_of
from nanogrove.record.folder import FOLDERS, read_preset
from nanogrove.record.measures import Measure, measured, number
from nanogrove.record.reading import Run

State = Literal["finished", "running", "stopped", "diverged", "damaged"]
HEAD_BYTES = 1 << 22  # of the first event of a record, at most
RESUMED = Event("resume", 0).line().partition(",")[0].encode()  # how the line of a run that goes on begins
TAIL_BYTES = (1 << 15, 1 << 20)  # of a record: where its last evaluation is looked for, and then, once more
ENDS: dict[str, State] = {"end": "finished", "diverged": "diverged"}  # states by the kind of the last event
SEARCHED_BYTES = 1 << 26  # of a record, at most: its end, where the newest change of the budget is looked for
MOST_STEPS = 1 << 53  # of a budget; of more, a record is no evidence
TITLES = ("run", "method", "data", "steps", "measure", "state", "age")  # of `cells`
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))  # of an age, each with its seconds
SOURCE_NAMES = ("path", "dataset", "task", "type")  # keys of a source, or of data, the first of which names it


@dataclass(frozen=True)
class Listed:
    """A run as it is listed; what is not known is None.

    Args:
        name: its path, relative to the folder that was asked for.
        method: the method of its preset.
        data: the type of its data.
        sources: what it reads, by short names.
        step: the last step of its record.
        steps: those of its budget.
        measure: the name of what it is judged by.
        figure: of that measure, a number, or a list of one for each member: of the best model at its end, of the newest
            evaluation before.
        state: `running` where a process holds its lock.
        damage: what is wrong, in a few words; empty where nothing is.
        modified: when its record last grew, in seconds since 1970.
    """

    name: str
    method: str | None = None
    data: str | None = None
    sources: tuple[str, ...] = ()
    step: int | None = None
    steps: int | None = None
    measure: str | None = None
    figure: object = None
    state: State = "damaged"
    damage: str = ""
    modified: float | None = None


class Ends(NamedTuple):
    """The first event of a record, its last one, and the one that holds its figures; None where there is none."""

    first: Event | None
    last: Event | None
    scored: Event | None


class DamagedError(Exception):
    """A part of a run that cannot be read; says in a few words why."""


def list_runs(root: Path, below: tuple[str, ...] = ("",)) -> list[Listed]:
    """The runs below a folder, or below some of its folders, sorted by path.

    Raises RunError where there are none.
    """
    runs = [listed(path, root) for name in below for path in run_folders(root / name)]
    if not runs:
        missing = "no run is here" if root.is_dir() else "is not a folder"
        places = " and ".join(str(root / name) for name in below)
        raise RunError(
            f"{places}: {missing}; name a folder that holds runs, as `nanogrove train quickstart` makes in runs"
        )
    return sorted(runs, key=lambda run: run.name.split(os.sep))


def run_folders(root: Path) -> Iterator[Path]:
    """The folders at and below `root` that hold a record, or a preset with checkpoints; those unreadable, too."""
    return (folder for folder, kind in folders_of_record(root) if kind == "run")


def folders_of_record(root: Path) -> Iterator[tuple[Path, Literal["run", "study"]]]:
    """The folders of runs, as `run_folders` has them, and of studies, at and below `root`."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                is_folder = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            yield folder, "run"
            continue
        is_run = "events.jsonl" in is_folder or is_folder.keys() >= {"preset.json", "checkpoints"}
        if is_run:
            yield folder, "run"
        elif is_folder.get("study.json") is False:
            yield folder, "study"
        waiting += [folder / name for name, holds in is_folder.items() if holds and not (is_run and name in FOLDERS)]


def cells(run: Listed, now: float) -> tuple[str, ...]:
    """A run in words, one for each of TITLES; `now` is in seconds since 1970."""
    steps = "" if run.step is None else f"{run.step:,}" + (f" of {run.steps:,}" if run.steps else "")
    measure = "" if run.measure is None else f"{run.measure} {number(run.figure)}"
    data = ": ".join(filter(None, (run.data, ", ".join(run.sources))))
    state = f"{run.state}: {run.damage}" if run.damage else run.state
    return run.name, run.method or "", data, steps, measure, state, shown_age(age(run, now))


def age(run: Listed, now: float) -> float | None:
    """Seconds since the record of a run grew; None where that is not known."""
    return None if run.modified is None else max(now - run.modified, 0.0)


def shown_age(seconds: float | None) -> str:
    """Seconds in the largest unit of which there is one, as in `3 h`."""
    if seconds is None:
        return ""
    size, unit = next((each for each in UNITS if seconds >= each[0]), UNITS[-1])
    return f"{seconds // size:.0f} {unit}"


def listed(run: Path, root: Path) -> Listed:
    """A run folder in one line."""
    known: Values = {"name": str(run.relative_to(root))}
    record = run / "events.jsonl"
    try:
        with suppress(OSError):
            known["modified"] = record.lstat().st_mtime
        preset = _preset(run)
        known |= _described(preset)
        ends = _ends(record)
    except DamagedError as error:
        return Listed(**known, damage=str(error))
    except OSError:
        return Listed(**known, damage="may not be read")
    last = ends.last.kind if ends.last else ""
    state: State = ENDS.get(last) or ("running" if is_held(run) else "stopped")
    known |= _progress(ends, _steps(record, ends, preset))
    return Listed(**known, state=state)


def listed_of(run: Run, newest: Event | None, held: bool) -> Listed:
    """A run that was read, in one line, less what it is judged by.

    Args:
        run: what was read.
        newest: the last event of its record; None where it holds none.
        held: whether a process holds its lock.
    """
    began = run.of("start")[0].values.get("steps") if run.of("start") else None
    changed = [event.values["steps"] for event in run.of("resume") if "steps" in event.values]
    state: State = ENDS.get(newest.kind if newest else "") or ("running" if held else "stopped")
    progress = _progress(Ends(None, newest, None), changed[-1] if changed else began)
    return Listed(run.name, **progress, state=state)


def is_held(run: Path) -> bool:
    """Whether a process holds the lock of a run; asked without taking it, but for the moment of the question."""
    try:
        with open_to_read(run / ".lock") as lock:
            if sys.platform == "win32":
                lock.read(1)
            else:
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on Windows, where nobody may read what is held
        return True
    except OSError:
        return False
    return False


def _preset(run: Path) -> Values:
    """The preset of a run. Raises DamagedError."""
    try:
        return read_preset(run) or {}  # none of a run that begins, before its preset is written
    except RunError:
        raise DamagedError(_fault(run / "preset.json")) from None


def _fault(part: Path) -> str:
    """Why a part of a run cannot be read, in a few words."""
    if part.is_symlink():
        return f"{part.name} is a link"
    return f"{part.name} is damaged" if part.exists() else f"no {part.name}"


def _described(preset: Values) -> Values:
    """What a preset says of a run: its method, its data and the sources of these. Raises DamagedError."""
    if not preset:
        return {}
    method, data = preset.get("method"), preset.get("data")
    if not isinstance(method, dict) or not isinstance(data, dict):
        raise DamagedError("preset.json is damaged")
    entries = [entry for key in ("sources", "custom_sources") for entry in _list(data.get(key))]
    named_by = {key: value for key, value in data.items() if key != "type"}
    names = (_short_name(entry) for entry in entries or [named_by])
    return {"method": str(method.get("name")), "data": str(data.get("type", "text"))} | {
        "sources": tuple(name for name in names if name)
    }


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _short_name(source: object) -> str:
    """A source by the last part of its path or data set, or by its type."""
    values: Mapping[str, object] = source if isinstance(source, dict) else {"path": source}
    name = next((value for key in SOURCE_NAMES if isinstance(value := values.get(key), str)), "")
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _steps(record: Path, ends: Ends, preset: Values) -> object:
    """The steps of the budget: those that the run began with, unless it went on under another one.

    Most presets name as many steps as the record begins with; otherwise the record is searched for a change.
    """
    began: object = ends.first.values.get("steps") if ends.first else None
    train = preset.get("train")
    if not isinstance(train, dict) or train.get("steps") == began:
        return began
    with suppress(OSError), open_to_read(record) as file:
        file.seek(max(file.seek(0, os.SEEK_END) - SEARCHED_BYTES, 0))
        lines = file.read(SEARCHED_BYTES).split(b"\n")
        changes = (event for line in reversed(lines) if line.startswith(RESUMED) and (event := _event(line)))
        return next((event.values["steps"] for event in changes if "steps" in event.values), began)
    return began


def _progress(ends: Ends, steps: object) -> Values:
    """How far a run came, of how many steps, and how good it is."""
    step = ends.last.step if ends.last else 0
    figures = ends.scored.values if ends.scored else {}
    measure, figure = _measure(figures)
    return {
        "step": step,
        "steps": steps if isinstance(steps, int) and max(step, 1) <= steps <= MOST_STEPS else None,
        "measure": measure.name if measure else None,
        "figure": figure,
    }


def _measure(figures: Values) -> tuple[Measure | None, object]:
    """The first measure that figures hold of a number, or of a list of numbers, and these."""
    for measure in measured(figures):
        figure = figures[measure.name]
        numbers = figure if isinstance(figure, list) else [figure]
        if not measure.by and numbers and all(isinstance(number, int | float) for number in numbers):
            return measure, figure
    return None, None


def _ends(record: Path) -> Ends:
    """The ends of a record, of which a last line that is cut short is left out. Raises DamagedError."""
    try:
        with open_to_read(record) as file:
            head = file.readline(HEAD_BYTES)
            first = _event(head) if head.endswith(b"\n") else None
            if first is None:
                if head and (len(head) == HEAD_BYTES or file.read(1)):
                    raise DamagedError(_fault(record))
                return Ends(None, None, None)
            size = file.seek(0, os.SEEK_END)
            for most in TAIL_BYTES:
                file.seek(max(size - most, 0))
                whole = file.read(most).rpartition(b"\n")[0].split(b"\n")
                last, scored = _last(whole if size <= most else whole[1:])
                if scored is not None or size <= most:
                    break
    except OSError:
        raise DamagedError(_fault(record)) from None
    if last is None:
        raise DamagedError(_fault(record))
    return Ends(first, last, scored)


def _last(lines: list[bytes]) -> tuple[Event | None, Event | None]:
    """The last event of the end of a record, and the newest one with figures of its model, where there is one."""
    last = _event(lines[-1]) if lines else None
    for line in reversed(lines):
        if b'"end"' in line or b'"eval"' in line:  # most lines are steps, and need not be parsed
            event = _event(line)
            if event is not None and (event.kind == "end" or _on_validation(event)):
                return last, event
    return last, None


def _on_validation(event: Event) -> bool:
    return event.kind == "eval" and event.values.get("split", "validation") == "validation"


def _event(line: bytes) -> Event | None:
    with suppress(BadJsonError, ValueError):
        return event_of(line.decode(errors="replace"))
    return None
