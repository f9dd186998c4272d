"""Events: what a method yields and `events.jsonl` holds, one JSON object per line.

    {"kind": "step", "step": 10, "loss": 3.2, …, "time": {"seconds": 1.7, …}}

Everything that depends on the clock lies under `time`, so that two runs of one preset differ nowhere else.

| kind   | values                                                     | when                              |
|--------|------------------------------------------------------------|-----------------------------------|
| start  | name, seed, parameters, vocabulary, data, precision, …     | once, before the first step       |
| resume | changed; steps; ranks, versions, machine as they are now   | when a setting or one of these changed |
| phase  | name, objective, unit, held_out                            | before the first step of each phase |
| eval   | split, loss, tokens (scored), seen, all of `measures`; score   | before the `step` event it follows |
| step   | loss, lr, grad_norm, tokens; where heads train their losses; of samples figures | a safe point |
| student | as `eval`, of an ensemble's student; best            | before the `step` event it follows |
| sources | names; loss, share, passes, weights of each, seen        | after an interval, before its `step` event |
| auxiliary | shares of gradients, idle parts, measures, seen        | where heads train, after an `eval`  |
| sample | prompt, text                                               | as the preset asks                |
| data   | name, count; the rows lie in data/NAME.jsonl               | before they are used              |
| exact  | round, difficulties; exact, vote and agreement at each     | after the base, after a round     |
| round  | round, difficulties, labels, rows, accepted, frontier      | after a round                     |
| generation | generation, members, score, error, values, births      | after a generation                |
| reward | round, mean, error, texts, of fresh texts                  | before and after each alignment round |
| rewards | mean, deviation, histogram, effective_sample_size, reward_before | before learning from them begins |
| alarm  | round, difficulties, reason, retry                         | when a round is undone            |
| end    | split, loss, bits_per_byte, scored, tokens, best_step; ended | once, when training is over    |

What an `eval` event may hold is in `measures.MEASURES`; its score, where it has one, is what the best checkpoint is
chosen by, and the lower is the better. At a `step` event the training state is whole and may be saved; no other event
promises that.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogrove.atomic import open_to_read
from nanogrove.errors import RunError
from nanogrove.json_reading import BadJsonError, parse_json, read_lines
from nanogrove.memory import free_bytes, shown_bytes

BYTES_IN_MEMORY = 10  # of JSON for each of its bytes on disk
Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Values = dict[str, Any]  # a JSON object whose keys depend on what it describes, such as a kind of event


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened at `step`; `values` are JSON, reproducible; `time` holds seconds and rates."""

    kind: str
    step: int
    values: Values = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """The event as one line of JSON, newline included. Numbers that are not finite become null."""
        record = {"kind": self.kind, "step": self.step, **self.values, "time": self.time}
        return json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n"


def note(text: str) -> Event:
    """A line for whoever watches a run; it is not written to the record."""
    return Event("note", 0, {"text": text})


def phase(name: str, step: int, objective: str, unit: str = "nats per token", held_out: str = "loss") -> Event:
    """A method goes on after `step` with another objective or on other data, so that curves do not run on.

    Args:
        name: of the phase.
        step: the last step before it; 0 for the first phase.
        objective: what the `loss` of its `step` events is.
        unit: of the objective.
        held_out: the figure of its `eval` events that is the same objective on held-out data.
    """
    return Event("phase", step, {"name": name, "objective": objective, "unit": unit, "held_out": held_out})


def _finite(value: Json) -> Json:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def event_of(line: str) -> Event:
    """The event of a line of a record. Raises ValueError where it is not an event."""
    try:
        record = parse_json(line)
    except BadJsonError:
        raise ValueError("not an event") from None
    if isinstance(record, dict):
        kind, step, time = (record.pop(key, None) for key in ("kind", "step", "time"))
        numbers = time.values() if isinstance(time, dict) else [None]
        whole = isinstance(step, int) and 0 <= step < 1 << 63
        if isinstance(kind, str) and whole and all(isinstance(number, int | float) for number in numbers):
            return Event(kind, step, time=time, values=record)
    raise ValueError("not an event")


def read_events(path: Path) -> list[Event]:
    """All events of an `events.jsonl`; a last line cut short by a kill is left out.

    Raises RunError when a line before the last is not an event, or too long, when all do not fit in memory, and for
    what is not a plain file.
    """
    events: list[Event] = []
    try:
        for line in lines_that_fit(path):
            events.append(event_of(line))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); put back what the run wrote there") from None
    except BadJsonError as error:
        raise RunError(f"{path}: {error}; the record is damaged") from None
    except ValueError:
        raise RunError(f"{path}: line {len(events) + 1} is not an event; the record is damaged") from None
    return events


def lines_that_fit(path: Path, whole: bool = False) -> Iterator[str]:
    """The lines of a plain file of JSON lines whose values fit in memory, all together.

    Raises RunError where they do not, and BadJsonError and OSError as `read_lines` and `open_to_read` do.
    """
    with open_to_read(path) as file:
        size, free = os.fstat(file.fileno()).st_size, free_bytes()
        if size * BYTES_IN_MEMORY > free:
            raise RunError(
                f"{path}: to read {shown_bytes(size)} takes about {shown_bytes(size * BYTES_IN_MEMORY)} of memory, and "
                f"{shown_bytes(free)} are free; close other programs, or read it on another machine"
            )
        yield from read_lines(file, whole)
