"""Rows of CSV, JSONL and Parquet, and lines of text, with their numbers; memory does not grow with the file.

A row that cannot be used is reported to an `OnBadRow` and left out, so that it does not stop a file of gigabytes.
"""

import csv
import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Self

from nanogrove.data.sources.contract import OnBadRow, Row, SelectColumns
from nanogrove.data.sources.files import encoding_of, io_errors_as_data_errors, open_bytes
from nanogrove.data.sources.pieces import PIECE_CHARACTERS
from nanogrove.errors import DataError, nearest

MAX_LINE_CHARACTERS = 1 << 24  # of a line, or of all lines of one CSV row; longer ones are left out
STRING_OVERHEAD_BYTES = 64  # of a string besides its characters, so that many short lines do not count as nothing
PARQUET_ROWS_PER_BATCH = 64  # in memory at a time
COLUMNS_IN_MESSAGE = 20
OPEN_QUOTE = "left open by a quote"


def check_columns(names: Sequence[str], available: Sequence[str], advice: str = "") -> list[str]:
    """Returns the same names. Raises DataError for a column that is missing, with the nearest, or that exists twice."""
    for name in names:
        count = available.count(name)
        if count > 1:
            raise DataError(f"column {name!r} is there {count} times; rename all but one")
        if not count:
            short = [column for column in available[:1000] if len(column) < 100]
            near = nearest(name, short, count=3, show=repr)
            shown = ", ".join(repr(column[:100]) for column in available[:COLUMNS_IN_MESSAGE]) or "none"
            more = f" and {len(available) - COLUMNS_IN_MESSAGE} more" if len(available) > COLUMNS_IN_MESSAGE else ""
            hint = f"; {near}" if near else ""
            raise DataError(f"no column {name!r}; there are {shown}{more}{hint}{advice}")
    return list(names)


def inner_suffix(path: Path) -> str:
    """The ending of a name, below .gz and .zst: `.csv` of `a.csv.gz`."""
    return (path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path).suffix.lower()


def csv_rows(
    path: Path, encoding: str, delimiter: str | None, select: SelectColumns, on_bad: OnBadRow
) -> Iterator[Row]:
    """Rows with the numbers of their first lines, and the columns that `select` chooses from the header.

    A delimiter of None is a tab in a .tsv, else a comma. Raises DataError for a file that cannot be read, is cut off
    or has no usable header, and as `select` does.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARACTERS))  # of the process; 131072 by default
    if delimiter is None:
        delimiter = "\t" if inner_suffix(path) == ".tsv" else ","
    with _opened(path, encoding) as (file, name):
        lines = _CsvLines(file, name)
        reader = csv.reader(lines, delimiter=delimiter)
        header: list[str] = []
        chosen: list[tuple[str, int]] = []
        while True:
            first = lines.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (_TooLong, csv.Error) as error:
                cells = []
                lines.fault = lines.fault or str(error)
            if lines.ended:  # the reader asked for a line after the last one
                lines.fault = OPEN_QUOTE
            if lines.fault == OPEN_QUOTE:
                lines.put_back(first)
            fault = lines.fault
            if not cells and not fault:
                continue
            if not header:
                if fault:
                    raise DataError(f"{path}: the header, line {first}, is {fault}")
                header = cells
                with prefix_errors(path):
                    chosen = [(column, header.index(column)) for column in select(header)]
                continue
            if not fault and len(cells) != len(header):
                fault = f"ragged: too {'few' if len(cells) < len(header) else 'many'} cells"
            if fault:
                on_bad(fault, first)
            else:
                yield first, {column: cells[at] for column, at in chosen}


class _TooLong(Exception):  # noqa: N818  it never leaves this file
    pass


class _CsvLines:
    """Lines for `csv.reader`, which asks for as many as a row has.

    A quote left open swallows the lines that follow, to the file's end or until MAX_LINE_CHARACTERS. Then the row's
    first line is left out and the others are read again, but none more than twice, since a file of open quotes would
    otherwise take time that grows with the square of its length.
    """

    def __init__(self, file: TextIOWrapper, encoding: str) -> None:
        self.fresh, self.encoding = _lines(file), encoding
        self.again: deque[str | None] = deque()
        self.row: list[str] = []
        self.size = self.number = 0  # of the row; of the line given last
        self.repeated = 0  # lines up to this number have been put back
        self.fault: str | None = None
        self.ended = False

    def __iter__(self) -> Self:
        return self

    def begin(self) -> int:
        """Forgets the last row and returns the number of the line at which the next one begins."""
        self.row, self.size, self.fault, self.ended = [], 0, None, False
        return self.number + 1

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.fresh, "")
        if line == "":
            self.ended = bool(self.row)
            raise StopIteration
        self.size += len(line or "") + STRING_OVERHEAD_BYTES
        if self.row and (line is None or self.size > MAX_LINE_CHARACTERS):
            self.again.appendleft(line)
            self.fault = OPEN_QUOTE
            raise _TooLong
        self.number += 1
        self.fault = self.fault or _fault(line, self.encoding)
        if line is None:
            raise _TooLong
        self.row.append(line)
        return line

    def put_back(self, first: int) -> None:
        """Puts back the lines of the row that began at `first`, except that one and any that were put back before."""
        start = max(first, self.repeated) + 1
        self.repeated = max(self.number, self.repeated)
        if start <= self.number:
            self.again.extendleft(reversed(self.row[start - first :]))
            self.number = start - 1


def text_lines(path: Path, encoding: str, on_bad: OnBadRow) -> Iterator[tuple[int, str]]:
    """Lines with their numbers. Raises DataError for a file that cannot be read or is cut off."""
    with _opened(path, encoding) as (file, name):
        for number, line in enumerate(_lines(file), start=1):
            if fault := _fault(line, name):
                on_bad(fault, number)
            else:
                assert line is not None
                yield number, line


def jsonl_rows(path: Path, encoding: str, on_bad: OnBadRow) -> Iterator[Row]:
    """The objects of a file of JSON lines, with the numbers of the lines. NaN is let through, as Python writes it.

    Raises DataError for a file that cannot be read or is cut off.
    """
    for number, line in text_lines(path, encoding, on_bad):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
            sound = not ("\\ud" in line or "\\uD" in line) or encodes(json.dumps(row, ensure_ascii=False))
        except RecursionError:
            on_bad("nested too deep", number)
        except ValueError:  # JSONDecodeError is one, and a number of thousands of digits is another
            on_bad("broken JSON", number)
        else:
            if not isinstance(row, dict):
                on_bad("no JSON object", number)
            elif not sound:
                on_bad("not utf-8", number)
            else:
                yield number, row


def parquet_rows(path: Path, select: SelectColumns, on_bad: OnBadRow) -> Iterator[Row]:
    """Rows with their numbers from 1, of the columns that `select` chooses; others are not read.

    Raises DataError for a file that cannot be read or is not Parquet, where pyarrow is missing, and as `select` does.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow; pip install 'nanogrove[data]'") from None
    number = 0
    try:
        # By default pyarrow would read all of a column in a row group at once.
        with ParquetFile(path, buffer_size=PIECE_CHARACTERS, pre_buffer=False) as file:
            with prefix_errors(path):
                names = list(select(file.schema_arrow.names))
            for batch in file.iter_batches(PARQUET_ROWS_PER_BATCH, columns=names):
                for row in _python(batch):
                    number += 1
                    if isinstance(row, str):
                        on_bad(row, number)
                    else:
                        yield number, row
    except (ArrowException, OSError, ValueError, KeyError, OverflowError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        reason = str(error).split("\n")[0]
        raise DataError(f"{path}: not Parquet, or damaged after row {number} ({reason})") from None


def _python(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; in place of a row that Python cannot represent, the reason."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # bytes that are not text, a date of the year 300000
        for at in range(batch.num_rows):
            try:
                row: dict[str, Any] = batch.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "not utf-8"
            except (ValueError, OverflowError):
                yield "out of range"
            else:
                yield row


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[tuple[TextIOWrapper, str]]:
    """A file as text, and the name of its encoding. Bytes that cannot be decoded become half a surrogate pair."""
    name = encoding_of(path, encoding)
    # UTF-16 has no character for a single undecodable byte, but half a pair can be passed on.
    errors = "surrogatepass" if name.lower().startswith(("utf-16", "utf-32")) else "surrogateescape"
    with io_errors_as_data_errors(path), open_bytes(path) as file:
        try:
            text = TextIOWrapper(file, name, errors, newline="")
        except (LookupError, ValueError):
            raise DataError(f"{path}: unknown encoding {encoding!r}; utf-8 and latin-1 are common") from None
        try:
            with text:
                yield text, name.removesuffix("-sig")
        except UnicodeError as error:
            raise DataError(f"{path}: not {name} ({error}); if it has another encoding, name it") from None


def _lines(file: TextIOWrapper) -> Iterator[str | None]:
    """The lines, None for one longer than MAX_LINE_CHARACTERS; a byte-order mark is left out."""
    line = file.readline(MAX_LINE_CHARACTERS + 1).removeprefix("\ufeff")
    while line:
        if len(line) > MAX_LINE_CHARACTERS:
            while line and line[-1] not in "\r\n":
                line = file.readline(PIECE_CHARACTERS)
            yield None
        else:
            yield line
        line = file.readline(MAX_LINE_CHARACTERS + 1)


def _fault(line: str | None, encoding: str) -> str | None:
    """The reason why a line cannot be used; None where it can."""
    if line is None:
        return "too long"
    if "\0" in line:
        return "binary: it has a NUL"
    return None if encodes(line) else f"not {encoding}"


def encodes(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which no file and no tokenizer takes."""
    if text.isascii():  # Python knows this without a look at the characters
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def prefix_errors(path: Path | str) -> Iterator[None]:
    """Puts the path before an error about columns."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
