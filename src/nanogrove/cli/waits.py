"""Shows a long wait as a line now and then: what is done, how much of it, and the time left."""

import time

from rich.console import Console
from rich.markup import escape

from nanogrove.cli.text import printable
from nanogrove.waits import Wait

FIRST_SECONDS = 1.0  # a shorter wait shows nothing
BETWEEN_SECONDS = 5.0


class WaitLines:
    """A `Watch` that prints lines. The time left follows from the time that the share took that is done."""

    def __init__(self, console: Console) -> None:
        self.console, self.doing = console, ""
        self.began = self.due = 0.0

    def __call__(self, wait: Wait) -> None:
        """Shows the wait where it has taken a second, and then every few seconds."""
        now = time.monotonic()
        if wait.doing != self.doing:
            self.doing, self.began, self.due = wait.doing, now, now + FIRST_SECONDS
        if now < self.due:
            return
        self.due = now + BETWEEN_SECONDS
        line = f"{wait.doing}: {_far(wait.share, now - self.began)}"
        self.console.print(escape(printable(line)), style="dim", highlight=False, soft_wrap=True)


def _far(share: float | None, seconds: float) -> str:
    """How far a wait is that has taken so many seconds."""
    if not share:
        return f"{seconds:.0f} s so far"
    return f"{share:.0%}, about {seconds / share - seconds:.0f} s left"
