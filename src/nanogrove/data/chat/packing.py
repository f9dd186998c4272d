"""Which conversations share a window: whole ones, so that as little of it as possible is filled up."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The numbers of the rows of each window of `size` tokens, longest rows first, each where it leaves least room.

    This is best-fit decreasing (Johnson 1974). A row of more than `size` tokens has a window of its own.
    """
    windows: list[list[int]] = []
    open_windows: list[tuple[int, int]] = []  # the room that is left, and the number of the window, in order
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        length = min(lengths[row], size)
        at = bisect_left(open_windows, (length, -1))
        if at == len(open_windows):
            window, room = len(windows), size
            windows.append([])
        else:
            room, window = open_windows.pop(at)
        windows[window].append(row)
        if room > length:
            insort(open_windows, (room - length, window))
    return windows
