"""How far a long wait is: whoever makes others wait says it to a `Watch`, and knows nothing of terminals."""

from collections.abc import Callable
from typing import NamedTuple


class Wait(NamedTuple):
    """What is being done, as in `reading my.txt`, and the share that is done, 0 to 1; None where nobody knows."""

    doing: str
    share: float | None = None


Watch = Callable[[Wait], None]


def unwatched(wait: Wait) -> None:
    """A watch that shows nothing."""
