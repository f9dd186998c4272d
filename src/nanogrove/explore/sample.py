"""Samples the documents that training would see from files, and estimates how much they hold in all.

Of text files (text, CSV, JSON lines), spread evenly over a folder, the first bytes are read, `SAMPLE_SIZE` in all; of
other files as much text. Rows and documents are read as the sources read them, so what is left out here is left out in
training. The rest is estimated by bytes.
"""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median

from nanogrove.data.sources.contract import Row, SourceKind, TableSource
from nanogrove.data.sources.files import BOMS
from nanogrove.data.sources.kinds import make_source
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.sources.rows import inner_suffix
from nanogrove.data.sources.tables import Columns, row_pieces
from nanogrove.errors import DataError
from nanogrove.explore.columns import Choice, Column, choose, examine
from nanogrove.explore.guess import (
    PACKED,
    START_BYTES,
    Chosen,
    Guess,
    Head,
    guess_delimiter,
    guess_encoding,
    head,
    line_density,
)

SAMPLE_SIZE = 1 << 24  # bytes, or characters of files that are not text
MAX_ROWS, MAX_CELLS = 50_000, 1 << 20  # of a table
MAX_FILES = 1000
MAX_SLOW_FILES, SLOW_SECONDS = 12, 5.0  # of documents that are neither text nor rows, such as PDF
SEPARATORS = ("<|endoftext|>", "\n---\n", "\n***\n", "\n===\n", "\n\n\n", "\n\n")


@dataclass
class Sample:
    """The documents that were read, and estimates for all files."""

    texts: list[str]
    complete: list[bool]  # of each text, whether it is a whole document
    lengths: list[float]  # characters of each document, also of what was not read of it
    documents: float  # in all files
    whole: bool  # whether all was read
    looked_at: int  # files that were sampled
    characters: float = 0  # in all files
    encoding: Guess | None = None
    delimiter: tuple[str, str] | None = None  # of a CSV, and why
    columns: list[Column] = field(default_factory=list)
    choice: Choice | None = None
    rows: int = 0  # of a table, in the sample
    all_rows: float = 0  # of a table, in all files
    notes: list[str] = field(default_factory=list)


def take(chosen: Chosen, sizes: Mapping[Path, int], skipped: Skipped) -> Sample:
    """A sample of the files. Raises DataError for what cannot be read, and for a table without rows."""
    files = [file for file in chosen.files if sizes[file]]
    if not files:
        raise DataError(f"{chosen.source['path']}: empty; there is nothing to train on")
    if chosen.kind.table is not None:
        return _table(chosen, evenly(files, MAX_FILES), sizes, skipped)
    if chosen.kind.encoded:
        return _text(chosen, evenly(files, MAX_FILES), sizes)
    return _slow_documents(chosen.kind, evenly(files, MAX_SLOW_FILES), sizes, skipped)


def evenly(files: list[Path], most: int) -> list[Path]:
    """At most so many of the files, spread evenly."""
    return [files[n * len(files) // most] for n in range(most)] if len(files) > most else files


def _text(chosen: Chosen, files: list[Path], sizes: Mapping[Path, int]) -> Sample:
    heads = [head(file, max(SAMPLE_SIZE // len(files), 1)) for file in files]
    guess, notes = _one_encoding(files, heads)
    if "damaged" in guess.why:
        raise DataError(f"{files[0]}: utf-8, but {guess.why}; mend it, as with iconv -c -f utf-8 -t utf-8")
    texts = [_decoded(one, guess) for one in heads]
    lengths = [len(text) * one.total / max(len(one.data), 1) for text, one in zip(texts, heads, strict=True)]
    scale = _scale(files, sizes)
    if len(chosen.files) == 1:
        notes += _may_be_several(texts[0], lengths[0])
    if texts[0].lstrip()[:1] == "[" and files[0].suffix == ".json":
        notes.append("JSON in one piece is read as plain text; for rows, write an object a line: jq -c '.[]'")
    root = Path(str(chosen.source["path"])).expanduser()
    hidden = [file for file in chosen.files if root in file.parents and "/." in f"/{file.relative_to(root)}"]
    if hidden:
        notes.append(f"{len(hidden):,} of the files are hidden or in hidden folders, such as {hidden[0]}")
    complete = [one.whole for one in heads]
    documents = sum(sizes[file] > 0 for file in chosen.files)
    sample = Sample(texts, complete, lengths, documents, scale == 1 and all(complete), len(files))
    sample.characters, sample.encoding, sample.notes = sum(lengths) * scale, guess, notes
    return sample


def _scale(files: Sequence[Path], sizes: Mapping[Path, int]) -> float:
    """The bytes of all files, as a multiple of those of these files."""
    return sum(sizes.values()) / sum(sizes[file] for file in files)


def _one_encoding(files: list[Path], heads: list[Head]) -> tuple[Guess, list[str]]:
    """The encoding of most of the files that are not ASCII alone, and a note where others differ."""
    guesses = [guess_encoding(one.data, one.whole) for one in heads]
    telling = [guess for guess in guesses if guess.why != "ASCII alone"] or guesses
    options = [guess.option for guess in telling]
    best = next(guess for guess in telling if guess.option == max(options, key=options.count))
    odd = [n for n, guess in enumerate(guesses) if guess in telling and guess.option != best.option]
    if not odd:
        return best, []
    return best, [
        f"{len(odd)} of the files are not {best.name}, such as {files[odd[0]]} ({guesses[odd[0]].name}); a source has "
        "one encoding, so move them to a source of their own"
    ]


def _codec(data: bytes, guess: Guess | None) -> str:
    marked = next((name for mark, name in BOMS.items() if data.startswith(mark)), "utf-8")
    return (guess and guess.option) or marked


def _decoded(one: Head, guess: Guess | None) -> str:
    """The text of a head; a character that its end cuts is left out."""
    text = one.data.decode(_codec(one.data, guess), "replace").removeprefix("\ufeff")
    return text if one.whole else text.rstrip("\ufffd")


def _may_be_several(text: str, length: float) -> list[str]:
    """A note on a separator that would cut a single text into documents; empty where none is likely."""
    lines = "\r\n" if "\r\n" in text else "\n"
    for separator in SEPARATORS:
        separator = separator.replace("\n", lines)
        count = text.count(separator)
        if count >= (100 if separator.isspace() else 10):
            parts = [len(part) for part in text.split(separator) if part]
            shown = separator.replace("\r", "\\r").replace("\n", "\\n")
            return [
                f'all is one document; the separator "{shown}" would cut it into about '
                f"{len(parts) * length / len(text):,.0f}, of {median(parts):,.0f} characters (median)"
            ]
    return []


def _slow_documents(kind: SourceKind, files: list[Path], sizes: Mapping[Path, int], skipped: Skipped) -> Sample:
    """The documents of files that take long to open, as many as SLOW_SECONDS allow."""
    texts, complete, read = list[str](), list[bool](), list[Path]()
    until = time.monotonic() + SLOW_SECONDS
    for file in files:
        text, whole = "", True
        pieces = make_source({"type": kind.name, "path": str(file)}).pieces(skipped)
        for piece in pieces:
            text += piece.text
            if sum(map(len, texts)) + len(text) >= SAMPLE_SIZE or time.monotonic() > until:
                whole = next(pieces, None) is None
                break
        read.append(file)
        if text:
            texts.append(text)
            complete.append(whole)
        if not whole or time.monotonic() > until:
            break
    scale = _scale(read, sizes)
    notes = [] if all(complete) else [f"a {kind.label} was not read to its end, so it holds more than is shown"]
    lengths, documents = [float(len(text)) for text in texts], len(texts) * len(sizes) / len(read)
    sample = Sample(texts, complete, lengths, documents, scale == 1 and all(complete), len(read), notes=notes)
    sample.characters = sum(lengths) * scale
    return sample


class _TableReader:
    """Reads the rows of a table's files as its source does, all columns, and notes which columns each file has."""

    def __init__(self, kind: SourceKind, guess: Guess | None, delimiter: str | None, skipped: Skipped) -> None:
        assert kind.table is not None
        self.make, self.skipped = kind.table, skipped
        self.options: dict[str, str] = {}
        if guess is not None and guess.option:
            self.options["encoding"] = guess.option
        if delimiter is not None:
            self.options["delimiter"] = delimiter
        self.headers: dict[Path, list[str]] = {}

    def rows(self, file: Path) -> Iterator[Row]:
        def every_column(header: Sequence[str]) -> Sequence[str]:
            self.headers[file] = list(header)
            return list(dict.fromkeys(header))

        return self.source(file).rows(file, every_column, self.skipped)

    def count_rows(self, file: Path, first: list[Row], end: int | None) -> int:
        """How many rows a file has, of which the first were read, all of them where `end` is None."""
        return len(first) if end is None else self.source(file).count_rows(file)

    def source(self, file: Path) -> TableSource:
        return self.make(path=str(file), **self.options)

    def location(self, file: Path, number: int) -> str:
        return self.source(file).location(file, number)


def _table(chosen: Chosen, files: list[Path], sizes: Mapping[Path, int], skipped: Skipped) -> Sample:
    """The rows of a table, what its columns hold, and the texts they make."""
    guess, delimiter, notes, heads = None, None, list[str](), list[Head]()
    if chosen.kind.encoded:
        heads = [head(file, max(SAMPLE_SIZE // len(files), 1)) for file in files]
        guess, notes = _one_encoding(files, heads)
    if chosen.kind.delimited:
        start = _decoded(heads[0]._replace(data=heads[0].data[:START_BYTES], whole=False), guess)
        delimiter = guess_delimiter(start, "\t" if inner_suffix(files[0]) == ".tsv" else ",")
    reader = _TableReader(chosen.kind, guess, delimiter and delimiter[0], skipped)
    rows, locations = list[Mapping[str, object]](), list[str]()
    whole, read, total = True, 0.0, 0.0  # bytes, or rows of files that are not text
    began, spread = 0.0, 0.0  # lines that files would have by their beginnings, and by parts all over them
    for number, file in enumerate(files):
        text = _decoded(heads[number], guess) if heads and not heads[number].whole else None
        first, end = _first_rows(reader.rows(file), len(files), text)
        rows += [row for _, row in first]
        locations += [reader.location(file, line) for line, _ in first]
        whole = whole and end is None
        size = heads[number].total if heads else reader.count_rows(file, first, end)
        total += size
        if end is None:
            read += size
        elif heads:
            part = len(heads[number].data) * _share_before(text or _decoded(heads[number], guess), end)
            read += part
            if file.suffix not in PACKED and part:
                began += (end - 1) / part * size
                spread += line_density(file) * size
        else:
            read += len(first)
    if not rows:
        reasons = skipped.most_common()
        raise DataError(f"{chosen.source['path']}: no row that can be used ({reasons or 'there is none'})")
    scale = _scale(files, sizes) * total / max(read, 1)
    shorter = spread / began if spread else 1.0  # rows are, in all of the files than where they begin
    header = next(iter(reader.headers.values()), [])
    names = dict.fromkeys(header) | dict.fromkeys(name for row in rows for name in row)
    columns = [
        examine(name, [row[name] for row in rows if name in row], len(rows), header.count(name) < 2) for name in names
    ]
    choice = choose(columns)
    if odd := [name for name in header if chosen.kind.delimited and name.strip().replace(".", "", 1).isdigit()]:
        notes.append(f"the first line is taken for the names of columns, but {odd[0]!r} looks like data")
    needed = Columns(**choice.options).names
    if other := [file for file, header in reader.headers.items() if not set(needed) <= set(header)]:
        notes.append(f"{len(other)} of the files have other columns, such as {other[0]}; training would refuse them")
    texts = _rendered(rows, choice, skipped, locations)
    whole = whole and len(files) == sum(size > 0 for size in sizes.values())
    lengths = [float(len(text)) for text in texts] or [0.0]
    sample = Sample(texts, [True] * len(texts), lengths, len(texts) * scale * shorter, whole, len(files))
    sample.characters = sum(lengths) * scale
    sample.encoding, sample.delimiter, sample.columns, sample.choice = guess, delimiter, columns, choice
    sample.rows, sample.all_rows, sample.notes = len(rows), len(rows) * scale * shorter, notes
    return sample


def _first_rows(rows: Iterator[Row], files: int, text: str | None) -> tuple[list[Row], int | None]:
    """A file's share of the sample, and the number of the first row that was not taken; None where all were.

    `text` is the part of a longer file that was read: no row after it is read.
    """
    lines = None if text is None else sum(1 for _ in io.StringIO(text, newline=""))
    first, size, cells = list[Row](), 0, 0
    for number, row in rows:
        full = len(first) >= max(MAX_ROWS // files, 10) or size >= SAMPLE_SIZE // files or cells >= MAX_CELLS // files
        if full or (lines is not None and number >= lines):
            return first, number
        first.append((number, row))
        cells += len(row)
        size += sum(len(cell) if isinstance(cell, (str, bytes)) else 8 for cell in row.values())
    return first, None


def _share_before(text: str, line: int) -> float:
    """The share of a text that precedes a line."""
    return sum(map(len, islice(io.StringIO(text, newline=""), line - 1))) / max(len(text), 1)


def _rendered(rows: list[Mapping[str, object]], choice: Choice, skipped: Skipped, locations: list[str]) -> list[str]:
    """The text of each row that has all the columns."""
    columns = Columns(**choice.options)
    complete = list[Row]()
    for number, row in enumerate(rows):
        missing = next((name for name in columns.names if name not in row), None)
        if missing is None:
            complete.append((number, row))
        else:
            skipped.bad(f"without {missing!r}", locations[number])
    texts: list[str] = []
    for text, first in row_pieces(complete, columns, skipped, lambda number: locations[number]):
        if first:
            texts.append(text)
        else:
            texts[-1] += text
    return texts
