"""The memory that is free, in the machine or within the limits of this process, and sizes in words."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanogrove.errors import RunError

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
CGROUP = Path("/sys/fs/cgroup")
USED_UP = ("can't allocate memory", "out of memory", "not enough memory")  # in torch's errors, which have no type


def free_bytes() -> int:
    """Bytes that this process may still take: what the system calls available, within a container's and its limits."""
    import psutil  # which takes longer than all else that `--help` needs of this file

    free: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # a container's limit, where there is one; it counts cached files as used
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(statistics.get("inactive_file", 0)))
    process = psutil.Process()
    if hasattr(process, "rlimit"):  # of Linux, as `ulimit -v` sets it
        limit, _ = process.rlimit(psutil.RLIMIT_AS)
        if limit != psutil.RLIM_INFINITY:
            free = min(free, limit - process.memory_info().vms)
    return max(free, 0)


def shown_bytes(count: float) -> str:
    """A size in words, as `1.5 GB`."""
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:,.0f} {UNITS[power]}" if count >= 100 or not power else f"{count:.1f} {UNITS[power]}"


@contextmanager
def used_up_as_error() -> Iterator[None]:
    """Turns the ways in which Python, numpy and torch say that memory is used up into a RunError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(words in text for words in USED_UP):
            raise
        raise RunError(
            "memory is used up; close other programs, or lower train.batch_size or the model's sizes; a run that was "
            "under way goes on from its last checkpoint with --resume"
        ) from None
