"""What nanogrove asks of a system: it imports where POSIX alone is missing, and refuses what was never tried."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nanogrove
from nanogrove.data.sources import pdf
from nanogrove.data.sources.pieces import Skipped
from nanogrove.errors import DataError, PresetError, RunError
from nanogrove.record.folder import RunFolder
from nanogrove.train.precision import pick_device

SOURCES = Path(nanogrove.__file__).parent
MODULES = [".".join(("nanogrove", *p.relative_to(SOURCES).with_suffix("").parts)) for p in SOURCES.rglob("*.py")]
ELSEWHERE = f"""
import importlib, os, signal, sys
import torch, numpy, filelock, psutil, pyarrow  # other libraries may use what they like
for name in ("fcntl", "resource", "grp", "pwd", "termios"):
    sys.modules[name] = None
for module, names in {{os: ("sysconf", "sched_getaffinity", "getloadavg", "fork", "O_NOFOLLOW"),
                       signal: ("SIGPROF", "setitimer", "ITIMER_PROF", "SIGKILL")}}.items():
    for name in names:
        delattr(module, name)
for name in {sorted(set(MODULES) - {"nanogrove.__main__"})!r}:
    importlib.import_module(name.removesuffix(".__init__"))
from nanogrove.synthetic import RandomHierarchyModel
from nanogrove.train.autotune import cores, memory_bytes
assert cores() >= 1 and memory_bytes(torch.device("cpu")) > 0
"""


def test_all_modules_import_without_what_windows_lacks() -> None:
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pdf_is_refused_where_its_reader_cannot_be_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    monkeypatch.setattr(pdf, "find_spec", lambda name: None if name == "resource" else name)
    with pytest.raises(DataError, match="this system cannot limit the memory and time of a PDF reader"):
        list(pdf.PdfSource(path=str(tmp_path / "a.pdf")).pieces(Skipped()))


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "vulkan"])
def test_a_kind_of_device_that_was_never_tried_is_refused(name: str) -> None:
    with pytest.raises(PresetError, match=f"train.device={name} has not been tried; take train.device=cpu"):
        pick_device(name)


def test_a_folder_is_held_by_one_and_free_once_it_is_given_back(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.write_preset({})
        with pytest.raises(RunError, match="in use by process"):
            RunFolder(tmp_path / "run")
    RunFolder(tmp_path / "run").close()
    assert (tmp_path / "run").exists()


def test_a_folder_in_which_nothing_began_leaves_no_two_owners(tmp_path: Path) -> None:
    """A process opens the lock's file, the owner takes the folder away, and a third begins: one of the two has it."""
    import filelock

    first = RunFolder(tmp_path / "run")
    waiting, opened = filelock.FileLock(tmp_path / "run" / ".lock"), list[object]()
    monkeypatch = pytest.MonkeyPatch()
    import fcntl

    flock = fcntl.flock

    def late(descriptor: Any, operation: int) -> None:
        """Lets the owner go, and another come, between the opening of the file and its locking."""
        if not opened:
            opened.append(descriptor)
            first.close()
            opened.append(RunFolder(tmp_path / "run"))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    try:
        with pytest.raises(filelock.Timeout):
            waiting.acquire(timeout=0)
    finally:
        monkeypatch.undo()
        opened[1].close()
