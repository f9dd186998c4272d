"""Ctrl-C and SIGTERM as something to look at after a step, instead of the end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; the second ends the process as it always would."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def receive(number: int, frame: object) -> None:
        received.append(number)
        for name in names:
            signal.signal(name, before[name])

    for name in names:
        signal.signal(name, receive)
    try:
        yield received
    finally:
        for name in names:
            signal.signal(name, before[name])
