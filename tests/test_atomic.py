"""What is read under a name is the old file or the new one, whole, whatever call fails and whenever a process dies."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from nanogrove import atomic
from nanogrove.atomic import file_aside, leftovers, new_folder, no_links, place, write_file, write_folder

OLD, NEW = b"old", b"new and longer " * 1000


DYING = """
import os, sys
from pathlib import Path
from nanogrove.atomic import write_file

numbers = iter(range(100))
for name in ("open", "fsync", "replace", "unlink", "close"):
    def call(*arguments, real=getattr(os, name), **options):
        if next(numbers) == int(sys.argv[2]):
            os._exit(9)
        return real(*arguments, **options)
    setattr(os, name, call)
write_file(Path(sys.argv[1]), b"new and longer " * 1000)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with old content."""
    path = tmp_path / "file.json"
    path.write_bytes(OLD)
    return path


def watch(patch: pytest.MonkeyPatch, before: Callable[[str], None]) -> None:
    """Has `before` called before each system call of `os` that a writer makes, with its name."""
    for name in ("open", "fsync", "replace", "unlink", "close", "mkdir", "rmdir"):
        real = getattr(os, name)

        def call(*arguments: Any, name: str = name, real: Any = real, **options: Any) -> Any:
            before(name)
            return real(*arguments, **options)

        patch.setattr(os, name, call)


def calls_of(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> list[str]:
    """The system calls of `work`, in order."""
    calls: list[str] = []
    with monkeypatch.context() as patch:
        watch(patch, calls.append)
        work()
    return calls


def test_a_file_is_flushed_before_it_gets_its_name_and_its_folder_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calls_of(monkeypatch, lambda: write_file(path, NEW)) == [
        "open",
        "fsync",
        "replace",
        "open",
        "fsync",
        "close",
    ]
    assert path.read_bytes() == NEW
    assert list(path.parent.iterdir()) == [path]


def test_each_failing_call_leaves_the_old_file_or_the_new_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(calls_of(monkeypatch, lambda: write_file(path.with_name("other"), NEW)))
    path.with_name("other").unlink()
    contents = []
    for failing in range(count):
        numbers: Iterator[int] = iter(range(100))

        def refuse(name: str, failing: int = failing, numbers: Iterator[int] = numbers) -> None:
            if next(numbers) == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        path.write_bytes(OLD)
        with monkeypatch.context() as patch:
            watch(patch, refuse)
            with pytest.raises(OSError, match="Input/output error"):
                write_file(path, NEW)
        contents.append(path.read_bytes())
        assert list(path.parent.iterdir()) == [path], "a write that fails leaves nothing aside"
    assert contents == [OLD] * 3 + [NEW] * 3


def test_a_process_that_dies_at_each_call_leaves_the_old_file_or_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(calls_of(monkeypatch, lambda: write_file(path.with_name("other"), NEW)))
    path.with_name("other").unlink()
    contents = []
    for dying in range(count):
        path.write_bytes(OLD)
        died = subprocess.run([sys.executable, "-c", DYING, path, str(dying)])
        assert died.returncode == 9
        contents.append(path.read_bytes())
        write_file(path, b"next")
        assert path.read_bytes() == b"next", "what the dead process left does not block the next write"
        for aside in leftovers(path):
            aside.unlink()
    assert contents == [OLD] * 3 + [NEW] * 3


@pytest.mark.parametrize("size", [0, 1, 8192, len(NEW) - 1])
def test_a_disk_that_fills_after_some_bytes_leaves_the_old_file(path: Path, size: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_file(path, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    write_file(link, NEW)
    assert not link.is_symlink()
    assert (link.read_bytes(), path.read_bytes()) == (NEW, OLD)


def test_a_link_planted_aside_is_not_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a stranger had guessed the name."""
    precious = path.with_name("precious")
    precious.write_bytes(b"precious")
    monkeypatch.setattr(atomic, "_unguessable", lambda: "guessed")
    path.with_name(".file.json.guessed.part").symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_file(path, NEW)
    assert (precious.read_bytes(), path.read_bytes()) == (b"precious", OLD)
    write_file(path, NEW)  # the link itself is gone
    assert (precious.read_bytes(), path.read_bytes()) == (b"precious", NEW)


def test_two_writers_of_one_file_do_not_mix(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins and ends while the first is about to rename."""
    real = os.replace

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", real)
        write_file(path, b"second")
        assert path.read_bytes() == b"second"
        real(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    write_file(path, NEW)
    assert path.read_bytes() == NEW


def test_what_a_killed_process_left_goes_after_an_hour(path: Path) -> None:
    fresh, stale = (path.with_name(f".file.json.{digits}.part") for digits in ("0a1b2c3d", "4e5f6071"))
    other = path.with_name(".other.json.4e5f6071.part")
    user = path.with_name(".file.json.mine.part")
    for aside in (fresh, stale, other, user):
        aside.write_bytes(b"half")
    for aside in (stale, other, user):
        os.utime(aside, (time.time() - 2 * atomic.STALE_SECONDS,) * 2)
    write_file(path, NEW)
    assert set(path.parent.iterdir()) == {path, fresh, other, user}


def test_a_folder_that_a_killed_process_left_goes_after_an_hour(path: Path) -> None:
    fresh, stale = (path.with_name(f".folder.{digits}.part") for digits in ("0a1b2c3d", "4e5f6071"))
    for aside in (fresh, stale):
        aside.mkdir()
        (aside / "half").write_bytes(b"half")
    os.utime(stale, (time.time() - 2 * atomic.STALE_SECONDS,) * 2)
    with atomic.new_folder(path.with_name("folder")) as aside:
        (aside / "whole").write_bytes(NEW)
    assert set(path.parent.glob("*folder*")) == {path.with_name("folder"), fresh}


def test_a_name_as_long_as_the_file_system_takes_is_written(path: Path) -> None:
    long = path.with_name("x" * 255)
    write_file(long, NEW)
    assert long.read_bytes() == NEW


def test_an_error_names_the_file_that_was_asked_for(path: Path) -> None:
    missing = path.parent / "missing" / "file.json"
    with pytest.raises(FileNotFoundError) as refused:
        write_file(missing, NEW)
    assert refused.value.filename == str(missing)


def test_a_log_is_opened_for_more_and_never_through_a_link(path: Path) -> None:
    with open(path, "ab", opener=no_links) as file:
        file.write(b" and more")
    assert path.read_bytes() == OLD + b" and more"
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        FileIO(link, "a", opener=no_links)


def test_a_folder_is_on_disk_before_it_can_be_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a": NEW, "b": OLD}
    calls = calls_of(monkeypatch, lambda: write_folder(tmp_path / "new", files))
    assert calls == ["mkdir", "open", "fsync", "open", "fsync", "open", "fsync", "close"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == files


def test_a_folder_replaces_what_a_killed_process_left(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "half").write_bytes(b"half")
    write_folder(new, {"a": NEW})
    assert [path.name for path in new.iterdir()] == ["a"]


def test_a_link_in_the_place_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"precious")
    (tmp_path / "new").symlink_to(elsewhere)
    write_folder(tmp_path / "new", {"a": NEW})
    assert not (tmp_path / "new").is_symlink()
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


def test_each_failing_call_of_a_folder_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, files = tmp_path / "new", {"a": NEW, "b": OLD}
    count = len(calls_of(monkeypatch, lambda: write_folder(new, files)))
    shutil.rmtree(new)
    for failing in range(count):
        numbers: Iterator[int] = iter(range(100))

        def refuse(name: str, failing: int = failing, numbers: Iterator[int] = numbers) -> None:
            if next(numbers) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            watch(patch, refuse)
            with pytest.raises(OSError, match="No space left"):
                write_folder(new, files)
        assert not new.exists()


def test_a_new_folder_that_cannot_be_put_in_place_gives_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "folder", Path.rename
    folder.mkdir()
    (folder / "old").touch()

    def refuse(path: Path, target: Path) -> Path:
        if path.suffix == ".part":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Permission denied"), new_folder(folder) as aside:
        (aside / "new").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["folder", "folder/old"]


def test_a_file_that_comes_in_parts_gets_a_name_that_nothing_has_or_leaves_nothing(path: Path) -> None:
    other = path.with_name("other")
    with file_aside(path) as file:
        file.write(NEW)
        with pytest.raises(FileExistsError):
            place(file, path)
        assert path.read_bytes() == OLD
        place(file, other)
    assert other.read_bytes() == NEW
    link = path.with_name("link")
    link.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(FileExistsError), file_aside(path) as file:
        place(file, link)
    with suppress(KeyError), file_aside(path) as file:
        file.write(NEW)
        raise KeyError
    assert {each.name for each in path.parent.iterdir()} == {path.name, "other", "link"}


def test_a_file_aside_is_on_disk_before_it_gets_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with file_aside(path) as file:
            file.write(NEW)
            place(file, path.with_name("other"))

    calls = calls_of(monkeypatch, work)
    assert calls[:4] == ["open", "fsync", "open", "replace"]
    assert calls[4:6] == ["open", "fsync"]  # of the folder

    def refuse(name: str) -> None:
        if name == "replace":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    path.with_name("other").unlink()
    with monkeypatch.context() as patch:
        watch(patch, refuse)
        with pytest.raises(OSError, match="Input/output error"):
            work()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
