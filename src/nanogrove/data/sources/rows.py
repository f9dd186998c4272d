"""Rows of CSV and JSON lines, and lines of text, with their numbers; memory does not grow with the file.

A row that cannot be used is reported to an `OnBadRow` and left out, so that it does not stop a file of gigabytes.
"""

import codecs
import csv
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Self, TypeVar

from nanogrove.data.sources.contract import OnBadRow, Row, SelectColumns
from nanogrove.data.sources.dialect import Dialect, excel_delimiter
from nanogrove.data.sources.encodings import AUTO, DETECT
from nanogrove.data.sources.files import DecodingError, encoding_of, io_errors_as_data_errors
from nanogrove.data.sources.packing import open_bytes
from nanogrove.data.sources.pieces import PIECE_CHARACTERS
from nanogrove.errors import DataError, nearest

T = TypeVar("T")
MAX_LINE_CHARACTERS = 1 << 24  # of a line, or of all lines of one CSV row; longer ones are left out
STRING_OVERHEAD_BYTES = 64  # of a string besides its characters, so that many short lines do not count as nothing
COLUMNS_IN_MESSAGE = 20
TEXT_COLUMN = "text"  # of JSON values that are texts and no objects
NO_ROW = "neither an object nor a text"
HALF_PAIR = "nanogrove.half_pair"  # the name of `_half_pair` for codecs
CUT_OFF = "truncated data"  # the end of what decoders of utf-16 and utf-32 say
OPEN_QUOTE = "left open by a quote"
BACKSLASH = "a backslash before a quote amid a cell; set escape to a backslash where that makes it part of the cell"


def check_columns(names: Sequence[str], available: Sequence[str], advice: str = "") -> list[str]:
    """Returns the same names. Raises DataError for a column that is missing, with the nearest, or that exists twice."""
    counts = Counter(available)
    for name in names:
        count = counts[name]
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


def csv_rows(path: Path, encoding: str, dialect: Dialect, select: SelectColumns, on_bad: OnBadRow) -> Iterator[Row]:
    """Rows with the numbers of their first lines, and the columns that `select` chooses from the header.

    A first line `sep=;`, as Excel reads it, is left out, and names the delimiter. Raises DataError for a file that
    cannot be read, is cut off or has no usable header, and as `select` does.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARACTERS))  # of the process; 131072 by default
    with opened(path, encoding) as (file, name):
        lines = _CsvLines(file, name)
        dialect = _before_header(lines, dialect)
        reader = dialect.rows(lines)
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
            fault = lines.fault or _backslash_fault(lines.row, dialect)
            if not cells and not fault:
                continue
            if not header:
                if fault:
                    raise DataError(f"{path}: the header, line {first}, is {fault}")
                header = cells
                at = {column: number for number, column in reversed(list(enumerate(header)))}
                with prefix_errors(path):
                    chosen = [(column, at[column]) for column in select(header)]
                continue
            if len(cells) == len(header) + 1 > 2 and not cells[-1]:  # after a delimiter that ends the line
                cells.pop()
            if not fault and len(cells) != len(header):
                fault = f"ragged: too {'few' if len(cells) < len(header) else 'many'} cells"
            if fault:
                on_bad(fault, first)
            else:
                yield first, {column: cells[at] for column, at in chosen}


def _before_header(lines: "_CsvLines", dialect: Dialect) -> Dialect:
    """Passes the lines that precede the header; the dialect, with the delimiter that Excel's line names."""
    named = excel_delimiter(lines.peek() or "")
    for _ in range(dialect.skip_lines + (named is not None)):
        lines.begin()
        with suppress(_TooLong):
            next(lines, "")
    return dialect if named is None else replace(dialect, delimiter=named)


def _backslash_fault(lines: list[str], dialect: Dialect) -> str | None:
    """The fault of a row whose cells would be cut at quotes that a backslash escapes; None for another row."""
    if dialect.escape is not None or not any("\\" + dialect.quote in line for line in lines):
        return None
    try:
        for _ in dialect.rows(lines, strict=True):
            pass
    except csv.Error:
        return BACKSLASH
    return None


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

    def peek(self) -> str | None:
        """The first line, which is given again; None where it is too long."""
        line = next(self.fresh, "")
        if line != "":
            self.again.append(line)
        return line

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
    with opened(path, encoding) as (file, name):
        for number, line in enumerate(_lines(file), start=1):
            if fault := _fault(line, name):
                on_bad(fault, number)
            else:
                assert line is not None
                yield number, line


def jsonl_rows(path: Path, encoding: str, on_bad: OnBadRow) -> Iterator[Row]:
    """The rows of a file of JSON lines, with the numbers of the lines. NaN is let through, as Python writes it.

    Raises DataError for a file that cannot be read or is cut off.
    """
    for number, line in text_lines(path, encoding, on_bad):
        if line.isspace():
            continue
        try:
            value = with_long_numbers(partial(_decoded, line))
            sound = not ("\\ud" in line or "\\uD" in line) or encodes(json.dumps(value, ensure_ascii=False))
        except RecursionError:
            on_bad("nested too deep", number)
        except json.JSONDecodeError:
            on_bad("broken JSON", number)
        else:
            row = row_of(value)
            if row is None:
                on_bad(NO_ROW, number)
            elif not sound:
                on_bad("not utf-8", number)
            else:
                yield number, row


def row_of(value: object) -> Mapping[str, object] | None:
    """The row that a JSON value is: an object, or a text, which is a row of one column, `text`; None for others."""
    if isinstance(value, dict):
        return value
    return {TEXT_COLUMN: value} if isinstance(value, str) else None


def _decoded(line: str, decoder: json.JSONDecoder) -> object:
    return decoder.decode(line)


def _whole_number(digits: str) -> int | str:
    """A whole number; as a text, where it has more digits than Python reads."""
    try:
        return int(digits)
    except ValueError:
        return digits


DECODER, LONG_DECODER = json.JSONDecoder(), json.JSONDecoder(parse_int=_whole_number)  # the second is slower


def with_long_numbers(decode: Callable[[json.JSONDecoder], T]) -> T:
    """What `decode` makes of JSON with a decoder that it is given, of whole numbers of any length.

    Raises JSONDecodeError for what is not JSON, and RecursionError for what is nested too deep.
    """
    try:
        return decode(DECODER)
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        return decode(LONG_DECODER)


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[tuple[TextIOWrapper, str]]:
    """A file as text, and the name of its encoding. Bytes that cannot be decoded become half a surrogate pair."""
    name = encoding_of(path, encoding)
    errors = "surrogateescape"
    if name.lower().startswith(("utf-16", "utf-32")):  # in which a single undecodable byte has no character
        errors = HALF_PAIR if encoding in (AUTO, DETECT) else "surrogatepass"  # a named one may be wrong for all of it
    with io_errors_as_data_errors(path), open_bytes(path) as file:
        try:
            text = TextIOWrapper(file, name, errors, newline="")
        except (LookupError, ValueError):
            raise DataError(f"{path}: unknown encoding {encoding!r}; utf-8, cp1252 and latin-1 are common") from None
        try:
            with text:
                yield text, name.removesuffix("-sig")
        except UnicodeError as error:
            if encoding in (AUTO, DETECT) and str(error).endswith(CUT_OFF):  # a named one may be wrong
                raise DataError(
                    f"{path}: cut off in its last character, as {name}; copy it again, or save it anew as utf-8"
                ) from None
            raise DecodingError(f"{path}: not {name} ({error})") from None


def _half_pair(error: UnicodeError) -> tuple[str, int]:
    """Half a surrogate pair in the place of what cannot be decoded. Raises the error at the end of what is cut off."""
    if not isinstance(error, UnicodeDecodeError) or error.reason == CUT_OFF:
        raise error
    return "\udc80", error.end


codecs.register_error(HALF_PAIR, _half_pair)


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
