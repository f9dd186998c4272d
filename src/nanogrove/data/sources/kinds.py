"""Sources of text: what `data.sources` may name, and the plain ones.

A source is a few lines of JSON: an object with a `type`, a short name such as `"python-stdlib"` or `"wikipedia"`, or a
path, whose ending says what it holds. Each is a `Documents`.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nanogrove.data.sources.base import Piece, Problems, split, whole
from nanogrove.data.sources.files import FileSource, read_text
from nanogrove.data.sources.hub import SHORTCUTS, HubSource, KaggleSource
from nanogrove.data.sources.pdf import PdfSource
from nanogrove.data.sources.tables import CsvSource, JsonlSource, ParquetSource
from nanogrove.errors import DataError


class TextSource(FileSource):
    """Text files, plain or packed; a file is a document."""

    type: Literal["text"] = "text"
    glob: str = Field("**/*.txt", description="which files of a folder to read")
    encoding: str = Field("auto", description="auto goes by the byte-order mark, utf-8 without one")
    separator: str | None = Field(None, min_length=1, description="cuts a file into documents, itself left out")

    def pieces(self, problems: Problems) -> Iterator[Piece]:
        """Documents in order. Raises DataError for a file that is not text in `encoding`."""
        for path in self.files():
            chunks = read_text(path, self.encoding)
            yield from split(chunks, self.separator) if self.separator else whole(chunks)


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

    def identity(self) -> dict[str, Any]:
        """The version of Python, and the files' names, sizes and times."""
        stats = [(path, path.stat()) for path in self.files()]
        files = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        return {**self.model_dump(), "python": sys.version, "files": files}

    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files())

    def pieces(self, problems: Problems) -> Iterator[Piece]:
        """One document a file."""
        for path in self.files():
            yield from whole(read_text(path, "utf-8"))


ENDINGS: dict[str, tuple[str, ...]] = {
    "csv": CsvSource.endings,
    "jsonl": JsonlSource.endings,
    "parquet": ParquetSource.endings,
    "pdf": (".pdf",),
}


def kind_of(path: str) -> str:
    """The type of source that reads a file of this name; text where its ending says nothing else."""
    return next((kind for kind, endings in ENDINGS.items() if path.lower().endswith(endings)), "text")


def _from_name(value: Any) -> Any:
    """A bare string is a known name or a path."""
    if not isinstance(value, str):
        return value
    if value == "python-stdlib":
        return {"type": value}
    return SHORTCUTS.get(value) or {"type": kind_of(value), "path": value}


Source = Annotated[
    Annotated[
        TextSource
        | PythonStandardLibrary
        | CsvSource
        | JsonlSource
        | ParquetSource
        | PdfSource
        | HubSource
        | KaggleSource,
        Field(discriminator="type"),
    ],
    BeforeValidator(_from_name),
]
