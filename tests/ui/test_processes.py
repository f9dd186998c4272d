"""A run is stopped as by Ctrl-C, once, and by nobody else's word; it is continued by a process that stays."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ui.conftest import step, write_run

from nanogrove.config.catalog import packaged_text, parse_preset
from nanogrove.config.overrides import resolve
from nanogrove.errors import RunError
from nanogrove.record.events import Event
from nanogrove.record.lock import FolderLock
from nanogrove.ui import processes as module
from nanogrove.ui.processes import LOG, Processes

HOLDER = """
import signal, sys
from pathlib import Path
from nanogrove.record.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
signal.signal(signal.SIGINT, lambda *_: sys.exit(9))
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a run."""
    run = write_run(tmp_path / "run", step(3))
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_process_that_trains_gets_one_signal(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    processes = Processes()
    holder.send_signal(signal.SIGSTOP)  # so that it lives through both
    processes.stop(tmp_path / "run")
    with pytest.raises(RunError, match="it is stopping already"):
        processes.stop(tmp_path / "run")
    with pytest.raises(RunError, match="it is running; a run that is stopped can be continued"):
        processes.resume(tmp_path / "run")
    holder.send_signal(signal.SIGCONT)
    assert holder.wait(10) == 9
    with pytest.raises(RunError, match="no process trains this run now"):
        processes.stop(tmp_path / "run")


def test_a_file_alone_names_no_process(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        for text in (f"process {bystander.pid}", "process 1", f"process {os.getpid()}", "process -1", "", "x" * 500):
            (tmp_path / "run" / ".lock").write_text(text)
            with pytest.raises(RunError, match="not one of this user on this machine"):
                Processes().stop(tmp_path / "run")
        assert bystander.poll() is None
        bystander.kill()
    assert holder.poll() is None


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What runs in place of Python: it says its arguments, and ends with code 2."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\necho "$@"\necho "error: no text"\nexit 2\n')
    path.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(path))
    return path


def test_a_run_goes_on_in_a_session_of_its_own_and_its_error_is_said(program: Path, tmp_path: Path) -> None:
    run, processes = write_run(tmp_path / "run", step(3)), Processes()
    processes.resume(run)
    process = processes._continued[run]
    assert process.wait(10) == 2
    assert (run / LOG).read_text() == f"-P -m nanogrove train {run} --resume\nerror: no text\n"
    assert processes.failure(run) == "error: no text"
    assert not processes.is_starting(run)


def test_what_is_not_stopped_is_not_continued(program: Path, tmp_path: Path) -> None:
    ended = write_run(tmp_path / "ended", Event("end", 3))
    with pytest.raises(RunError, match="it is finished"):
        Processes().resume(ended)
    run = write_run(tmp_path / "run")
    (run / LOG).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"continued\.log: cannot be written"):
        Processes().resume(run)
    assert not (tmp_path / "elsewhere").exists()
    lock = FolderLock(run)
    with pytest.raises(RunError, match="it is running"):
        Processes().resume(run)
    lock.release()


def test_a_run_whose_process_cannot_begin_is_not_left(program: Path, tmp_path: Path) -> None:
    program.unlink()
    preset = resolve(parse_preset(packaged_text("quickstart") or "", "quickstart"))
    with pytest.raises(RunError, match=r"No such file or directory\)"):
        Processes().start(tmp_path / "run", preset)
    assert not (tmp_path / "run").exists()
