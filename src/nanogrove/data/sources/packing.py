"""Packed files (gzip, zstd, xz, bzip2, zip of one file), recognised by their first bytes and unpacked as they are read.

What unpacks to far more than text does is refused while it is read, so a small file can fill neither memory nor a disk.
"""

import bz2
import gzip
import io
import lzma
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from nanogrove.errors import DataError

READ_BYTES = 1 << 12  # at a time, where the position in a packed file has to be known
XZ_MEMORY_BYTES = 1 << 28  # that unpacking may take; files of `xz -9` need 65 MiB
MAX_RATIO, RATIO_FROM_BYTES = 200, 1 << 26  # of unpacked to packed bytes, and from which unpacked size on it counts
HIDDEN_FOLDER = "__MACOSX"  # in which macOS keeps what its archives say of a file besides its content


def is_hidden(parts: Sequence[str]) -> bool:
    """Whether a path of these parts is hidden: it or one of its folders begins with a dot, or is `__MACOSX`."""
    return any((part.startswith(".") and part not in (".", "..")) or part == HIDDEN_FOLDER for part in parts)


@dataclass(frozen=True)
class Packing:
    """A way to pack a file.

    Args:
        name: in messages
        ending: of a name, in lower case
        mark: the first bytes
        unpack: takes the packed file and its path, and returns the unpacked one
    """

    name: str
    ending: str
    mark: bytes
    unpack: Callable[[BinaryIO, Path], BinaryIO]


class _Bounded(io.RawIOBase):
    """Unpacked bytes; raises DataError where they become more than MAX_RATIO times the packed ones."""

    def __init__(self, file: BinaryIO, path: Path, packed_bytes: int) -> None:
        self.file, self.path, self.read_bytes = file, path, 0
        self.most = max(MAX_RATIO * packed_bytes, RATIO_FROM_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        self.read_bytes += len(data)
        if self.read_bytes > self.most:
            raise DataError(
                f"{self.path}: unpacks to more than {MAX_RATIO} times its size, as no usual text does; if that is "
                "right, unpack it and name the unpacked file"
            )
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


class _Xz(io.RawIOBase):
    """The bytes of an .xz file. Raises EOFError where it is cut off, and DataError above XZ_MEMORY_BYTES."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.stream: lzma.LZMADecompressor | None = _xz_stream()
        self.rest = b""  # packed bytes that follow the end of a stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self.stream is not None and len(buffer):
            packed = b""
            if self.rest or self.stream.needs_input:
                packed, self.rest = self.rest or self.file.read(io.DEFAULT_BUFFER_SIZE), b""
                if not packed:
                    raise EOFError("it ends within a stream")
            try:
                data = self.stream.decompress(packed, len(buffer))
            except lzma.LZMAError as error:
                if "emory" not in str(error):
                    raise
                raise DataError(
                    f"{self.path}: needs more than {XZ_MEMORY_BYTES >> 20} MB of memory to unpack; pack it anew with "
                    "xz -9 or less"
                ) from None
            if self.stream.eof:  # another stream, or padding of zeros, may follow
                rest = self.stream.unused_data.lstrip(b"\0")
                while not rest and (more := self.file.read(io.DEFAULT_BUFFER_SIZE)):
                    rest = more.lstrip(b"\0")
                self.rest = rest
                self.stream = _xz_stream() if rest else None
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0


def _xz_stream() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)


def _zstd(file: BinaryIO, path: Path) -> BinaryIO:
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{path}: .zst needs pyarrow; pip install 'nanogrove[data]'") from None
    return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd"))


def _zip(file: BinaryIO, path: Path) -> BinaryIO:
    """The one file of an archive, besides hidden ones."""
    with _zip_errors(path):
        archive = zipfile.ZipFile(file)
        names = _names(archive)
        if len(names) == 1:
            return cast(BinaryIO, archive.open(names[0]))
    raise DataError(f"{path}: {_archive(path, names)}")


def _names(archive: zipfile.ZipFile) -> list[str]:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    return [name for name in names if not is_hidden(name.strip("/").split("/"))]


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OverflowError, ValueError) as error:
        if isinstance(error, RuntimeError) and "encrypted" in str(error):
            raise DataError(f"{path}: an encrypted ZIP archive; unpack it, and name what it holds") from None
        raise DataError(f"{path}: a ZIP archive that is damaged or cannot be unpacked ({error})") from None


def _archive(path: Path, names: Sequence[str]) -> str:
    """What a ZIP archive of several files is, and how its text can be read."""
    for mark, description in ZIPPED.items():
        if any(name == mark or (mark.endswith("/") and name.startswith(mark)) for name in names):
            return f"{description}; save it as plain text, and name that"
    if not names:
        return "a ZIP archive without files"
    return f"a ZIP archive of {len(names)} files; {unpack_advice(path, 'zipfile')}"


def unpack_advice(path: Path, module: str) -> str:
    """How to unpack an archive by a module of Python's library, and what to name then."""
    folder = path.with_name(path.name.partition(".")[0] or "unpacked")
    while folder.exists():
        folder = folder.with_name(f"{folder.name}-unpacked")
    return f"unpack it with python -m {module} -e {_argument(path)} {_argument(folder)}, and name {folder}"


def _argument(path: Path) -> str:
    """A path as a shell takes it, and no program as an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


ZIPPED = {  # names of files in archives that are documents of other programs
    "word/document.xml": "a Word document",
    "xl/workbook.xml": "an Excel workbook",
    "ppt/presentation.xml": "a PowerPoint presentation",
    "META-INF/container.xml": "an EPUB book",
    "content.xml": "an OpenDocument file",
}
PACKINGS = (
    Packing("gzip", ".gz", b"\x1f\x8b\x08", lambda file, path: cast(BinaryIO, gzip.GzipFile(fileobj=file))),
    Packing("zstd", ".zst", b"\x28\xb5\x2f\xfd", _zstd),
    Packing("xz", ".xz", b"\xfd7zXZ\0", lambda file, path: cast(BinaryIO, _Xz(file, path))),
    Packing("bzip2", ".bz2", b"BZh", lambda file, path: cast(BinaryIO, bz2.BZ2File(file))),
    Packing("zip", ".zip", b"PK\x03\x04", _zip),
)
PACKED_ENDINGS = tuple(packing.ending for packing in PACKINGS)
UNPACKING_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
BZIP2_BLOCK = (b"1AY&SY", b"\x17rE8P\x90")  # of these two, one follows the mark and a digit


def packing_of(start: bytes) -> Packing | None:
    """How a file of these first bytes, 10 at least where it has them, is packed; None where it is not."""
    packing = next((packing for packing in PACKINGS if start.startswith(packing.mark)), None)
    if packing is not None and packing.ending == ".bz2" and not start[4:].startswith(BZIP2_BLOCK):
        return None
    return packing


def packing_at(path: Path) -> Packing | None:
    """How a file is packed; None where it is not. Raises OSError."""
    with path.open("rb") as file:
        return packing_of(file.read(16))


def unpacked_name(path: Path) -> str:
    """The name of what is packed, in small letters: `a.csv` of `a.csv.gz`; that of the one file of a ZIP archive."""
    name = path.name.lower()
    if name.endswith(".zip") and path.is_file() and zipfile.is_zipfile(path):
        with suppress(DataError, OSError), _zip_errors(path), zipfile.ZipFile(path) as archive:
            if len(names := _names(archive)) == 1:
                return Path(names[0]).name.lower()
    return _without_packing(name)


def _without_packing(name: str) -> str:
    return next((name.removesuffix(ending) for ending in PACKED_ENDINGS if name.endswith(ending)), name)


def ending_of(path: Path) -> str:
    """The ending of a name with that of its packing: `.csv.gz`; empty where there is none."""
    inner = _without_packing(path.name.lower())
    return Path(inner).suffix + path.name[len(inner) :].lower() if inner != path.name.lower() else path.suffix


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked. Raises DataError for what is packed and cannot be unpacked."""
    raw = path.open("rb")
    try:
        packing = packing_of(raw.read(16))
        raw.seek(0)
        if packing is None:
            return raw
        bounded = _Bounded(packing.unpack(raw, path), path, path.stat().st_size)
    except BaseException:
        raw.close()
        raise
    return _Closing(bounded, raw)


class _Closing(io.BufferedReader):
    """A buffer over an unpacked file that closes the packed one too."""

    def __init__(self, file: io.RawIOBase, raw: BinaryIO) -> None:
        super().__init__(file, 1 << 16)
        self.packed = raw

    def close(self) -> None:
        super().close()
        self.packed.close()


class Head(NamedTuple):
    """The first bytes of a file, unpacked, and its total size, which is an estimate where it is packed."""

    data: bytes
    total: float
    whole: bool


def head(path: Path, limit: int) -> Head:
    """At most `limit` first bytes of a file. Raises DataError where it cannot be unpacked, and OSError."""
    with path.open("rb") as raw:
        size = path.stat().st_size
        packing = packing_of(raw.read(16))
        raw.seek(0)
        if packing is None:
            data = raw.read(limit)
            whole = len(data) < limit or not raw.read(1)
            return Head(data, len(data) if whole else max(size, len(data)), whole)
        file, start, packed, unpacked = packing.unpack(cast(BinaryIO, _SmallReads(raw)), path), bytearray(), 0, 0
        while len(start) <= limit:
            before = raw.tell()
            more = file.read(READ_BYTES)
            if not more:
                return Head(bytes(start), len(start), True)
            if raw.tell() > before:  # all bytes read before have been unpacked
                packed, unpacked = before, len(start)
            start += more
        if not unpacked:
            packed, unpacked = raw.tell(), len(start)
        return Head(bytes(start[:limit]), size * unpacked / packed, False)


class _SmallReads(io.RawIOBase):
    """A file that gives little at a time, so that the library that unpacks it cannot read far ahead."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.file.read(min(len(buffer), READ_BYTES))
        buffer[: len(data)] = data
        return len(data)
