"""Files as sources read them: listed by path, folder or pattern, unpacked, decoded chunk by chunk."""

import codecs
import glob
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field, field_validator

from nanogrove.data.sources.binary import binary
from nanogrove.data.sources.encodings import (
    AUTO,
    DETECT,
    ENCODING,
    REPLACEMENT,
    Encoding,
    Guess,
    guess_encoding_of,
    marked_encoding,
    wide_encoding,
)
from nanogrove.data.sources.packing import UNPACKING_ERRORS, is_hidden, open_bytes, unpack_advice
from nanogrove.data.sources.pieces import PIECE_CHARACTERS, Skipped
from nanogrove.errors import DataError
from nanogrove.paths import LocalPath, expanded
from nanogrove.settings import Settings

NOT_UTF8_NAME = (
    "is not UTF-8, as a preset is; rename it, or name a pattern with ? for such letters, and /* after a folder"
)


class Listing(NamedTuple):
    """The files of a source, and how many of the names that match were left out, since they are hidden."""

    files: list[Path]
    hidden: int


class FileSource(Settings):
    """A file, the files of a folder, or those a pattern such as `logs/*.txt` names, in the order of their paths.

    Hidden files and folders, and those that macOS adds to archives, are left out unless the pattern names them.
    """

    path: LocalPath = Field(description="a file, a folder, or a pattern such as logs/*.txt")
    glob: str = Field("**/*", description="which files of a folder to read")
    # Settings that came when caches and streamed runs had names already: where they are null, identities lack them.
    newer: ClassVar[frozenset[str]] = frozenset()

    @field_validator("path")
    @classmethod
    def _named(cls, path: str) -> str:
        if not path.isascii() and path.encode("utf-8", "ignore").decode() != path:
            raise ValueError(NOT_UTF8_NAME)
        return path

    def title(self) -> str:
        """Its path."""
        return self.path

    def listing(self) -> Listing:
        """The files to read. Raises DataError when there are none, or for a pattern that is not valid."""
        root = expanded(self.path)
        if root.is_file():
            return Listing([root], 0)
        folder, pattern = root, self.glob
        if not root.is_dir():
            fixed = next((n for n, part in enumerate(root.parts) if glob.has_magic(part)), len(root.parts))
            folder, pattern = Path(*root.parts[:fixed]), "/".join(root.parts[fixed:])
            if not pattern:
                raise DataError(f"{self.path}: {_not_a_file(root)}; check the path in data.sources")
        with io_errors_as_data_errors(folder):
            try:  # unlike glob.glob, Path.glob does not go in circles where ** meets a link to a folder above
                files = sorted(path for path in folder.glob(pattern) if path.is_file())
            except (ValueError, NotImplementedError) as error:
                raise DataError(f"{self.path}: glob {pattern!r} is not a pattern ({error})") from None
        shown = files
        if not is_hidden(pattern.split("/")):
            shown = [path for path in files if not is_hidden(path.relative_to(folder).parts)]
        if not shown:
            hidden = f", besides {len(files):,} hidden ones" if files else ""
            raise DataError(
                f"{self.path}: no file matches glob {pattern!r}{hidden}; name another glob, or another path"
            )
        return Listing(shown, len(files) - len(shown))

    def files(self) -> list[Path]:
        """The files to read. Raises DataError as `listing` does."""
        return self.listing().files

    def counted_files(self, skipped: Skipped) -> list[Path]:
        """The files to read, with hidden ones counted as left out. Raises DataError as `listing` does."""
        listing = self.listing()
        for _ in range(listing.hidden):
            skipped.unwanted("hidden file")
        return listing.files

    def identity(self) -> dict[str, object]:
        """The settings, and the files' names, sizes and times. Raises DataError as `files` does."""
        settings = {
            key: value for key, value in self.model_dump().items() if value is not None or key not in self.newer
        }
        return {**settings, "files": file_identity(self.files())}

    def size(self) -> int:
        """Bytes of all files, as they lie on disk."""
        return total_bytes(self.files())

    def restated(self, **changes: object) -> str:
        """The source as an element of `data.sources`, in JSON, with other settings."""
        settings = self.model_dump(exclude_defaults=True, exclude={"type"})
        kind = type(self).model_fields["type"].default
        return json.dumps({"type": kind, "path": self.path, **settings, **changes}, ensure_ascii=False)


class EncodedFiles(FileSource):
    """Files of text in some encoding."""

    encoding: Encoding = Field(AUTO, description=ENCODING)

    def identity(self) -> dict[str, object]:
        """As of any files; where encodings are guessed, with the version of what guesses."""
        guessing = {"detector": version("chardet")} if self.encoding == DETECT else {}
        return {**super().identity(), **guessing}

    def encoding_advice(self, path: Path) -> str:
        """How to name the source so that a file that is not text in its encoding is read."""
        guess = detect_encoding(path)
        if expanded(self.path).is_file():
            encoding = DETECT if "damaged" in guess.why or not decodes(path, guess.name) else guess.option or AUTO
            why = f"it seems to be {guess.name} ({guess.why})"
        else:
            encoding, why = DETECT, f"it seems to be {guess.name}, and files may differ"
        return f"{why}; name the source as {self.restated(encoding=encoding)}"


def _not_a_file(path: Path) -> str:
    return "neither a file nor a folder" if path.exists() or path.is_symlink() else "no such file or folder"


def file_identity(paths: Sequence[Path]) -> list[list[str | int]]:
    """The absolute path, size in bytes, and time in nanoseconds of each file, to tell whether files have changed.

    Raises DataError for a file that vanished.
    """
    identity: list[list[str | int]] = []
    for path in paths:
        with io_errors_as_data_errors(path):
            stat = path.stat()
        identity.append([str(path.absolute()), stat.st_size, stat.st_mtime_ns])
    return identity


def total_bytes(paths: Sequence[Path]) -> int:
    """Bytes of files together, as they lie on disk. Raises DataError for a file that vanished."""
    return sum(size_of(path) for path in paths)


def size_of(path: Path) -> int:
    """Bytes of a file, as it lies on disk. Raises DataError where it vanished."""
    with io_errors_as_data_errors(path):
        return path.stat().st_size


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its folders, in the order of their paths."""
    return sorted(path for path in folder.glob("**/*") if path.is_file())


@contextmanager
def io_errors_as_data_errors(path: Path) -> Iterator[None]:
    """Turns an error that occurs while `path` is read into a DataError of one line."""
    try:
        yield
    except UNPACKING_ERRORS as error:
        raise DataError(f"{path}: damaged or cut off ({error})") from None
    except OSError as error:
        if error.errno is None:  # libraries that unpack
            raise DataError(f"{path}: damaged or cut off ({error})") from None
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def detect_encoding(path: Path) -> Guess:
    """The encoding of a whole file. Raises DataError where it cannot be read."""
    with io_errors_as_data_errors(path), open_bytes(path) as file:
        return guess_encoding_of(iter(lambda: file.read(PIECE_CHARACTERS), b""))


def encoding_of(path: Path, named: str) -> str:
    """The encoding of a file: `named`; for `auto` that of its byte-order mark, utf-8 without one; for `detect` a guess.

    Raises DataError for a file that cannot be read.
    """
    if named not in (AUTO, DETECT):
        return named
    with io_errors_as_data_errors(path), open_bytes(path) as file:
        marked = marked_encoding(file.read(4))
    if marked is not None or named == AUTO:
        return marked or "utf-8"
    return detect_encoding(path).name


def decodes(path: Path, encoding: str) -> bool:
    """Whether all of a file is text in an encoding. Raises DataError where it cannot be read."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with io_errors_as_data_errors(path), open_bytes(path) as file:
            while data := file.read(PIECE_CHARACTERS):
                decoder.decode(data)
            decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True


class DecodingError(DataError):
    """A file is not text in the encoding with which it was read."""


class BinaryFileError(DataError):
    """A file is binary."""


def read_text(path: Path, encoding: str, skipped: Skipped) -> Iterator[str]:
    """The text of a file, in chunks of about a piece; newlines are kept as they are, a byte-order mark is left out.

    Where the encoding is `detect`, bytes that are not of the one that was guessed become U+FFFD, counted.

    Raises BinaryFileError for a file that is binary, DecodingError for one that is not text in `encoding`, and
    DataError for one that cannot be read or is cut off.
    """
    name = encoding_of(path, encoding)
    decoder = codecs.getincrementaldecoder(name)("replace" if encoding == DETECT else "strict")
    offset = 0
    with io_errors_as_data_errors(path), open_bytes(path) as file:
        while True:
            data = file.read(PIECE_CHARACTERS)
            if not offset and encoding in (AUTO, DETECT):
                _check_text(path, data, name)
            unfinished = len(decoder.getstate()[0])  # bytes of a character that the chunk before began
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = offset - unfinished + error.start
                byte = error.object[error.start]
                raise DecodingError(f"{path}: not {name}: byte 0x{byte:02x} at offset {at}") from None
            except UnicodeError as error:  # utf-16 without its mark
                raise DecodingError(f"{path}: not {name} ({error})") from None
            if encoding == DETECT:
                known = data.count(REPLACEMENT) if name == "utf-8" else 0
                for _ in range(text.count("\ufffd") - known):
                    skipped.bad(f"byte that is not {name}, read as U+FFFD", str(path))
            if text:
                yield text if offset else text.removeprefix("\ufeff")
            if not data:
                return
            offset += len(data)


def _check_text(path: Path, start: bytes, encoding: str) -> None:
    """Raises BinaryFileError where the first bytes are binary, DecodingError where they are utf-16 without a mark."""
    if encoding.startswith(("utf-16", "utf-32")):
        return
    if (wide := wide_encoding(start)) is not None:
        raise DecodingError(f"{path}: not {encoding}: it has the bytes of NUL of {wide}")
    if (description := describe_binary(path, start)) is not None:
        raise BinaryFileError(f"{path}: {description}")


def describe_binary(path: Path, start: bytes) -> str | None:
    """What a file that is not text seems to be by its first bytes, and how it can be read; None for text."""
    description = binary(start)
    return f"{description}; {unpack_advice(path, 'tarfile')}" if description == "a tar archive" else description
