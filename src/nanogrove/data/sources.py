"""Sources of text: each yields documents in a fixed order, a piece at a time, so memory does not grow with size.

A source is a few lines of JSON in `data.sources`: a path to a file or folder, `"python-stdlib"`, or an object with a
`type`. What a source holds is identified by the path, size and modification time of its files.
"""

import codecs
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nanogrove.errors import DataError

PIECE = 1 << 18  # characters; a longer document comes in pieces, cut behind a line where it has one


class Piece(NamedTuple):
    """A document or, where it is long, one part of it; `first` opens a new document."""

    text: str
    first: bool


class TextSource(BaseModel):
    """Text files: one file, or those of a folder, in the order of their paths. A file is a document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"] = "text"
    path: str
    glob: str = Field("**/*.txt", description="which files of a folder to read")
    encoding: str = "utf-8"
    separator: str | None = Field(None, min_length=1, description="cuts a file into documents, itself left out")

    def files(self) -> list[Path]:
        """The files to read. Raises DataError when there are none."""
        root = Path(self.path).expanduser()
        if root.is_file():
            return [root]
        if not root.is_dir():
            raise DataError(f"{self.path}: no such file or folder; check the path in data.sources")
        found = sorted(path for path in root.glob(self.glob) if path.is_file())
        if not found:
            raise DataError(
                f"{self.path}: no file matches glob {self.glob!r}; name another, for example "
                f'data.sources=[{{"type": "text", "path": "{self.path}", "glob": "**/*"}}]'
            )
        return found

    def pieces(self) -> Iterator[Piece]:
        """Documents in order. Raises DataError for a file that is not text in `encoding`."""
        for path in self.files():
            chunks = _read(path, self.encoding)
            yield from _split(chunks, self.separator) if self.separator else _whole(chunks)


class PythonStandardLibrary(BaseModel):
    """The running interpreter's own library, about 11 MB of Python; tests and installed packages are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["python-stdlib"] = "python-stdlib"

    def files(self) -> list[Path]:
        """The source files. Raises DataError where the interpreter came without them."""
        root = Path(sysconfig.get_path("stdlib"))
        left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
        found: list[Path] = []
        for folder, inner, names in os.walk(root):
            inner[:] = [name for name in inner if name not in left_out]  # installed packages are many
            found += [Path(folder, name) for name in names if name.endswith(".py")]
        if not found:
            raise DataError(f"{root}: this Python has no library sources; set data.sources=path/to/a/text")
        return sorted(found)

    def pieces(self) -> Iterator[Piece]:
        """One document a file."""
        for path in self.files():
            yield from _whole(_read(path, "utf-8"))


def _from_name(value: Any) -> Any:
    """A bare string is a known name or a path."""
    if value == "python-stdlib":
        return {"type": value}
    return {"type": "text", "path": value} if isinstance(value, str) else value


Source = Annotated[
    Annotated[TextSource | PythonStandardLibrary, Field(discriminator="type")], BeforeValidator(_from_name)
]


def identity(source: TextSource | PythonStandardLibrary) -> dict[str, Any]:
    """What fixes a source's documents, as JSON: its options, and its files' names, sizes and times."""
    stats = [(path, path.stat()) for path in source.files()]
    return {
        **source.model_dump(),
        "python": sys.version if isinstance(source, PythonStandardLibrary) else None,
        "files": [[str(path.absolute()), stat.st_size, stat.st_mtime_ns] for path, stat in stats],
    }


def _read(path: Path, encoding: str) -> Iterator[str]:
    """The text of a file in chunks of about a piece; newlines as they stand, a byte-order mark left out."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise DataError(f"data.sources: unknown encoding {encoding!r}; utf-8 and latin-1 are common") from None
    offset = 0
    try:
        with path.open("rb") as file:
            while True:
                data = file.read(PIECE)
                kept = len(decoder.getstate()[0])  # bytes of an unfinished character, read before
                try:
                    text = decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    at = offset - kept + error.start
                    raise DataError(
                        f"{path}: not {encoding}: byte 0x{error.object[error.start]:02x} at offset {at}; if the "
                        'file has another encoding, name it: data.sources=[{"type": "text", "path": '
                        f'"{path}", "encoding": "latin-1"}}]'
                    ) from None
                if text:
                    yield text if offset else text.removeprefix("\ufeff")
                if not data:
                    return
                offset += len(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _whole(chunks: Iterator[str]) -> Iterator[Piece]:
    """One document in pieces that end behind a line, where a line ends within the last half of a piece."""
    first, held = True, ""
    for chunk in chunks:
        held += chunk
        while len(held) >= PIECE:
            newline = held.rfind("\n", PIECE // 2, PIECE)
            end = newline + 1 if newline >= 0 else PIECE
            yield Piece(held[:end], first)
            first, held = False, held[end:]
    if held:
        yield Piece(held, first)


def _split(chunks: Iterator[str], separator: str) -> Iterator[Piece]:
    """The documents between separators; empty ones are none."""
    held, first = "", True
    for chunk in chunks:
        held += chunk
        *documents, held = held.split(separator)
        for document in documents:
            if document:
                yield Piece(document, first)
            first = True
        while len(held) >= 2 * PIECE:  # keep enough that a separator across the cut is still seen
            yield Piece(held[:PIECE], first)
            first, held = False, held[PIECE:]
    if held:
        yield Piece(held, first)
