"""Collects Ctrl-C and SIGTERM, to be looked at after a step."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

NAMES = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], object] | int | None

# A process has one handler for a signal, and may drive several runs in turn.
_waiting: list[list[int]] = []
_before: dict[signal.Signals, Handler] = {}


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of ending the process; a second one ends it as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return
    if not _before:
        for name in NAMES:
            _before[name] = signal.signal(name, _receive)
    _waiting.append(received)
    try:
        yield received
    finally:
        _waiting[:] = [other for other in _waiting if other is not received]
        if not _waiting:
            _restore()


def end_as_signalled(received: Sequence[int]) -> None:
    """Ends what was stopped as the first signal would have, if any: raises KeyboardInterrupt or SystemExit."""
    if received:
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])


def _receive(number: int, frame: FrameType | None) -> None:
    for received in _waiting:
        received.append(number)
    _restore()


def _restore() -> None:
    for name, handler in _before.items():
        signal.signal(name, handler)
    _before.clear()
