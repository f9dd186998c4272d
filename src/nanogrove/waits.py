"""How far long waits are, said by whoever makes others wait, who knows nothing of terminals.

Loops deep inside say it as plain data, which a display polls from a thread of its own; where nobody looks, that costs
an entry in a list. Waits may lie within each other.

    with waiting("scoring validation", total=len(rows)) as progress:
        for batch in batches:
            …
            progress.done += len(batch)
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Progress:
    """A wait under way: what for, and how many of `total` units are done.

    Their number is unknown where `total` is None, and where more are done, as of a packed file.
    """

    label: str
    total: float | None = None
    done: float = 0.0
    start: float = field(default_factory=time.monotonic)
    over: bool = False

    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.start

    def share(self) -> float | None:
        """The share that is done, 0 to 1; None where the number of units is unknown."""
        return self.done / self.total if self.total and self.done <= self.total else None

    def seconds_left(self) -> float | None:
        """How long the rest takes at the pace so far; None where that cannot be known yet."""
        share = self.share()
        return self.seconds() * (1 - share) / share if share else None


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
    return next((each for each in long if each.share() is not None), long[-1] if long else None)
