"""Processes that read what may be a stranger's, apart from this one: a PDF, a chat template."""

import subprocess
from contextlib import suppress


def ended(process: "subprocess.Popen[str]") -> int:
    """Waits for a process to end, closes its pipes and returns its status."""
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):  # of what it was sent and did not read
            pipe.close()
    return status
