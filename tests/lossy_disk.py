"""A disk that loses power: what a folder may hold after it, at every change that a program makes to its files.

While `recording` is open, every change of the file system below a folder (a file or a folder made, renamed, removed, a
file cut, a file or a folder made durable with fsync) is a moment at which power may fail. Of each moment `images` keeps
what may be found afterwards. Only what fsync has made durable is certain, contents and names apart: a file has the
content of its last fsync, a folder the names of its own. What came after that may be there, may be lost, may be there
in another order, and a content may be torn or hold zeros where data was never written.
"""

import os
import random
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHANGES = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate"}
Image = Mapping[str, bytes | None]  # the content of each file by its path, None for a folder

_listener: Callable[[str, tuple[Any, ...]], None] | None = None  # an audit hook cannot be taken back


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _listener is not None and event in CHANGES:
        _listener(event, arguments)


sys.addaudithook(_audit)


@dataclass(eq=False)
class File:
    """A file: its content when it was last made durable."""

    durable: bytes = b""


@dataclass(eq=False)
class Folder:
    """A folder: what it holds, what it held when it was last made durable, and the changes since."""

    names: dict[str, "File | Folder"] = field(default_factory=dict)
    durable: dict[str, "File | Folder"] = field(default_factory=dict)
    since: list[tuple[str, str, "File | Folder | None"]] = field(default_factory=list)

    def change(self, name: str, to: str, node: "File | Folder | None") -> None:
        """Puts a node under the name `to`; takes one from `name` to `to`; or drops it where `to` is empty."""
        self.since.append((name, to, node))
        _apply(self.names, name, to, node)

    def kept(self, changes: list[tuple[str, str, "File | Folder | None"]]) -> dict[str, "File | Folder"]:
        """What the folder holds when only these of the changes reached the disk, those that then still can."""
        names = dict(self.durable)
        for change in changes:
            _apply(names, *change)
        return names


def _apply(names: dict[str, File | Folder], name: str, to: str, node: File | Folder | None) -> None:
    if node is not None:
        names.setdefault(to, node)
    elif not to:
        names.pop(name, None)
    elif name in names and not isinstance(names.get(to), Folder):
        names[to] = names.pop(name)


class LossyDisk:
    """What may be found below `root` after a loss of power at each moment, with `random_images` of each by chance."""

    def __init__(self, root: Path, random_images: int) -> None:
        self.root, self.random_images, self.rng = root, random_images, random.Random(0)
        self.tree, self.moments = Folder(), 0
        self.announced: tuple[str, Path, Path] | None = None  # a change that is about to be made
        self.images: dict[int, tuple[str, Image]] = {}  # by their hash: the moment at which each may first be found

    @contextmanager
    def recording(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Records the changes that are made meanwhile."""
        global _listener
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", self._fsync)
            _listener = self._changing
            try:
                yield
            finally:
                _listener = None
        self._moment("the end")

    def _fsync(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._made()
        node = self._node(path)
        if node is None:
            return
        self._moment(f"fsync {path.name}")
        if isinstance(node, File):
            node.durable = path.read_bytes()
        elif node is not None:
            node.durable, node.since = dict(node.names), []

    def _changing(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        rename = event == "os.rename"
        path = _absolute(arguments[0], arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1)
        to = _absolute(arguments[1], -1) if rename else path
        if not path.is_relative_to(self.root) or path == self.root:
            return
        self._moment(f"{event} {path.name}")
        self.announced = (event, path, to)

    def _node(self, path: Path) -> File | Folder | None:
        node: File | Folder | None = self.tree
        if not path.is_relative_to(self.root):
            return None
        for name in path.relative_to(self.root).parts:
            node = node.names.get(name) if isinstance(node, Folder) else None
        return node

    def _made(self) -> None:
        """Takes over the change that was announced, if it was made."""
        if self.announced is None:
            return
        event, path, to = self.announced
        self.announced = None
        folder, known, there = self._node(path.parent), self._node(path), os.path.lexists(path)
        assert isinstance(folder, Folder), path
        if event == "os.rename":
            if known is not None and not there:
                assert path.parent == to.parent
                folder.change(path.name, to.name, None)
        elif there and known is None:
            folder.change(path.name, path.name, Folder() if path.is_dir() else File())
        elif known is not None and not there:
            folder.change(path.name, "", None)

    def _moment(self, about: str) -> None:
        """Keeps what may be found when power fails now, before what is `about` to be done."""
        global _listener
        listener, _listener = _listener, None
        self._made()
        now = dict(self._contents(self.tree, self.root))
        self.moments += 1
        choices: list[tuple[str, Callable[..., Any], Callable[..., bytes]]] = [
            ("all lost", _none, lambda old, new: old),
            ("contents lost", list, lambda old, new: old),
            ("contents zero", list, lambda old, new: _torn(old, new, 0, True)),
            ("contents torn", list, lambda old, new: _torn(old, new, 0.5, False)),
            ("names lost", _none, lambda old, new: new),
            ("nothing lost", list, lambda old, new: new),
        ]
        for number in range(self.random_images):
            choices.append((f"by chance {number}", self._some, self._chance))
        for name, changes, content in choices:
            image = dict(self._image(self.tree, "", now, changes, content))
            self.images.setdefault(hash(frozenset(image.items())), (f"{name}, before {about}", image))
        _listener = listener

    def _contents(self, folder: Folder, path: Path) -> Iterator[tuple[File, bytes]]:
        for name, node in folder.names.items():
            if isinstance(node, Folder):
                yield from self._contents(node, path / name)
            elif stat.S_ISREG((path / name).lstat().st_mode):
                yield node, (path / name).read_bytes()

    def _image(
        self,
        folder: Folder,
        path: str,
        now: dict[File, bytes],
        changes: Callable[..., Any],
        content: Callable[[bytes, bytes], bytes],
    ) -> Iterator[tuple[str, bytes | None]]:
        for name, node in folder.kept(changes(folder.since)).items():
            if isinstance(node, Folder):
                yield path + name, None
                yield from self._image(node, f"{path}{name}/", now, changes, content)
            else:  # of a file that is gone, what was not made durable is gone, too
                yield path + name, content(node.durable, now.get(node, node.durable))

    def _some(self, changes: list[Any]) -> list[Any]:
        return [change for change in changes if self.rng.random() < 0.5]

    def _chance(self, old: bytes, new: bytes) -> bytes:
        return self.rng.choice([old, new, _torn(old, new, self.rng.random(), self.rng.random() < 0.5)])


def _none(changes: list[Any]) -> list[Any]:
    return []


def _torn(old: bytes, new: bytes, share: float, zeros: bool) -> bytes:
    """The new content as far as it is the old one and a share of the rest; the remainder zero, or missing."""
    same = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    kept = same + int(share * (len(new) - same))
    return new[:kept] + (b"\0" * (len(new) - kept) if zeros else b"")


def _absolute(path: Any, folder: int) -> Path:
    base = Path(os.readlink(f"/proc/self/fd/{folder}")) if isinstance(folder, int) and folder >= 0 else Path.cwd()
    if isinstance(path, int):
        return Path(os.readlink(f"/proc/self/fd/{path}"))
    return base / os.fsdecode(path)


def write_image(image: Image, root: Path) -> None:
    """Makes a folder what an image says."""
    root.mkdir()
    for name, content in sorted(image.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)
