"""The record of a run as it goes: every event is written to `events.jsonl` and to all trackers, and yielded.

Rank 0 holds a `Recorder`; every other rank a `NullRecorder`, which writes nothing and shows nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from nanogrove.record.events import Event
from nanogrove.record.folder import RunFolder
from nanogrove.record.trackers import Tracker, open_trackers
from nanogrove.reports.report import write_report
from nanogrove.runs.setup import Setup
from nanogrove.waits import waiting

RECORDED_STEPS = 10_000  # `step` events in a record, about; a longer run records evenly spaced ones


@dataclass(frozen=True)
class Recorder:
    """Writes the events of a run of `steps` steps."""

    folder: RunFolder
    steps: int
    trackers: Sequence[Tracker] = ()
    report: bool = True  # whether one is drawn

    def write(self, event: Event) -> Iterator[Event]:
        """Adds an event to the record and to every tracker, and yields it; rows of `data` go to a file of their own."""
        if event.kind == "data":
            self.folder.write_rows(event.values["name"], event.values.pop("rows"))
        if event.kind != "step" or event.step % max(self.steps // RECORDED_STEPS, 1) == 0:
            self.folder.append(event)
            for tracker in self.trackers:
                tracker.log(event)
        yield event

    def write_each(self, events: Iterator[Event]) -> Iterator[Event]:
        """Writes and yields events as they come."""
        for event in events:
            yield from self.write(event)

    def write_report(self) -> None:
        """Writes `report.html`, as far as the record goes, where one is wanted."""
        if self.report:
            with waiting("drawing the report"):
                write_report(self.folder.path)


class NullRecorder:
    """The recorder of a rank that writes nothing."""

    def write(self, event: Event) -> Iterator[Event]:
        """Writes nothing."""
        yield from ()

    def write_each(self, events: Iterator[Event]) -> Iterator[Event]:
        """Writes nothing."""
        yield from ()  # and never asks for the events, since to make them takes work

    def write_report(self) -> None:
        """Writes nothing."""


@contextmanager
def recording(folder: RunFolder, setup: Setup, report: bool = True) -> Iterator[Recorder]:
    """A recorder with the trackers of the preset, open; at the end, unless by an error, a `report` is written."""
    track, trackers = setup.preset.track, list[Tracker]()
    if track.trackers:
        settings = setup.preset.model_dump(mode="json")
        trackers = open_trackers(track.trackers, folder.path, settings, project=track.project, name=track.name)
    recorder = Recorder(folder, setup.plan.steps, trackers, report)
    try:
        yield recorder
    finally:
        for tracker in trackers:
            tracker.close()
    recorder.write_report()
