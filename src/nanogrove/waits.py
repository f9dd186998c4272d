"""How far long waits are, said by whoever makes others wait, who knows nothing of terminals.

Loops deep inside say it as plain data, which a display polls from a thread of its own; where nobody looks, that costs
an entry in a list. Waits may lie within each other.

    with waiting("scoring validation", total=len(rows)) as progress:
        for batch in batches:
            …
            progress.done += len(batch)

The preparation of data, which may wait for other processes, is given a `Watch` instead.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple


class Wait(NamedTuple):
    """What is being done, as in `reading my.txt`, and the share that is done, 0 to 1; None where nobody knows."""

    doing: str
    share: float | None = None


Watch = Callable[[Wait], None]


def unwatched(wait: Wait) -> None:
    """A watch that shows nothing."""


@dataclass
class Progress:
    """A wait under way: what for, and how many of `total` units are done; None where their number is unknown."""

    label: str
    total: float | None = None
    done: float = 0.0
    start: float = field(default_factory=time.monotonic)
    over: bool = False

    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.start

    def seconds_left(self) -> float | None:
        """How long the rest takes at the pace so far; None where that cannot be known yet."""
        if not self.total or not self.done:
            return None
        return self.seconds() * max(self.total - self.done, 0.0) / self.done

    def follow(self, wait: Wait) -> None:
        """Takes over what is being done, and how far it is: a `Watch`."""
        if wait.doing != self.label:
            self.label, self.start = wait.doing, time.monotonic()
        self.total, self.done = (None, 0.0) if wait.share is None else (1.0, wait.share)


_under_way: list[Progress] = []


@contextmanager
def waiting(label: str, total: float | None = None) -> Iterator[Progress]:
    """A wait that lasts as long as its block, or until it is `over`."""
    progress = Progress(label, total)
    _under_way.append(progress)
    try:
        yield progress
    finally:
        _under_way[:] = [other for other in _under_way if other is not progress]


def current_progress(least_seconds: float = 0.0) -> Progress | None:
    """The outermost wait of a known size that has taken `least_seconds` or more, or else the innermost of any; or None.

    So the time left is that of all there is to wait for, and a wait of unknown size gives way to what happens in it.
    """
    long = [each for each in tuple(_under_way) if not each.over and each.seconds() >= least_seconds]
    return next((each for each in long if each.total), long[-1] if long else None)
