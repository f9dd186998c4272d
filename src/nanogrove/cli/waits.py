"""Progress of what the program waits for: a line on a terminal, with the time left; nothing elsewhere.

The line goes to standard error, so that standard output holds results alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from nanogrove.cli.text import printable
from nanogrove.waits import Progress, current_progress, waiting

QUIET_SECONDS = 1.0  # of a wait, before it is shown
REFRESHES_PER_SECOND = 4


@contextmanager
def shown_waits(label: str) -> Iterator[None]:
    """Shows the waits of its block on standard error, where that is a terminal, and takes the line away at the end.

    While nothing in the block says what it waits for, the line says `label`.
    """
    console = Console(stderr=True)
    first = os.environ.get("RANK", "0") == "0"  # of several processes that torchrun started
    if not console.is_terminal or console.is_dumb_terminal or not first:
        yield
        return
    with (
        Live(
            get_renderable=wait_line,
            console=console,
            transient=True,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
        ),
        waiting(label),
    ):
        yield


def wait_line() -> Text | Group:
    """The line of the current wait; nothing where there is none, or it is a short one."""
    progress = current_progress(QUIET_SECONDS)
    return Group() if progress is None else Text(described(progress), no_wrap=True, overflow="ellipsis", style="dim")


def described(progress: Progress) -> str:
    """A wait as `scoring validation: 30%, 0:20 left`; of an unknown size, how long it has taken."""
    label, share, left = printable(progress.label), progress.share(), progress.seconds_left()
    if share is None or left is None:
        return f"{label}: {clock(progress.seconds())} so far"
    return f"{label}: {share:.0%}, {clock(left)} left"


def clock(seconds: float) -> str:
    """Seconds as `0:20`, `12:05` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
