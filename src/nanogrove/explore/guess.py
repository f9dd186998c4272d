"""What a path names, by names and first bytes: kind of files, encoding of text, delimiter of tables, and why."""

import codecs
import csv
import glob
import gzip
import io
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from nanogrove.data.sources.files import BOMS, FileSource, open_bytes, reading
from nanogrove.data.sources.kinds import kind_of
from nanogrove.errors import DataError

SIP = 1 << 12
START = 1 << 16  # bytes that tell what a file is
PLACES, SLICE = 23, 1 << 17  # at which lines are counted, and bytes of each
ROWS = 100  # of a table that tell its delimiter
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
PACKED = (".gz", ".zst")
EVERY = "**/*"
TEXT_CONTROLS = b"\t\n\r\f\v\a\b\x1a\x1b"
BINARY = {  # what files begin with that hold no text
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
    """The files that are looked at, as a source, and how many others there are by ending."""

    kind: str  # text, csv, jsonl, parquet or pdf
    source: dict[str, Any]
    files: list[Path]
    others: list[tuple[str, int]]


def choose_files(path: str) -> Chosen:
    """A file, or those of the kind that has most bytes in a folder or pattern.

    Raises DataError where nothing can be read, saying what is there instead.
    """
    root = Path(path).expanduser()
    if root.is_file():
        start, kind = head(root, START).data, kind_of(path)
        found = kind_by_content(start)
        kind = found if found in ("pdf", "parquet") or (found and kind == "text") else kind
        if kind not in ("parquet", "pdf") and (said := binary(start)):
            raise DataError(f"{path}: {said}; explore reads text, CSV, JSON lines, Parquet and PDF")
        return Chosen(kind, {"type": kind, "path": path}, [root], [])
    if root.is_dir():
        with reading(root):
            next(root.iterdir(), None)  # a glob passes over what it may not read
    elif not glob.has_magic(path):
        raise DataError(f"{path}: " + ("neither a file nor a folder" if root.exists() else "no such file or folder"))
    try:
        files = FileSource(path=path).files()
    except DataError:
        raise DataError(f"{path}: " + ("holds no file" if root.is_dir() else "no file fits this pattern")) from None
    groups: dict[tuple[str, str | None], list[Path]] = {}
    for file in files:
        groups.setdefault(_group(file), []).append(file)
    reasons = []
    for group in sorted(groups, key=lambda group: -sum(file.stat().st_size for file in groups[group])):
        kind, said = _of_group(group[0], groups[group])
        if said or (group[1] == EVERY and len(groups) > 1):
            reasons.append(f"{len(groups[group])} {ending_of(groups[group][0])}, {said or 'which no glob can name'}")
            continue
        if len(groups) > 1 and not root.is_dir():
            raise DataError(f"{path}: names files of {len(groups)} kinds; give it an ending, such as {group[1]}")
        source = {"type": kind, "path": path}
        if root.is_dir() and group[1] is not None:
            source["glob"] = group[1]
        others = Counter(ending_of(file) for file in files)
        for file in groups[group]:
            others[ending_of(file)] -= 1
        return Chosen(kind, source, groups[group], [(e, n) for e, n in others.most_common() if n > 0])
    raise DataError(f"{path}: holds nothing that can be read as text ({'; '.join(reasons[:3])})")


def _group(file: Path) -> tuple[str, str | None]:
    """The type of source that reads a file of a folder, and the glob that finds its like, None for the usual one."""
    kind, ending = kind_of(file.name), "".join(file.suffixes[-2:] if file.suffix in PACKED else file.suffixes[-1:])
    if kind != "text" or ending == ".txt":
        return kind, None
    return kind, f"**/*{glob.escape(ending)}"


def ending_of(file: Path) -> str:
    """The ending of a name, that below .gz and .zst with it."""
    return "".join(file.suffixes[-2:] if file.suffix in PACKED else file.suffixes[-1:]) or "without an ending"


def _of_group(kind: str, files: list[Path]) -> tuple[str, str | None]:
    """The kind of a group by its largest files, and of what cannot be read what it seems to be."""
    largest = sorted(files, key=lambda file: -file.stat().st_size)[:3]
    if not largest[0].stat().st_size:
        return kind, "empty"
    if kind in ("parquet", "pdf"):
        return kind, None
    starts = [head(file, START).data for file in largest]
    if kind == "text" and {kind_by_content(start) for start in starts} == {"jsonl"}:
        return "jsonl", None
    return kind, next(filter(None, map(binary, starts)), None)


class Head(NamedTuple):
    """The first bytes of a file, unpacked; how many there are in all, about where it is packed."""

    data: bytes
    total: float
    whole: bool


def head(path: Path, limit: int) -> Head:
    """At most `limit` first bytes of a file. Raises DataError where it cannot be read."""
    with reading(path), path.open("rb") as raw:
        size = path.stat().st_size
        if path.suffix not in PACKED:
            data = raw.read(limit)
            whole = len(data) < limit or not raw.read(1)
            return Head(data, len(data) if whole else max(size, len(data)), whole)
        file, held, packed, unpacked = _unpacked(path, raw), bytearray(), 0, 0
        while len(held) <= limit:
            before = raw.tell()
            more = file.read(SIP)
            if not more:
                return Head(bytes(held), len(held), True)
            if raw.tell() > before:  # all that was taken in has been given out
                packed, unpacked = before, len(held)
            held += more
        if not unpacked:
            packed, unpacked = raw.tell(), len(held)
        return Head(bytes(held[:limit]), size * unpacked / packed, False)


def line_density(path: Path) -> float:
    """Line ends a byte, in places spread over all of a file: its beginning may have shorter lines than its end."""
    size, found = path.stat().st_size, 0
    with reading(path), path.open("rb") as file:
        for place in range(PLACES):
            file.seek(place * max(size - SLICE, 0) // (PLACES - 1))
            found += file.read(SLICE).count(b"\n")
    return found / (PLACES * min(SLICE, size))


def _unpacked(path: Path, raw: BinaryIO) -> BinaryIO:
    """The file as `open_bytes` opens it, but over `raw`, whose position tells how much was unpacked, about."""
    if path.suffix == PACKED[0]:
        return cast(BinaryIO, gzip.GzipFile(fileobj=_Sips(raw)))
    if path.suffix == PACKED[1]:
        open_bytes(path).close()  # says what is missing where pyarrow is
        import pyarrow

        return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.PythonFile(_Sips(raw), mode="r"), "zstd"))
    return raw


class _Sips(io.RawIOBase):
    """A file that gives little at a time, so that who unpacks it cannot read far ahead."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.file.read(SIP if size < 0 else min(size, SIP))


def kind_by_content(data: bytes) -> str | None:
    """`pdf`, `parquet` or `jsonl` where the first bytes say so."""
    if data.startswith(b"%PDF-"):
        return "pdf"
    if data.startswith(b"PAR1"):
        return "parquet"
    lines = [line for line in data.split(b"\n") if line.strip()][: ROWS + 1]
    lines = lines[:-1] or lines  # the last may be cut
    return "jsonl" if lines and all(_is_object(line) for line in lines) else None


def _is_object(line: bytes) -> bool:
    try:
        return line.lstrip().startswith(b"{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def binary(data: bytes) -> str | None:
    """What a file that is no text seems to be; None for text."""
    start = data[:START]
    if any(start.startswith(mark) for mark in BOMS) or _wide(start):
        return None
    controls = sum(map(start.count, (bytes([c]) for c in range(32) if c not in TEXT_CONTROLS)))
    if b"\0" not in start and controls <= 0.05 * len(start):
        return None
    return next((said for mark, said in BINARY.items() if start.startswith(mark)), "binary, of a kind not known here")


class Guess(NamedTuple):
    """An encoding, why, and what to set `encoding` to; None where `auto` reads it."""

    name: str
    why: str
    option: str | None


def guess_encoding(data: bytes, whole: bool = True) -> Guess:
    """The encoding of a text by its first bytes, of which the last character may be cut where they are not all."""
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
        high = sum(byte >= 128 for byte in data[:START])
        sound, broken = _utf8_characters(data)
        if sound > 10 * broken:
            return Guess("utf-8", f"damaged in {broken:,} places, the first at byte {error.start:,}", None)
        why = f"no utf-8: byte 0x{data[error.start]:02x} at {error.start:,}"
        letters = sum(chr(byte).isalpha() for byte in data[:START])
        if 3 * high > letters:
            why += "; most likely no Western text, so look at the example and name another if it is wrong"
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
    """Characters of several bytes, and places that are no utf-8."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return sum(not character.isascii() for character in text) - broken, broken


def _wide(data: bytes) -> str | None:
    """The encoding of text of 2 or 4 bytes a character and no mark, told by its NULs; None for other data."""
    data = data[:START]
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
    name = next((name for name, found in patterns.items() if found), None)
    if name is None:
        return None
    text = data[: 4 * size].decode(name, "replace")
    sound = sum(c.isprintable() or c in "\r\n\t" for c in text)
    return name if sound > 0.95 * len(text) else None


def guess_delimiter(text: str, usual: str) -> tuple[str, str]:
    """What stands between the cells of a table, and why; `usual` unless another cuts the rows better."""
    found: dict[str, tuple[float, int]] = {}
    lines = text.splitlines(keepends=True)[:-1] or [text]
    for delimiter in (usual, *(d for d in DELIMITERS if d != usual)):
        rows = _cells(lines, delimiter)
        if rows and len(rows[0]) > 1:
            found[delimiter] = (sum(len(row) == len(rows[0]) for row in rows) / len(rows), len(rows[0]))
    if not found:
        return usual, "the header has one column"
    best = max(found, key=lambda d: found[d])
    if found.get(usual, (0.0, 0))[0] >= 0.9 * found[best][0]:
        best = usual
    share, cells = found[best]
    return best, f"{cells} cells in the header and in {share:.0%} of the rows"


def _cells(lines: list[str], delimiter: str) -> list[list[Any]]:
    try:
        return [row for row in islice(csv.reader(lines, delimiter=delimiter), ROWS + 1) if row]
    except csv.Error:
        return []
