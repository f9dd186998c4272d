"""What the runs of a study came to: read from their folders, and kept as `results.jsonl`, a line a run.

    {"arm": "muon", "seed": 0, "steps": 800, "figures": {"loss": 3.12, …}, "diverged": null, "seconds": 61.2, …}

The folders are the truth: a line is made from the last event of a run's record. So `results.jsonl` may be deleted; and
where it holds what no run of the study could have left, it is refused.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from nanogrove.atomic import open_to_read, write_file
from nanogrove.config.overrides import resolve
from nanogrove.config.preset import difference
from nanogrove.errors import NanogroveError, StudyError
from nanogrove.json_reading import BadJsonError, parse_json
from nanogrove.paths import with_absolute_paths
from nanogrove.record.folder import read_preset
from nanogrove.record.reading import last_event
from nanogrove.settings import Count, Settings
from nanogrove.studies.plan import End, Run

Key = tuple[str, int, str, int | None]  # arm, seed, end, trial
MOST_BYTES = 1 << 28
Figure = Annotated[float, Field(ge=-1e100, le=1e100)]  # whose square is a number too
FILE = "results.jsonl"
FINISHED = ("end", "diverged")  # kinds of the last event of a run that is finished


class Result(Settings):
    """One finished run. `figures` are those of its best model, numbers alone; none where it diverged."""

    arm: str
    seed: Count
    end: End = ""
    trial: int | None = None
    steps: Count
    figures: dict[str, Figure]
    diverged: str | None = None
    seconds: float = Field(ge=0, le=1e12)
    folder: str

    @property
    def key(self) -> Key:
        """What tells it from all other runs of the study."""
        return self.arm, self.seed, self.end, self.trial


def key_of(run: Run) -> Key:
    """The key that the result of a run has."""
    return run.way.arm, run.seed, run.way.end, run.way.trial


def result_of(run: Run, study: Path, measure: str) -> Result | None:
    """What a run came to, from its folder; None where it is not finished.

    Raises StudyError for a folder that holds a run of another preset, and for an end without a figure of the `measure`.
    """
    folder = study / run.folder
    event = last_event(folder / "events.jsonl")
    if event is None or event.kind not in FINISHED:
        return None
    _refuse_other_run(run, folder)
    numbers = {
        name: value
        for name, value in event.values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    with suppress(ValidationError):
        result = Result(
            arm=run.way.arm,
            seed=run.seed,
            end=run.way.end,
            trial=run.way.trial,
            steps=event.step,
            figures=numbers if event.kind == "end" else {},
            diverged=event.values.get("reason") if event.kind == "diverged" else None,
            seconds=event.time.get("seconds", 0.0),
            folder=run.folder.as_posix(),
        )
        if (result.diverged is None) == (event.kind == "end") and (result.diverged or measure in result.figures):
            return result
    raise StudyError(
        f"{folder / 'events.jsonl'}: damaged, its end has no {measure}; delete {folder}, and it is trained anew"
    )


def _refuse_other_run(run: Run, folder: Path) -> None:
    """Raises StudyError where a folder holds another run than the one that belongs there."""
    anew = f"delete {folder}, and the run is trained anew, or choose another --out"
    try:
        stored = read_preset(folder)
        other = stored is not None and difference(
            resolve(stored).model_dump(mode="json"), with_absolute_paths(run.preset).model_dump(mode="json")
        )
    except NanogroveError as error:
        raise StudyError(f"{error}; or {anew}") from None
    if other:
        raise StudyError(f"{folder}: holds another run than that of {run.label}, {other}; {anew}")


def read_results(study: Path, runs: Iterable[Run], measure: str) -> dict[Key, Result]:
    """The results that `results.jsonl` of a study holds, by key; none where it is missing.

    Raises StudyError for a line that is cut short, of none of `runs`, or without a figure of the `measure`.
    """
    path, steps = study / FILE, {key_of(run): run for run in runs}
    results: dict[Key, Result] = {}
    anew = "delete the file, and it is made anew from the run folders"
    try:
        with open_to_read(path) as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); {anew}") from None
    if len(data) > MOST_BYTES:
        raise StudyError(f"{path}: has more than {MOST_BYTES:,} bytes; {anew}")
    *lines, rest = data.split(b"\n")
    if rest:
        raise StudyError(f"{path}: line {len(lines) + 1} is cut short; {anew}")
    for number, line in enumerate(lines, 1):
        try:
            result = Result.model_validate(parse_json(line))
        except (BadJsonError, ValidationError):
            raise StudyError(f"{path}: line {number} is not a result; {anew}") from None
        run = steps.get(result.key)
        if run is None or run.folder.as_posix() != result.folder:
            raise StudyError(f"{path}: line {number} is of no run of this study; {anew}")
        if result.diverged is None and measure not in result.figures:
            raise StudyError(f"{path}: line {number} has no {measure}; {anew}")
        if result.key in results:
            raise StudyError(f"{path}: line {number} is of the same run as one before it; {anew}")
        results[result.key] = result
    return results


def write_results(study: Path, results: Iterable[Result]) -> None:
    """Writes `results.jsonl` of a study, whole or not at all. Raises StudyError when the disk refuses."""
    lines = "".join(result.model_dump_json() + "\n" for result in results)
    try:
        write_file(study / FILE, lines.encode())
    except OSError as error:
        raise StudyError(f"{study / FILE}: cannot be written ({error.strerror}); free some space") from None
