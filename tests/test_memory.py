"""What is free, sizes in words, and memory that is used up as an error of one line."""

import subprocess
import sys

import psutil
import pytest

from nanogrove.errors import RunError
from nanogrove.memory import free_bytes, shown_bytes, used_up_as_error


def test_what_is_free_is_within_what_the_system_has() -> None:
    assert 0 < free_bytes() <= psutil.virtual_memory().total


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_AS"), reason="Linux alone lets a process limit itself")
def test_a_limit_of_the_process_counts() -> None:
    script = (
        "import resource, psutil\nfrom nanogrove.memory import free_bytes\nvms = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (vms + 10**9,) * 2)\nprint(free_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 5 * 10**8 < int(done.stdout) <= 10**9


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (20_100_000_000, "20.1 GB"), (768e12, "768 TB")],
)
def test_sizes_in_words(count: float, words: str) -> None:
    assert shown_bytes(count) == words


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_used_up(error: Exception) -> None:
    with pytest.raises(RunError, match="memory is used up; close other programs"), used_up_as_error():
        raise error


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match="shapes"), used_up_as_error():
        raise RuntimeError("shapes do not fit")
