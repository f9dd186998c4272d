"""Files as sources read them: listed by path, folder or glob, unpacked from .gz and .zst, decoded chunk by chunk."""

import codecs
import glob
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from pydantic import BaseModel, ConfigDict, Field

from nanogrove.data.sources.pieces import PIECE_CHARACTERS
from nanogrove.errors import DataError
from nanogrove.paths import LocalPath

ENCODING = "of the text; auto goes by the byte-order mark, utf-8 without one"  # what a setting of this name means
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class FileSource(BaseModel):
    """A file, the files of a folder, or those a pattern such as `logs/*.txt` names, in the order of their paths."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: LocalPath = Field(description="a file, a folder, or a pattern such as logs/*.txt")
    glob: str = Field("**/*", description="which files of a folder to read")

    def title(self) -> str:
        """Its path."""
        return self.path

    def files(self) -> list[Path]:
        """The files to read. Raises DataError when there are none, or for a pattern that is not valid."""
        root = Path(self.path).expanduser()
        if root.is_file():
            return [root]
        folder, pattern = root, self.glob
        if not root.is_dir():
            fixed = next((n for n, part in enumerate(root.parts) if glob.has_magic(part)), len(root.parts))
            folder, pattern = Path(*root.parts[:fixed]), "/".join(root.parts[fixed:])
            if not pattern:
                raise DataError(f"{self.path}: no such file or folder; check the path in data.sources")
        try:  # unlike glob.glob, Path.glob does not go in circles where ** meets a link to a folder above
            files = sorted(path for path in folder.glob(pattern) if path.is_file())
        except (ValueError, NotImplementedError) as error:
            raise DataError(f"{self.path}: glob {pattern!r} is not a pattern ({error})") from None
        if not files:
            raise DataError(
                f"{self.path}: no file matches glob {pattern!r}; name another, as in "
                f'data.sources=[{{"type": "text", "path": "{folder}", "glob": "**/*"}}]'
            )
        return files

    def identity(self) -> dict[str, object]:
        """The settings, and the files' names, sizes and times. Raises DataError as `files` does."""
        return {**self.model_dump(), "files": file_identity(self.files())}

    def size(self) -> int:
        """Bytes of all files, as they lie on disk."""
        return total_bytes(self.files())


def file_identity(paths: Sequence[Path]) -> list[list[str | int]]:
    """The absolute path, size in bytes, and time in nanoseconds of each file, to tell whether files have changed."""
    stats = [(path, path.stat()) for path in paths]
    return [[str(path.absolute()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def total_bytes(paths: Sequence[Path]) -> int:
    """Bytes of files together, as they lie on disk."""
    return sum(path.stat().st_size for path in paths)


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its folders, in the order of their paths."""
    return sorted(path for path in folder.glob("**/*") if path.is_file())


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where its name ends in .gz or .zst. Raises DataError where pyarrow is missing."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        try:
            import pyarrow
        except ImportError:
            raise DataError(f"{path}: .zst needs pyarrow; pip install 'nanogrove[data]'") from None
        return cast(BinaryIO, pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def encoding_of(path: Path, named: str) -> str:
    """The encoding of a file: `named`, or for `auto` that of its byte-order mark, utf-8 without one.

    Raises DataError for a file that cannot be read.
    """
    if named != "auto":
        return named
    with io_errors_as_data_errors(path), open_bytes(path) as file:
        start = file.read(4)
    return next((encoding for mark, encoding in BOMS.items() if start.startswith(mark)), "utf-8")


class io_errors_as_data_errors:  # noqa: N801  a context, as contextlib names them
    """Turns an error that occurs while `path` is read into a DataError of one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (EOFError, zlib.error)) or (isinstance(error, OSError) and error.errno is None):
            raise DataError(f"{self.path}: damaged or cut off ({error})") from None
        if isinstance(error, OSError):
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from None


def read_text(path: Path, encoding: str = "auto") -> Iterator[str]:
    """The text of a file, in chunks of about a piece; newlines are kept as they are, a byte-order mark is left out.

    Raises DataError for a file that cannot be read, is cut off, or is not text in `encoding`.
    """
    name = encoding_of(path, encoding)
    try:
        decoder = codecs.getincrementaldecoder(name)()
    except LookupError:
        raise DataError(f"data.sources: unknown encoding {encoding!r}; utf-8 and latin-1 are common") from None
    offset = 0
    with io_errors_as_data_errors(path), open_bytes(path) as file:
        while True:
            data = file.read(PIECE_CHARACTERS)
            unfinished = len(decoder.getstate()[0])  # bytes of a character that the chunk before began
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = offset - unfinished + error.start
                raise DataError(
                    f"{path}: not {name}: byte 0x{error.object[error.start]:02x} at offset {at}; if the "
                    'file has another encoding, name it: data.sources=[{"type": "text", "path": '
                    f'"{path}", "encoding": "latin-1"}}]'
                ) from None
            if text:
                yield text if offset else text.removeprefix("\ufeff")
            if not data:
                return
            offset += len(data)
