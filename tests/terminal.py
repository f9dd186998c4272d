"""A terminal that a test types on: a pseudo-terminal with the command line at its other end."""

import os
import pty
import re
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.conftest import Forked, Outcome

CURSOR = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r")
SECONDS = 30.0  # after which what was awaited will not come


class Terminal:
    """What is shown, and keys."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.shown = ""
        self.outcome: Outcome | None = None

    def type(self, keys: str) -> None:
        """Presses keys; `\\x03` is Ctrl-C, and `\\x04` Ctrl-D."""
        os.write(self.descriptor, keys.encode())

    def until(self, text: str) -> str:
        """Waits until `text` is shown, and returns what was shown since the last call, up to it."""
        end = time.monotonic() + SECONDS
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} is not shown: {self.shown!r}"
            self.look(0.1)
        before, _, self.shown = self.shown.partition(text)
        return before

    def press_until(self, keys: str, text: str) -> None:
        """Presses keys, again each second, until `text` is shown.

        Readline overlooks a Ctrl-C that comes just as it begins to wait, which a person then presses again.
        """
        end = time.monotonic() + SECONDS
        while text not in self.shown and time.monotonic() < end:
            self.type(keys)
            while self.look(1.0) and text not in self.shown:
                pass
        self.until(text)

    def look(self, seconds: float) -> bool:
        """Takes in what is shown, less what moves and hides the cursor; whether there was something new."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return False
        try:
            new = os.read(self.descriptor, 1 << 16)
        except OSError:  # the other end is closed
            return False
        self.shown = CURSOR.sub("", self.shown + new.decode(errors="replace"))
        return True


@contextmanager
def on_terminal(forked: Forked, *arguments: object, **request: Any) -> Iterator[Terminal]:
    """Runs a command on a terminal; at the end of the block, the command has ended too, and `outcome` is there."""
    ours, theirs = pty.openpty()
    terminal = Terminal(ours)

    def work() -> None:
        terminal.outcome = forked(*arguments, terminal=os.ttyname(theirs), **request)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield terminal
    except BaseException:
        terminal.type("\x03\x04")  # so that the command ends
        raise
    finally:
        thread.join(SECONDS)
        while terminal.look(0):
            pass
        os.close(ours)
        os.close(theirs)
