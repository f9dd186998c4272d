"""Guesses, with reasons, the kind of files at a path, the encoding of text and the delimiter of tables."""

import codecs
import csv
import glob
import gzip
import io
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from nanogrove.data.sources.contract import SourceKind
from nanogrove.data.sources.files import BOMS, FileSource, io_errors_as_data_errors, open_bytes
from nanogrove.data.sources.formats import FORMATS, format_of, readable_formats
from nanogrove.data.sources.text import TEXT
from nanogrove.errors import DataError

READ_BYTES = 1 << 12  # at a time, of a packed file
START_BYTES = 1 << 16  # of a file, by which its kind is recognized
DENSITY_SAMPLES, DENSITY_BYTES = 23, 1 << 17  # parts of a file whose lines are counted, and the size of each
DELIMITER_ROWS = 100  # of a table, by which its delimiter is guessed
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
PACKED = (".gz", ".zst")
ALL_FILES = "**/*"
TEXT_CONTROLS = b"\t\n\r\f\v\a\b\x1a\x1b"
BINARY = {  # first bytes of files that no source reads
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"PK": "a ZIP archive, as .docx, .xlsx and .epub are, too",
    b"\x1f\x8b": "packed by gzip, and its name does not end in .gz",
    b"\x28\xb5\x2f\xfd": "packed by zstd, and its name does not end in .zst",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x7fELF": "a program",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80": "a Python pickle",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"ARROW1": "an Arrow file",
    b"RIFF": "sound or video",
    b"OggS": "sound or video",
    b"ID3": "sound",
}


class Chosen(NamedTuple):
    """The files to describe, the settings of a source that reads them, and how many others exist, by ending."""

    kind: SourceKind
    source: dict[str, object]
    files: list[Path]
    others: list[tuple[str, int]]


def choose_files(path: str) -> Chosen:
    """The file at a path, or the files of the kind that has most bytes in a folder or pattern.

    Raises DataError, with what exists instead, where nothing can be read.
    """
    root = Path(path).expanduser()
    if root.is_file():
        start, kind = head(root, START_BYTES).data, format_of(path)
        recognized = format_by_content(start)
        if recognized is not None and (kind is TEXT or not recognized.encoded):
            kind = recognized
        if kind.encoded and (description := binary(start)):
            raise DataError(f"{path}: {description}; explore reads {readable_formats()}")
        return Chosen(kind, {"type": kind.name, "path": path}, [root], [])
    if root.is_dir():
        with io_errors_as_data_errors(root):
            next(root.iterdir(), None)  # raises where access is denied, which a glob passes over
    elif not glob.has_magic(path):
        raise DataError(f"{path}: " + ("neither a file nor a folder" if root.exists() else "no such file or folder"))
    try:
        files = FileSource(path=path).files()
    except DataError:
        raise DataError(f"{path}: " + ("holds no file" if root.is_dir() else "no file fits this pattern")) from None
    groups: dict[tuple[SourceKind, str | None], list[Path]] = {}
    for file in files:
        groups.setdefault(_group(file), []).append(file)
    reasons = []
    for group in sorted(groups, key=lambda group: -sum(file.stat().st_size for file in groups[group])):
        kind, reason = _check_group(group[0], groups[group])
        if reason or (group[1] == ALL_FILES and len(groups) > 1):
            reasons.append(f"{len(groups[group])} {ending_of(groups[group][0])}, {reason or 'which no glob can name'}")
            continue
        if len(groups) > 1 and not root.is_dir():
            raise DataError(f"{path}: names files of {len(groups)} kinds; give it an ending, such as {group[1]}")
        source: dict[str, object] = {"type": kind.name, "path": path}
        if root.is_dir() and group[1] is not None:
            source["glob"] = group[1]
        others = Counter(ending_of(file) for file in files)
        for file in groups[group]:
            others[ending_of(file)] -= 1
        return Chosen(kind, source, groups[group], [(e, n) for e, n in others.most_common() if n > 0])
    raise DataError(f"{path}: holds nothing that can be read as text ({'; '.join(reasons[:3])})")


def _group(file: Path) -> tuple[SourceKind, str | None]:
    """The kind of source that reads a file of a folder, and the glob of such files; None for the kind's usual one."""
    kind, ending = format_of(file.name), _ending(file)
    if kind is not TEXT or ending in TEXT.endings:
        return kind, None
    return kind, f"**/*{glob.escape(ending)}"


def ending_of(file: Path) -> str:
    """The ending of a name in words, with that before .gz and .zst."""
    return _ending(file) or "without an ending"


def _ending(file: Path) -> str:
    return "".join(file.suffixes[-2:] if file.suffix in PACKED else file.suffixes[-1:])


def _check_group(kind: SourceKind, files: list[Path]) -> tuple[SourceKind, str | None]:
    """The kind of a group by its largest files, and why it cannot be read, None where it can."""
    largest = sorted(files, key=lambda file: -file.stat().st_size)[:3]
    if not largest[0].stat().st_size:
        return kind, "empty"
    if not kind.encoded:
        return kind, None
    starts = [head(file, START_BYTES).data for file in largest]
    recognized = {format_by_content(start) for start in starts}
    if kind is TEXT and len(recognized) == 1 and (only := recognized.pop()) is not None and only.encoded:
        return only, None
    return kind, next(filter(None, map(binary, starts)), None)


class Head(NamedTuple):
    """The first bytes of a file, unpacked, and its total size, which is an estimate where it is packed."""

    data: bytes
    total: float
    whole: bool


def head(path: Path, limit: int) -> Head:
    """At most `limit` first bytes of a file. Raises DataError where it cannot be read."""
    with io_errors_as_data_errors(path), path.open("rb") as raw:
        size = path.stat().st_size
        if path.suffix not in PACKED:
            data = raw.read(limit)
            whole = len(data) < limit or not raw.read(1)
            return Head(data, len(data) if whole else max(size, len(data)), whole)
        file, start, packed, unpacked = _unpacked(path, raw), bytearray(), 0, 0
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


def line_density(path: Path) -> float:
    """Line ends per byte, in parts spread over all of a file: its beginning may have shorter lines than its end."""
    size, lines = path.stat().st_size, 0
    with io_errors_as_data_errors(path), path.open("rb") as file:
        for number in range(DENSITY_SAMPLES):
            file.seek(number * max(size - DENSITY_BYTES, 0) // (DENSITY_SAMPLES - 1))
            lines += file.read(DENSITY_BYTES).count(b"\n")
    return lines / (DENSITY_SAMPLES * min(DENSITY_BYTES, size))


def _unpacked(path: Path, raw: BinaryIO) -> BinaryIO:
    """The file as `open_bytes` opens it, but over `raw`, whose position tells how much was unpacked, about."""
    if path.suffix == PACKED[0]:
        return cast(BinaryIO, gzip.GzipFile(fileobj=_SmallReads(raw)))
    if path.suffix == PACKED[1]:
        open_bytes(path).close()  # says what is missing where pyarrow is
        import pyarrow

        return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(_SmallReads(raw), mode="r"), "zstd"))
    return raw


class _SmallReads(io.RawIOBase):
    """A file that gives little at a time, so that the library that unpacks it cannot read far ahead."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.file.read(READ_BYTES if size < 0 else min(size, READ_BYTES))


def format_by_content(start: bytes) -> SourceKind | None:
    """The format that the first bytes of a file are of; None where no format knows them."""
    return next((kind for kind in FORMATS if kind.recognize(start)), None)


def binary(data: bytes) -> str | None:
    """What a file that is not text seems to be; None for text."""
    start = data[:START_BYTES]
    if any(start.startswith(mark) for mark in BOMS) or _wide(start):
        return None
    controls = sum(map(start.count, (bytes([c]) for c in range(32) if c not in TEXT_CONTROLS)))
    if b"\0" not in start and controls <= 0.05 * len(start):
        return None
    return next((text for mark, text in BINARY.items() if start.startswith(mark)), "binary, of a kind not known here")


class Guess(NamedTuple):
    """An encoding, why, and what to set `encoding` to; None where `auto` reads it."""

    name: str
    why: str
    option: str | None


def guess_encoding(data: bytes, whole: bool = True) -> Guess:
    """The encoding of a text by its first bytes; where they are not the `whole`, the last character may be cut."""
    for mark, name in BOMS.items():
        if data.startswith(mark):
            return Guess(name.removesuffix("-sig"), "by its byte-order mark", None)
    if wide := _wide(data):
        return Guess(wide, "every other byte is NUL; no byte-order mark", wide)
    if data.isascii():
        return Guess("utf-8", "ASCII alone", None)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError as error:
        high = sum(byte >= 128 for byte in data[:START_BYTES])
        sound, broken = _utf8_characters(data)
        if sound > 10 * broken:
            spots = f"{broken:,} position{'' if broken == 1 else 's'}"
            return Guess("utf-8", f"damaged at {spots}, the first at byte {error.start:,}", None)
        why = f"not utf-8: byte 0x{data[error.start]:02x} at {error.start:,}"
        letters = sum(chr(byte).isalpha() for byte in data[:START_BYTES])
        if 3 * high > letters:
            why += "; most likely not Western text, so look at the example and name another if it is wrong"
        table = bytes(set(data))
        if any(0x80 <= byte < 0xA0 for byte in table):
            try:
                table.decode("cp1252")
                return Guess("cp1252", why, "cp1252")
            except UnicodeDecodeError:
                pass
        return Guess("latin-1", why, "latin-1")
    return Guess("utf-8", "it is valid", None)


def _utf8_characters(data: bytes) -> tuple[int, int]:
    """Characters of several bytes, and positions that are not utf-8."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return sum(not character.isascii() for character in text) - broken, broken


def _wide(data: bytes) -> str | None:
    """The encoding of text of 2 or 4 bytes per character without a mark, by its NULs; None for other data."""
    data = data[:START_BYTES]
    size = len(data) // 4
    if size < 2:
        return None
    nul = [data[at : 4 * size : 4].count(0) / size for at in range(4)]
    patterns = {
        "utf-32-le": min(nul[2:]) > 0.95 and nul[0] < 0.1,
        "utf-32-be": min(nul[:2]) > 0.95 and nul[3] < 0.1,
        "utf-16-le": min(nul[1::2]) > 0.4 and max(nul[::2]) < 0.1,
        "utf-16-be": min(nul[::2]) > 0.4 and max(nul[1::2]) < 0.1,
    }
    name = next((name for name, matches in patterns.items() if matches), None)
    if name is None:
        return None
    text = data[: 4 * size].decode(name, "replace")
    sound = sum(c.isprintable() or c in "\r\n\t" for c in text)
    return name if sound > 0.95 * len(text) else None


def guess_delimiter(text: str, usual: str) -> tuple[str, str]:
    """The delimiter of a table, and why: `usual` unless another makes more rows as long as the header."""
    matches: dict[str, tuple[float, int]] = {}  # share of rows of the header's length, and that length
    lines = text.splitlines(keepends=True)[:-1] or [text]
    for delimiter in (usual, *(d for d in DELIMITERS if d != usual)):
        rows = _cells(lines, delimiter)
        if rows and len(rows[0]) > 1:
            matches[delimiter] = (sum(len(row) == len(rows[0]) for row in rows) / len(rows), len(rows[0]))
    if not matches:
        return usual, "the header has one column"
    best = max(matches, key=lambda d: matches[d])
    if matches.get(usual, (0.0, 0))[0] >= 0.9 * matches[best][0]:
        best = usual
    share, cells = matches[best]
    return best, f"{cells} cells in the header and in {share:.0%} of the rows"


def _cells(lines: list[str], delimiter: str) -> list[list[str]]:
    try:
        return [row for row in islice(csv.reader(lines, delimiter=delimiter), DELIMITER_ROWS + 1) if row]
    except csv.Error:
        return []
