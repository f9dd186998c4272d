"""Collects Ctrl-C and SIGTERM, to be looked at after a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of ending the process; a second one ends it as usual."""
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
