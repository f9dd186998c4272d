"""What the program is waiting for, as plain data: long loops say how far they are, and a terminal may look.

    with waiting("scoring validation", total=len(rows)) as wait:
        for batch in batches:
            …
            wait.done += len(batch)

Nothing is shown here, and nothing is called: `current_wait` is what a display polls from a thread of its own. Where
nobody looks, a wait costs an entry in a list. Waits may lie within each other.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_waits: list["Wait"] = []


@dataclass
class Wait:
    """A wait that has begun: what for, and how many of `total` units are done; None where their number is unknown."""

    label: str
    total: float | None = None
    done: float = 0.0
    start: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.start

    def seconds_left(self) -> float | None:
        """How long the rest takes at the pace so far; None where that cannot be known yet."""
        if not self.total or not self.done:
            return None
        return self.seconds() * max(self.total - self.done, 0.0) / self.done


@contextmanager
def waiting(label: str, total: float | None = None) -> Iterator[Wait]:
    """A wait that lasts as long as its block, which counts `done` up to `total`."""
    wait = Wait(label, total)
    _waits.append(wait)
    try:
        yield wait
    finally:
        _waits[:] = [other for other in _waits if other is not wait]


def current_wait(least_seconds: float = 0.0) -> Wait | None:
    """The outermost wait of a known size that has taken `least_seconds` or more, or else the innermost of any; or None.

    So the time left is that of all there is to wait for, and a wait of unknown size gives way to what happens in it.
    """
    long = [wait for wait in tuple(_waits) if wait.seconds() >= least_seconds]
    return next((wait for wait in long if wait.total), long[-1] if long else None)
