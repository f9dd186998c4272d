"""Trackers: the events of a run, shown by Weights & Biases, TensorBoard or trackio.

`events.jsonl` is the record; a tracker holds a copy for looking at, under `trackers/` in the run folder.

| event  | becomes                                                                 |
|--------|-------------------------------------------------------------------------|
| step   | `train/loss`, `train/lr`, …; what lies under its `time`: `time/seconds`, … |
| eval   | `validation/loss`, … or whatever its split is called                    |
| sample | the text, under `sample`                                                |
| end    | `end/loss`, …                                                           |

A list, one number per population member, becomes its median and `…_min`, `…_max`; numbers that are not finite
are left out. No event leaves the machine unless the user's environment says so: `WANDB_MODE=online`, or trackio's
own `TRACKIO_SPACE_ID` and `TRACKIO_SERVER_URL`.
"""

import contextlib
import html
import importlib
import io
import json
import os
import statistics
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from nanogrove.atomic import first_not_plain, write_file
from nanogrove.errors import PresetError, RunError
from nanogrove.record.events import Event, read_events


class Tracker(Protocol):
    """Where events are shown while a run goes on."""

    def log(self, event: Event) -> None:
        """Show one event. Events come in the order of the run, again from the last safe point after a resume."""

    def close(self) -> None:
        """Write out what is left. Nothing may be logged after it."""


WANDB_LINK = "debug-core.log"  # leads to wandb's own log in its cache; once made, nothing is written through it


def open_trackers(
    names: Sequence[str], run: Path, preset: dict[str, object], *, project: str = "nanogrove", name: str | None = None
) -> list[Tracker]:
    """Open the trackers of these names (`wandb`, `tensorboard`, `trackio`) for the run in this folder.

    `name` is what the run is called there, by default the folder's name; `preset` is shown as its settings. A
    run that is resumed goes on where it was shown before. Raises PresetError for an unknown name, a library that
    is not installed, and one that refuses to start, and RunError where it would write through a link or the like.
    """
    if names and (odd := first_not_plain(run / "trackers", ignored=WANDB_LINK)):
        raise RunError(f"{odd[0]}: {odd[1]}, and is not written through; move it away")
    for wanted in names:
        if wanted not in TRACKERS:
            raise PresetError(f"track.trackers: no tracker is called {wanted!r}; there are {', '.join(TRACKERS)}")
    opened: list[Tracker] = []
    try:
        for wanted in names:
            opened.append(TRACKERS[wanted](run, preset, project, name or run.resolve().name))
    except BaseException:
        for tracker in opened:
            tracker.close()
        raise
    return opened


class Wandb:
    """Weights & Biases. Offline unless the user has set WANDB_MODE=online (or disabled); it never asks for a key.

    Offline, `wandb sync` uploads the newest folder under `trackers/wandb/wandb/`; it holds the whole run, because
    offline runs cannot be resumed and so a resumed run is shown from its beginning, under the same id.
    """

    def __init__(self, run: Path, preset: dict[str, object], project: str, name: str) -> None:
        mode = os.environ.get("WANDB_MODE")
        mode = mode if mode in ("online", "disabled") else "offline"
        if mode != "online":
            # Even offline, wandb reports on its own use to its makers; this is read when the library starts.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb = _library("wandb")
        folder = run / "trackers" / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "id.txt"
        if not note.exists():
            write_file(note, uuid.uuid4().hex[:12].encode())
        try:
            if mode == "online" and not self._wandb.login(prompt=False, verify=False):
                raise PresetError("track.trackers: wandb is online and has no API key; run `wandb login` first")
            self._run = self._wandb.init(
                project=project,
                name=name,
                id=note.read_text(encoding="utf-8"),
                dir=str(folder.resolve()),
                config=preset,
                mode=mode,
                resume="allow" if mode == "online" else None,
                reinit="create_new",
                save_code=False,
                settings=self._wandb.Settings(silent=True, console="off", disable_git=True),
            )
        except self._wandb.Error as error:
            raise PresetError(f"track.trackers: wandb does not start: {_one_line(error)}") from error
        self._first = self._run.starting_step  # steps before it are on the server, which takes none twice
        if mode == "offline":
            for event in _recorded(run):
                self.log(event)

    def log(self, event: Event) -> None:
        """Sends the figures of one event, and a sample as text."""
        values: dict[str, object] = dict(_numbers(event))
        if event.kind == "sample":
            values["sample"] = self._wandb.Html(f"<pre>{html.escape(_sample(event))}</pre>")
        if values and event.step >= self._first:
            self._run.log(values, step=event.step)

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


class TensorBoard:
    """TensorBoard files in `trackers/tensorboard`; `tensorboard --logdir runs` shows all runs there."""

    def __init__(self, run: Path, preset: dict[str, object], project: str, name: str) -> None:
        _library("tensorboard")
        self._open = _library("torch.utils.tensorboard").SummaryWriter
        self._folder = str(run / "trackers" / "tensorboard")
        self._preset = preset
        self._writer: Any = None

    def log(self, event: Event) -> None:
        """Writes the figures of one event, and a sample as text."""
        if self._writer is None:
            # A run that was killed may have shown later steps, which are now taken back.
            self._writer = self._open(self._folder, purge_step=event.step)
            self._writer.add_text("preset", _literal(json.dumps(self._preset, indent=2)), event.step)
        for key, value in _numbers(event).items():
            self._writer.add_scalar(key, value, event.step)
        if event.kind == "sample":
            self._writer.add_text("sample", _literal(_sample(event)), event.step)

    def close(self) -> None:
        """Closes the file, if one was opened."""
        if self._writer is not None:
            self._writer.close()


class Trackio:
    """trackio, in `trackers/trackio` or, if the user has set TRACKIO_DIR, there.

    `TRACKIO_DIR=runs/NAME/trackers/trackio trackio show` opens its pages. trackio chooses its folder when it is
    first imported, so a second run in one Python process needs a TRACKIO_DIR set before, or it is refused. Where
    it finds a Hugging Face token, trackio asks huggingface.co whose it is; it goes on if there is no answer.
    """

    def __init__(self, run: Path, preset: dict[str, object], project: str, name: str) -> None:
        folder = Path(os.environ.get("TRACKIO_DIR") or run / "trackers" / "trackio").resolve()
        with _environment("TRACKIO_DIR", str(folder)):
            trackio = _library("trackio")
        chosen = importlib.import_module("trackio.utils").TRACKIO_DIR
        if Path(chosen).resolve() != folder:
            raise PresetError(
                f"track.trackers: in this process trackio already writes to {chosen}; start a new one for {run}, "
                "or set TRACKIO_DIR before the first run to gather all runs in one folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._markdown = trackio.Markdown
        try:
            with _quiet():
                self._run = trackio.init(
                    project=project,
                    name=name,
                    config=preset,
                    resume="allow" if _recorded(run) else "never",
                    embed=False,
                    auto_log_cpu=False,
                    auto_log_gpu=False,
                )
        except ValueError as error:
            raise PresetError(f"track.trackers: trackio does not start: {_one_line(error)}") from error
        self._finish = trackio.finish

    def log(self, event: Event) -> None:
        """Writes the figures of one event, and a sample as text."""
        values: dict[str, object] = dict(_numbers(event))
        if event.kind == "sample":
            values["sample"] = self._markdown(_literal(_sample(event)))
        if values:
            self._run.log(values, step=event.step)

    def close(self) -> None:
        """Ends the run there."""
        with _quiet():
            self._finish()


TRACKERS: dict[str, Callable[[Path, dict[str, object], str, str], Tracker]] = {
    "wandb": Wandb,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
}


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = (error.name or name).partition(".")[0]
        raise PresetError(f"track.trackers: {package} is not installed; pip install 'nanogrove[track]'") from error


def _recorded(run: Path) -> list[Event]:
    """What a resumed run has on record beyond its start; empty for a new run."""
    path = run / "events.jsonl"
    return [event for event in read_events(path) if event.kind != "start"] if path.exists() else []


def _numbers(event: Event) -> dict[str, float]:
    """The finite numbers of an event by their names in a tracker."""
    heading = {"step": "train", "eval": str(event.values.get("split", "validation")), "end": "end"}.get(event.kind)
    if heading is None:
        return {}
    numbers = _flat(heading, event.values)
    if event.kind == "step":
        numbers |= _flat("time", event.time)
    return numbers


def _flat(name: str, value: object) -> dict[str, float]:
    if isinstance(value, dict):
        return {key: number for part in value for key, number in _flat(f"{name}/{part}", value[part]).items()}
    if isinstance(value, list):
        finite = [number for item in value for number in _flat("", item).values()]
        if not finite:
            return {}
        return {name: statistics.median(finite), f"{name}_min": min(finite), f"{name}_max": max(finite)}
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0:
        return {name: value}
    return {}


def _sample(event: Event) -> str:
    prompt, text = event.values.get("prompt", ""), event.values.get("text", "")
    return f"prompt: {prompt}\n\n{text}" if prompt else str(text)


def _literal(text: str) -> str:
    """Markdown that shows this text as it is, in a fixed font."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _quiet() -> contextlib.AbstractContextManager[object]:
    """Keep a library's greetings off the terminal, where progress is drawn."""
    return contextlib.redirect_stdout(io.StringIO())


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set one environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
