"""Files of text as sources, and the Python standard library as one that every machine has."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from nanogrove.data.sources.contract import SourceKind
from nanogrove.data.sources.files import (
    BinaryFileError,
    DecodingError,
    EncodedFiles,
    file_identity,
    read_text,
    total_bytes,
)
from nanogrove.data.sources.pieces import Piece, Skipped, split_at_separators, split_long_document
from nanogrove.errors import DataError
from nanogrove.settings import Settings

Separator = Annotated[str, Field(min_length=1)]
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class TextSource(EncodedFiles):
    """Text files, plain or packed; a file is a document. Binary files of a folder or pattern are left out."""

    type: Literal["text"] = "text"
    glob: str = Field("**/*.txt", description="which files of a folder to read")
    separator: Separator | list[Separator] | None = Field(
        None, description="cuts a file into documents, itself left out; a list of them cuts at each"
    )

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        """Documents in order. Raises DataError for a file that is not text in `encoding`, or where all are binary."""
        separators = [self.separator] if isinstance(self.separator, str) else self.separator or []
        files = self.counted_files(skipped)
        for path in files:
            chunks = read_text(path, self.encoding, skipped)
            try:
                yield from split_at_separators(chunks, separators) if separators else split_long_document(chunks)
            except BinaryFileError as error:
                if len(files) == 1:
                    raise
                skipped.bad(str(error).removeprefix(f"{path}: "), str(path))
            except DecodingError as error:
                raise DataError(f"{error}; {self.encoding_advice(path)}") from None


class PythonStandardLibrary(Settings):
    """The running interpreter's own library, about 11 MB of Python; tests and installed packages are left out."""

    type: Literal["python-stdlib"] = "python-stdlib"

    def title(self) -> str:
        """Its type."""
        return self.type

    def files(self) -> list[Path]:
        """The source files. Raises DataError where the interpreter came without them."""
        root = Path(sysconfig.get_path("stdlib"))
        files: list[Path] = []
        for folder, inner, names in os.walk(root):
            inner[:] = [name for name in inner if name not in LEFT_OUT]  # installed packages are many
            files += [Path(folder, name) for name in names if name.endswith(".py")]
        if not files:
            raise DataError(f"{root}: this Python has no library sources; set data.sources=path/to/a/text")
        return sorted(files)

    def identity(self) -> dict[str, object]:
        """The version of Python, and the files' names, sizes and times."""
        return {**self.model_dump(), "python": sys.version, "files": file_identity(self.files())}

    def size(self) -> int:
        """Bytes of all files."""
        return total_bytes(self.files())

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        """One document per file."""
        for path in self.files():
            yield from split_long_document(read_text(path, "utf-8", skipped))


TEXT = SourceKind(TextSource, "text", endings=(".txt",), encoded=True)
PYTHON_STDLIB = SourceKind(PythonStandardLibrary, "Python's standard library")
