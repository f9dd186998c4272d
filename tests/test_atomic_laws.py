"""After a write, whatever its name and content and whichever call fails, the old content or the new one is there."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogrove.atomic import STALE_SECONDS, write_file, write_folder

LAWS = settings(derandomize=True, database=None, deadline=None, max_examples=120)
CALLS = ("open", "fsync", "replace", "unlink", "close", "mkdir", "rmdir")
characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/")
names = st.one_of(
    st.sampled_from(["*", "[ab]", "?", "a*", ".hidden", "..a", "a.part", "events.jsonl", "a b", "~", "-", "**"]),
    st.text(characters, min_size=1, max_size=20),
).filter(lambda name: name not in (".", ".."))
contents = st.one_of(st.binary(max_size=50), st.sampled_from([b"x" * 70_000, b"\r\n\x00"]))
before = st.sampled_from(["nothing", "file", "link to a file", "link to nothing", "link to a folder"])


@contextmanager
def failing(number: int | None) -> Iterator[None]:
    """The n-th system call fails, of all that a writer makes of `os`."""
    numbers = count()
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            real = getattr(os, name)

            def call(*arguments: Any, real: Any = real, **options: Any) -> Any:
                if next(numbers) == number:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(*arguments, **options)

            patch.setattr(os, name, call)
        yield


def whole(folder: Path) -> dict[str, object]:
    """All that lies in a folder: of files their content, of links where they lead, of folders None."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def prepare(folder: Path, name: str, kind: str, old: bytes, others: dict[str, bytes]) -> Path:
    """Files of other names, of which some are old asides of theirs, and at `name` what was there before."""
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "precious").write_bytes(old)
    (folder / "in").mkdir()
    for other, data in others.items():
        path = folder / "in" / other
        path.write_bytes(data)
        os.utime(path, (0, 0))
    path = folder / "in" / name
    if kind == "file":
        path.write_bytes(old)
    elif kind != "nothing":
        target = {"link to a file": "precious", "link to nothing": "missing", "link to a folder": ""}[kind]
        path.symlink_to(folder / "elsewhere" / target)
    return path


@LAWS
@given(
    name=names,
    kind=before,
    old=contents,
    new=contents,
    others=st.dictionaries(st.one_of(names, names.map(lambda name: f".{name}.0a1b2c3d.part")), contents, max_size=3),
    call=st.one_of(st.none(), st.integers(0, 6)),
)
def test_a_file_is_the_old_or_the_new_one_and_no_other_is_touched(
    name: str, kind: str, old: bytes, new: bytes, others: dict[str, bytes], call: int | None
) -> None:
    others = {other: data for other, data in others.items() if other != name}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = prepare(folder, name, kind, old, others)
        was = whole(folder)
        failed = False
        with failing(call):
            try:
                write_file(path, new)
            except OSError:
                failed = True
        now, key = whole(folder), f"in/{name}"
        assert failed == (call is not None and call < 6)
        aside = re.compile(rf"\.{re.escape(name)}\..*\.part", re.DOTALL)
        stale = {f"in/{other}" for other in others if aside.fullmatch(other)}
        if not failed or (call is not None and call >= 3):
            assert now == {**{k: v for k, v in was.items() if k not in stale or k in now}, key: new}
        else:
            assert now == was
        assert call is not None or not stale & now.keys(), "what was left of an earlier write goes"


@settings(LAWS, max_examples=60)
@given(
    files=st.dictionaries(names.filter(lambda name: len(name.encode()) < 200), contents, max_size=4),
    kind=st.sampled_from(["nothing", "folder", "link to a file", "link to nothing", "link to a folder"]),
    call=st.one_of(st.none(), st.integers(0, 12)),
)
def test_a_folder_is_whole_or_is_not_there(files: dict[str, bytes], kind: str, call: int | None) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = prepare(folder, "new", "nothing" if kind == "folder" else kind, b"old", {"other": b"other"})
        was = {key: value for key, value in whole(folder).items() if key != "in/new"}
        if kind == "folder":
            path.mkdir()
            (path / "half").write_bytes(b"half")
        failed = False
        with failing(call):
            try:
                write_folder(path, files)
            except OSError:
                failed = True
        now = whole(folder)
        assert {key: value for key, value in now.items() if not key.startswith("in/new")} == was
        if not failed:
            assert {other.name: other.read_bytes() for other in path.iterdir()} == files


@LAWS
@given(name=names, old=contents, new=contents)
def test_an_aside_of_a_write_that_is_going_on_is_left_alone(name: str, old: bytes, new: bytes) -> None:
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / name
        aside = path.with_name(f".{name}.0a1b2c3d.part")
        aside.write_bytes(old)
        write_file(path, new)
        assert (path.read_bytes(), aside.read_bytes()) == (new, old)
        assert STALE_SECONDS > 60
