"""What a run folder says, read back: `Run`, from which every section of the report is drawn."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from nanogrove.atomic import open_to_read, read_file
from nanogrove.errors import RunError
from nanogrove.json_reading import parse_json
from nanogrove.record.events import Event, Values, event_of, read_events
from nanogrove.record.folder import parts_of_run, read_preset

CALIBRATION_BYTES = 1 << 28  # of calibration.json and state.json, at most
TAIL_BYTES = 1 << 20  # of a record, in which its last event lies
STALE = "stale"  # in place of a calibration that is damaged or belongs to other weights


@dataclass(frozen=True, slots=True)
class Run:
    """What a run folder says: its name, its resolved preset, and its events by kind, each kind in order.

    `calibration` is what lies beside the weights of its best model, of unknown origin; see `read_calibration`.
    """

    name: str
    preset: Values
    events: dict[str, list[Event]]
    calibration: object = None

    def of(self, kind: str) -> list[Event]:
        """All events of one kind, oldest first; empty when there is none."""
        return self.events.get(kind, [])

    def evaluations(self) -> list[Event]:
        """All `eval` events of the validation split, oldest first."""
        return [event for event in self.of("eval") if event.values.get("split", "validation") == "validation"]

    def result(self) -> Values:
        """The figures of its best model: those of the evaluation that chose it, or of the last one, then of its end."""
        end = self.last("end").values
        evaluations = self.evaluations()
        chosen = [event for event in evaluations if event.step == end.get("best_step")] or evaluations
        return {**(chosen[-1].values if chosen else {}), **end}

    def parts(self) -> set[str]:
        """What there is to show: kinds of events; `calibration`; figures that not every run has.

        These are `bayes_loss`, where the best possible loss is known, `losses_by_count`, of an ensemble, and
        `no_signal`, where each step learned from samples of the model.
        """
        known = {"calibration": self.calibration is not None}
        for name in ("bayes_loss", "losses_by_count"):
            known[name] = any(name in event.values for event in self.evaluations())
        known["no_signal"] = any("no_signal" in event.values for event in self.of("step")[-1:])
        return {*self.events, *(name for name, holds in known.items() if holds)}

    def last(self, kind: str) -> Event:
        """The latest event of one kind, or an empty one at step 0 when there is none."""
        return self.of(kind)[-1] if self.of(kind) else Event(kind, 0)


def times(event: Event) -> Mapping[str, float]:
    """What depends on the clock of an event; nothing where the record is damaged there."""
    return event.time if isinstance(event.time, dict) else {}


def read_run(run: Path) -> Run:
    """The record in a run folder. Raises RunError when there is no run, or when its record is damaged."""
    check_is_run(run)
    events: dict[str, list[Event]] = {}
    for event in read_events(run / "events.jsonl"):
        events.setdefault(event.kind, []).append(event)
    return run_of(run, events)


def check_is_run(run: Path) -> None:
    """Raises RunError for a folder that holds no run."""
    for name in ("preset.json", "events.jsonl"):
        if not (run / name).exists() and (name != "preset.json" or not parts_of_run(run)):
            raise RunError(f"{run}: no run is here ({name} is missing); give the folder of a run, as in runs/NAME")


def run_of(run: Path, events: dict[str, list[Event]]) -> Run:
    """What a run folder says, with these events of its record, by kind. Raises RunError for a damaged preset."""
    preset = read_preset(run) or {}
    start = events["start"][0].values if "start" in events else {}
    return Run(str(start.get("name") or run.resolve().name), preset, events, read_calibration(run))


def read_calibration(run: Path) -> object:
    """What `calibration.json` of the best checkpoint, or the newest without one, holds; None where it is missing.

    STALE where it is damaged, or belongs to other weights than those beside it. A link is not followed.
    """
    root = run / "checkpoints"
    folder = next((root / name for name in ("best", ".best.old", "current") if (root / name).is_dir()), root)
    path = folder / "calibration.json"
    if any(part.is_symlink() for part in (path, folder, root)) or not path.is_file():
        return None
    try:
        calibration, state = (
            parse_json(read_file(path, CALIBRATION_BYTES)),
            parse_json(read_file(folder / "state.json", CALIBRATION_BYTES)),
        )
        same = cast(Values, calibration)["model"] == cast(Values, state)["files"]["model.safetensors"]
        return calibration if same else STALE
    except (OSError, ValueError, KeyError, TypeError):
        return STALE


def last_event(record: Path) -> Event | None:
    """The last event of a record, without reading all of it; None where there is none, or it is cut short."""
    with suppress(OSError, ValueError), open_to_read(record) as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - TAIL_BYTES, 0))
        *lines, rest = file.read().split(b"\n")
        return event_of(lines[-1].decode()) if lines and not rest else None
    return None
