"""What sources on the network share: when to try again, and libraries kept quiet.

No other source uses the network. A network that fails is tried again after 1, 2, 4 and 8 seconds; the libraries try a
request several times themselves before that.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

FIRST_WAIT_SECONDS = 1.0  # before the second try; each further wait is twice as long
MAX_FAILURES = 5  # in a row
NETWORK_CLIENTS = {"aiohttp", "httpx", "httpx2", "requests"}  # packages whose errors are network errors, or a status


class Retries:
    """How often the network has failed in a row."""

    def __init__(self) -> None:
        self.failed = 0

    def should_retry(self, error: Exception) -> bool:
        """Waits and returns whether to try again: after a network error, and at most MAX_FAILURES times in a row."""
        self.failed += 1
        if self.failed == MAX_FAILURES or not is_transient(error):
            return False
        time.sleep(FIRST_WAIT_SECONDS * 2 ** (self.failed - 1))
        return True


def is_transient(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is one of the network or of an overloaded service."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
        if isinstance(status, int):
            return status in (408, 429) or status >= 500
        if isinstance(error, OfflineModeIsEnabled):
            return False
        if (
            isinstance(error, (ConnectionError, TimeoutError))
            or type(error).__module__.partition(".")[0] in NETWORK_CLIENTS
        ):
            return True
        error = error.__cause__
    return False


@contextmanager
def quiet(*libraries: ModuleType) -> Iterator[None]:
    """Keeps progress bars and log lines of libraries off the terminal; errors are raised."""

    def not_raised(record: logging.LogRecord) -> bool:
        return record.levelno > logging.ERROR  # what is logged as an error is raised too

    handlers = [handler for library in libraries for handler in logging.getLogger(library.__name__).handlers]
    utils = [library.utils for library in libraries if hasattr(library, "utils")]
    barred = [module for module in utils if not module.are_progress_bars_disabled()]
    for handler in handlers:
        handler.addFilter(not_raised)
    for module in barred:
        module.disable_progress_bars()
    try:
        yield
    finally:
        for module in barred:
            module.enable_progress_bars()
        for handler in handlers:
            handler.removeFilter(not_raised)


def one_line(error: BaseException) -> str:
    """The message of a library's error, in one line and without advice on how to call it."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__  # such an error only says that something went wrong
    return " ".join(str(error).partition("Example of usage")[0].split())[:500] or type(error).__name__
