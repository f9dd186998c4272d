"""A record that grows while it is looked at: each time what was appended is read, and nothing else.

Of a long record evenly spaced events are kept, so that memory, and the time to draw what is kept, do not grow with it:
of each kind the first event, every k-th after it, and the newest one. k doubles once more than `MOST_EVENTS` of a kind
are kept, or, for the kind that takes most, once all lines together have more than `MOST_BYTES`. So what is kept follows
from the record alone, in however many parts it was read. A `step` event that is passed over is not parsed.

A record that is another one, or was cut back as by a resume, is read from its beginning: its file is another one, is
shorter than what was read, or has other bytes before the place up to which it was read.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nanogrove.atomic import open_to_read
from nanogrove.errors import RunError
from nanogrove.json_reading import MAX_BYTES
from nanogrove.record.events import Event, event_of
from nanogrove.record.reading import Run, check_is_run, run_of

MOST_EVENTS = 2_000  # of one kind: five times the points of a line of a figure
MOST_BYTES = 1 << 24  # of the lines of all events that are kept
MOST_KINDS = 1_000  # of events; there are about twenty
BLOCK_BYTES = 1 << 20  # read at once
ENDING_BYTES = 1 << 10  # of what was read, by which a record is known
STEP, CLOSE = b'{"kind": "step", ', b"}"  # how the line of a step begins and ends


@dataclass
class Kept:
    """The events of one kind that are kept.

    Args:
        events: the first one, and every `every`-th after it.
        sizes: of their lines, in bytes.
        every: k.
        count: of all events of this kind so far.
        newest: the line of the last of them.
    """

    events: list[Event] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    every: int = 1
    count: int = 0
    newest: bytes = b""

    def halve(self) -> None:
        """Keeps every second one of those that are kept."""
        self.events, self.sizes, self.every = self.events[::2], self.sizes[::2], 2 * self.every


class Part(NamedTuple):
    """How much of the events of one kind is kept: every `every`-th of a `total`."""

    every: int
    total: int


class GrowingRecord:
    """The record of a run folder, as far as it was read. For one thread at a time."""

    def __init__(self, run: Path) -> None:
        self.path = run
        self._file: tuple[int, int] | None = None
        self._forget()

    def read(self) -> Run:
        """The run as it is now, with the events that are kept; a last line that is not whole yet is left for the next
        time.

        Raises RunError when there is no run, and when its record is damaged, as far as that was parsed.
        """
        record = self.path / "events.jsonl"
        try:
            check_is_run(self.path)
            with open_to_read(record) as file:
                if not self._continues(file):
                    self._forget()
                self._file = _identity(file)
                file.seek(self._position)
                for lines in self._blocks(file):
                    self._add_all(lines)
                events = {kind: self._events(kept) for kind, kept in self._kinds.items()}
                self._add_best(file, events)
            return run_of(self.path, events)
        except OSError as error:
            self._forget()
            raise RunError(f"{record}: cannot be read ({error.strerror}); put back what the run wrote there") from None
        except ValueError:
            number = self._lines_read
            self._forget()
            raise RunError(f"{record}: line {number} is not an event; the record is damaged") from None
        except RunError:
            self._forget()
            raise

    def newest(self) -> Event | None:
        """The last event of the record; None where there is none yet."""
        return event_of(self._newest.decode(errors="replace")) if self._newest else None

    def thinned(self) -> dict[str, Part]:
        """The kinds of which not all events are kept."""
        return {kind: Part(kept.every, kept.count) for kind, kept in self._kinds.items() if kept.every > 1}

    def _forget(self) -> None:
        self._kinds = dict[str, Kept]()
        self._newest, self._ending = b"", b""
        self._position, self._lines_read, self._bytes = 0, 0, 0

    def _continues(self, file: BinaryIO) -> bool:
        """Whether a record begins with what was read."""
        file.seek(self._position - len(self._ending))
        return _identity(file) == self._file and file.read(len(self._ending)) == self._ending

    def _blocks(self, file: BinaryIO) -> Iterator[list[bytes]]:
        """The whole lines that follow, without their ends, in blocks; what was read moves on with each."""
        begun = b""
        while block := file.read(BLOCK_BYTES):
            whole, newline, rest = block.rpartition(b"\n")
            if not newline:
                begun += block
            else:
                yield (text := begun + whole).split(b"\n")
                self._position += len(text) + 1
                self._ending = (self._ending + text[-ENDING_BYTES:] + newline)[-ENDING_BYTES:]
                begun = rest
            if len(begun) > MAX_BYTES:
                raise RunError(
                    f"{self.path / 'events.jsonl'}: line {self._lines_read + 1} has more than {MAX_BYTES:,} bytes; the "
                    "record is damaged"
                )

    def _add_all(self, lines: list[bytes]) -> None:
        """Takes the next lines, of which steps that are not kept are passed over. Raises ValueError as `_add` does."""
        parsed = [n for n, line in enumerate(lines) if not (line.startswith(STEP) and line.endswith(CLOSE))]
        at = 0
        for end in (*parsed, len(lines)):
            while at < end:
                steps = self._kinds.get("step")
                passed = min(-steps.count % steps.every, end - at) if steps else 0
                if steps and passed:
                    at += passed
                    steps.count += passed
                    self._lines_read += passed
                    steps.newest = self._newest = lines[at - 1]
                else:
                    self._add(lines[at])
                    at += 1
            if end < len(lines):
                self._add(lines[end])
                at = end + 1

    def _add(self, line: bytes) -> None:
        """Takes the next line. Raises ValueError where it is not an event."""
        self._lines_read += 1
        self._newest = line
        event = event_of(line.decode(errors="replace"))
        kept = self._kinds.setdefault(event.kind, Kept())
        if kept.count % kept.every == 0:
            kept.events.append(event)
            kept.sizes.append(len(line))
            self._bytes += len(line)
        kept.count += 1
        kept.newest = line
        self._thin(kept)

    def _thin(self, last: Kept) -> None:
        """Halves what is kept until it is within the limits. Raises RunError where that cannot be."""
        if len(last.events) > MOST_EVENTS:
            self._halve(last)
        while self._bytes > MOST_BYTES:
            largest = max(self._kinds.values(), key=lambda kept: sum(kept.sizes))
            if len(largest.events) < 2:
                break
            self._halve(largest)
        if self._bytes > 2 * MOST_BYTES or len(self._kinds) > MOST_KINDS:
            raise RunError(f"{self.path / 'events.jsonl'}: its events are too many or too large to be shown")

    def _halve(self, kept: Kept) -> None:
        before = sum(kept.sizes)
        kept.halve()
        self._bytes -= before - sum(kept.sizes)

    def _events(self, kept: Kept) -> list[Event]:
        """Those that are kept, and the newest one, in order."""
        if (kept.count - 1) % kept.every == 0:
            return [*kept.events]
        return [*kept.events, event_of(kept.newest.decode(errors="replace"))]

    def _add_best(self, file: BinaryIO, events: dict[str, list[Event]]) -> None:
        """Adds the evaluation that chose the best model of a run that has ended, where it is not among those kept."""
        kept, best = self._kinds.get("eval"), events["end"][-1].values.get("best_step") if "end" in events else None
        if kept is None or kept.every == 1 or best is None or any(event.step == best for event in events["eval"]):
            return
        beginning = f'{{"kind": "eval", "step": {best},'.encode()
        file.seek(0)
        lines = (line for line in file if line.startswith(beginning) and line.endswith(b"\n"))
        chosen = [event_of(line.decode(errors="replace")) for line in lines]
        events["eval"] = sorted([*events["eval"], *chosen], key=lambda event: event.step)


def _identity(file: BinaryIO) -> tuple[int, int]:
    """What tells a file from all others."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino
