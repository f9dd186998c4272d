"""Samples the documents that training would see from files, and estimates how much they hold in all.

Of text files (text, CSV, JSON), spread evenly over a folder, the beginnings are read that the recogniser has read; of
other files as much text. Rows and documents are read as the sources read them, so what is left out here is left out in
training. The rest is estimated by bytes.
"""

import io
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median

from nanogrove.data.chat.conversations import BadConversationError, conversation_of
from nanogrove.data.sources import recognize as limits
from nanogrove.data.sources.contract import Row, SourceKind
from nanogrove.data.sources.files import io_errors_as_data_errors, size_of
from nanogrove.data.sources.kinds import make_source
from nanogrove.data.sources.packing import PACKED_ENDINGS, Head
from nanogrove.data.sources.pieces import Skipped, split_at_separators
from nanogrove.data.sources.recognize import Recognized, decoded, evenly
from nanogrove.data.sources.tables import Columns, row_pieces
from nanogrove.errors import DataError
from nanogrove.explore.columns import Choice, Column, choose, examine
from nanogrove.waits import waiting

MAX_ROWS, MAX_CELLS = 50_000, 1 << 20  # of a table
MAX_SLOW_FILES, SLOW_SECONDS = 12, 5.0  # of documents that are neither text nor rows, such as PDF
DENSITY_SAMPLES, DENSITY_BYTES = 23, 1 << 17  # parts of a file whose lines are counted, and the size of each
CHECKED_ROWS = 100  # after which a table without conversations is no longer searched for them
SEPARATORS = ("\n---\n", "\n***\n", "\n===\n", "\n\n\n", "\n\n")


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
    columns: list[Column] = field(default_factory=list)
    choice: Choice | None = None
    rows: int = 0  # of a table, in the sample
    all_rows: float = 0  # of a table, in all files
    question: str | None = None  # where most rows are conversations: what the user says first in the first one
    notes: list[str] = field(default_factory=list)


def take(chosen: Recognized, sizes: Mapping[Path, int], skipped: Skipped) -> Sample:
    """A sample of the files. Raises DataError for what cannot be read, and for a table without rows."""
    files = [file for file in chosen.files if sizes[file]]
    if not files:
        raise DataError(f"{chosen.source['path']}: empty; there is nothing to train on")
    for _ in range(chosen.hidden):
        skipped.unwanted("hidden file")
    if chosen.kind.table is not None:
        return _table(chosen, evenly(files, limits.MAX_FILES), sizes, skipped)
    if chosen.kind.encoded:
        return _text(chosen, sizes)
    return _slow_documents(chosen.kind, evenly(files, MAX_SLOW_FILES), sizes, skipped)


def _text(chosen: Recognized, sizes: Mapping[Path, int]) -> Sample:
    """The beginnings of files of text, cut into documents where a mark separates them."""
    marks = chosen.source.get("separator")
    separators = [marks] if isinstance(marks, str) else marks if isinstance(marks, list) else []
    texts, lengths, complete = list[str](), list[float](), list[bool]()
    documents = characters = 0.0
    for one, encoding in zip(chosen.heads, chosen.encodings, strict=True):
        text = decoded(one, encoding)
        length = len(text) * one.total / max(len(one.data), 1)
        parts = documents_of(text, separators) if separators else [text]
        texts += parts
        lengths += [float(len(part)) for part in parts] if separators else [length]
        complete += [True] * (len(parts) - 1) + [one.whole] * bool(parts)
        documents += len(parts) * length / max(len(text), 1)
        characters += length
    scale = _scale(chosen.sampled, sizes)
    if not separators:
        documents = sum(sizes[file] > 0 for file in chosen.files)
    sample = Sample(
        texts,
        complete,
        lengths,
        documents * (scale if separators else 1),
        scale == 1 and all(complete),
        len(chosen.heads),
    )
    sample.characters = characters * scale
    if len(chosen.files) == 1 and not separators:
        sample.notes += _may_be_several(texts[0], lengths[0])
    return sample


def documents_of(text: str, separators: Sequence[str]) -> list[str]:
    """The documents of a text, whole, as its source cuts them."""
    documents: list[str] = []
    for piece, first in split_at_separators(iter([text]), separators):
        if first:
            documents.append(piece)
        else:
            documents[-1] += piece
    return documents


def _scale(files: Sequence[Path], sizes: Mapping[Path, int]) -> float:
    """The bytes of all files, as a multiple of those of these files."""
    return sum(sizes.values()) / sum(sizes[file] for file in files)


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
    with waiting(f"reading {kind.label}", SLOW_SECONDS) as progress:
        for file in files:
            text, whole = "", True
            with closing(_parts(kind, file, skipped)) as parts:
                for part in parts:
                    text += part
                    progress.done = progress.seconds()
                    if sum(map(len, texts)) + len(text) >= limits.SAMPLE_BYTES or progress.done > SLOW_SECONDS:
                        whole = progress.done <= SLOW_SECONDS and next(parts, None) is None
                        break
            read.append(file)
            if text:
                texts.append(text)
                complete.append(whole)
            if not whole or progress.seconds() > SLOW_SECONDS:
                break
    scale = _scale(read, sizes)
    notes = [] if all(complete) else [f"a {kind.label} was not read to its end, so it holds more than is shown"]
    lengths, documents = [float(len(text)) for text in texts], len(texts) * len(sizes) / len(read)
    sample = Sample(texts, complete, lengths, documents, scale == 1 and all(complete), len(read), notes=notes)
    sample.characters = sum(lengths) * scale
    return sample


def _parts(kind: SourceKind, file: Path, skipped: Skipped) -> Generator[str, None, None]:
    """The text of a file as it is read."""
    if kind.texts is not None:
        yield from kind.texts(file, skipped)
    else:
        source = make_source({"type": kind.name, "path": str(file)})
        yield from (piece.text for piece in source.pieces(skipped))


class _TableReader:
    """Reads the rows of a table's files as its source does, all columns, and notes which columns each file has."""

    def __init__(self, chosen: Recognized, skipped: Skipped) -> None:
        assert chosen.kind.table is not None
        self.source, self.skipped = chosen.kind.table(**chosen.source), skipped
        self.headers: dict[Path, list[str]] = {}

    def rows(self, file: Path) -> Iterator[Row]:
        def every_column(header: Sequence[str]) -> Sequence[str]:
            self.headers[file] = list(header)
            return list(dict.fromkeys(header))

        return self.source.rows(file, every_column, self.skipped)

    def count_rows(self, file: Path, first: list[Row], end: int | None) -> int:
        """How many rows a file has, of which the first were read, all of them where `end` is None."""
        return len(first) if end is None else self.source.count_rows(file)


class _Rows:
    """The rows of a sample, where each is, and how much of the files they are."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, object]] = []
        self.locations: list[str] = []
        self.whole = True
        self.read = self.total = 0.0  # bytes, or rows of files that are not text
        self.began = self.spread = 0.0  # lines that files would have by their beginnings, and by parts all over them

    def add(self, reader: _TableReader, file: Path, files: int, text: str | None, start: Head | None) -> None:
        """Adds a file's share; `start` is its beginning, and `text` that as text, where the file is text."""
        part_of_file = text if start is not None and not start.whole else None
        first, end = _first_rows(reader.rows(file), files, part_of_file)
        self.rows += [row for _, row in first]
        location = reader.source.location
        self.locations += [location(file, line) for line, _ in first]
        self.whole = self.whole and end is None
        size = start.total if start is not None else reader.count_rows(file, first, end)
        self.total += size
        if end is None:
            self.read += size
        elif start is None:
            self.read += len(first)
        else:
            part = len(start.data) * _share_before(text or "", end)
            self.read += part
            if file.suffix.lower() not in PACKED_ENDINGS and part:
                self.began += (end - 1) / part * size
                self.spread += line_density(file) * size

    @property
    def shorter(self) -> float:
        """How many more rows files have in all of them than where they begin."""
        return self.spread / self.began if self.spread else 1.0


def _table(chosen: Recognized, files: list[Path], sizes: Mapping[Path, int], skipped: Skipped) -> Sample:
    """The rows of a table, what its columns hold, and the texts they make."""
    reader, taken = _TableReader(chosen, skipped), _Rows()
    starts = dict(zip(chosen.sampled, zip(chosen.heads, chosen.encodings, strict=True), strict=True))
    with waiting("reading rows", sum(sizes[file] for file in files)) as progress:
        for file in files:
            start, encoding = starts.get(file, (None, ""))
            taken.add(reader, file, len(files), None if start is None else decoded(start, encoding), start)
            progress.done += sizes[file]
    if not taken.rows:
        reasons = skipped.most_common()
        raise DataError(f"{chosen.source['path']}: no row that can be used ({reasons or 'there is none'})")
    header = next(iter(reader.headers.values()), [])
    columns = _columns(taken.rows, header)
    choice = choose(columns)
    notes = _table_notes(chosen, reader, header, choice)
    texts = _rendered(taken.rows, choice, skipped, taken.locations)
    scale = _scale(files, sizes) * taken.total / max(taken.read, 1)
    whole = taken.whole and len(files) == sum(size > 0 for size in sizes.values())
    lengths = [float(len(text)) for text in texts] or [0.0]
    sample = Sample(texts, [True] * len(texts), lengths, len(texts) * scale * taken.shorter, whole, len(files))
    sample.characters = sum(lengths) * scale
    sample.columns, sample.choice, sample.notes = columns, choice, notes
    sample.question = first_question(taken.rows)
    sample.rows, sample.all_rows = len(taken.rows), len(taken.rows) * scale * taken.shorter
    return sample


def first_question(rows: Sequence[Mapping[str, object]]) -> str | None:
    """What the user says first in the first conversation, where most rows are conversations; else None."""
    conversations = []
    for number, row in enumerate(rows, start=1):
        with suppress(BadConversationError):
            conversations.append(conversation_of(row))
        if 2 * len(conversations) <= number and number >= CHECKED_ROWS:
            return None
    if 2 * len(conversations) <= len(rows):
        return None
    return next(message["content"] for message in conversations[0] if message["role"] == "user")


def _columns(rows: Sequence[Mapping[str, object]], header: Sequence[str]) -> list[Column]:
    """What each column holds, of the header first; in one pass, since rows may have keys of their own each."""
    counts = Counter(header)
    cells: dict[str, list[object]] = {name: [] for name in header}
    for row in rows:
        for name, value in row.items():
            cells.setdefault(name, []).append(value)
    return [examine(name, values, len(rows), counts[name] < 2) for name, values in cells.items()]


def _table_notes(chosen: Recognized, reader: _TableReader, header: Sequence[str], choice: Choice) -> list[str]:
    notes = []
    if odd := [name for name in header if chosen.kind.delimited and name.strip().replace(".", "", 1).isdigit()]:
        notes.append(f"the first line is taken for the names of columns, but {odd[0]!r} looks like data")
    needed = set(Columns(**choice.options).names)
    if other := [file for file, names in reader.headers.items() if not needed <= set(names)]:
        notes.append(f"{len(other)} of the files have other columns, such as {other[0]}; training would refuse them")
    return notes


def line_density(path: Path) -> float:
    """Line ends per byte, in parts spread over all of a file: its beginning may have shorter lines than its end."""
    size, lines = size_of(path), 0
    with io_errors_as_data_errors(path), path.open("rb") as file:
        for number in range(DENSITY_SAMPLES):
            file.seek(number * max(size - DENSITY_BYTES, 0) // (DENSITY_SAMPLES - 1))
            lines += file.read(DENSITY_BYTES).count(b"\n")
    return lines / (DENSITY_SAMPLES * min(DENSITY_BYTES, size))


def _first_rows(rows: Iterator[Row], files: int, text: str | None) -> tuple[list[Row], int | None]:
    """A file's share of the sample, and the number of the first row that was not taken; None where all were.

    `text` is the part of a longer file that was read: no row after it is read.
    """
    lines = None if text is None else sum(1 for _ in io.StringIO(text, newline=""))
    first, size, cells = list[Row](), 0, 0
    for number, row in rows:
        full = (
            len(first) >= max(MAX_ROWS // files, 10)
            or size >= limits.SAMPLE_BYTES // files
            or cells >= MAX_CELLS // files
        )
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
    needed, complete = columns.names, list[Row]()
    for number, row in enumerate(rows):
        missing = next((name for name in needed if name not in row), None)
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
