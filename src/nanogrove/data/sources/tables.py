"""Sources whose documents are rows of a table, and `Columns`, which says how a row becomes a text."""

import json
import re
import shlex
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from nanogrove.data.sources.contract import OnBadRow, Row, SelectColumns, SourceKind
from nanogrove.data.sources.dialect import Dialect, excel_delimiter, guess_dialect
from nanogrove.data.sources.files import DecodingError, EncodedFiles, FileSource, Listing, encoding_of
from nanogrove.data.sources.json_values import holds_json_values, json_rows
from nanogrove.data.sources.messages import joined_messages
from nanogrove.data.sources.packing import PACKED_ENDINGS, ending_of, head, unpacked_name
from nanogrove.data.sources.parquet import parquet_rows
from nanogrove.data.sources.pieces import PIECE_CHARACTERS, Piece, Skipped, split_long_document
from nanogrove.data.sources.rows import check_columns, csv_rows, encodes, jsonl_rows, prefix_errors
from nanogrove.errors import DataError
from nanogrove.paths import expanded
from nanogrove.settings import Settings

LINES_BEFORE_MISNAMED = 100  # of JSON without the columns of the text, after which these are taken to be misnamed
START_BYTES = 1 << 16  # of a file, by which an error says what it is
MAX_RECOGNIZED_LINES = 100  # that are checked to recognize a file of JSON lines
ALL_FILES = "**/*"
FORMAT_PARTS = re.compile(r"(\{\{|\}\})|\{([^{}!:]+)\}|([{}])")  # of a format: an escape, a field, or a mistake


class Columns(Settings):
    """Which columns of a row make its text: one, or several on lines of their own, or several put into a format."""

    text_field: str | None = Field(None, description="column of the text; `text` when nothing is said")
    fields: list[str] | None = Field(None, min_length=1, description="columns that make the text, a line each")
    format: str | None = Field(None, min_length=1, description=r'how they make it, as in "Q: {question}\nA: {answer}"')

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.text_field is not None and (self.fields or self.format):
            raise ValueError("text_field is for one column alone; leave it out beside fields or format")
        named, used = self.fields or [], self.names
        if twice := [name for name in named if named.count(name) > 1]:
            raise ValueError(f"fields names {twice[0]!r} twice")
        if not used:
            raise ValueError("format has no field; name columns in it, as in {question}")
        if named and (single := sorted(set(used) ^ set(named))):
            raise ValueError(f"{single[0]!r} is in one of fields and format only; name it in both, or leave out fields")
        return self

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        if self.format is not None:
            return list(dict.fromkeys(name for _, name in _parts(self.format) if name))
        return self.fields or [self.text_field or "text"]

    def select(self, available: Sequence[str]) -> list[str]:
        """The columns to read of those available. Raises DataError where one is missing, or exists twice."""
        named = self.text_field or self.fields or self.format
        advice = "" if named else "; name one with text_field, or several with fields"
        return check_columns(self.names, available, advice)

    def render(self, row: Mapping[str, object]) -> str:
        """The text of a row; empty where all its columns are."""
        if self.format is not None:
            cells = {name: cell_text(row[name]) for name in self.names} | {"": ""}
            return "".join(text + cells[name] for text, name in _parts(self.format)) if any(cells.values()) else ""
        if self.fields:
            return "\n".join(filter(None, (cell_text(row[name]) for name in self.fields)))
        return cell_text(row[self.text_field or "text"])


@lru_cache
def _parts(format: str) -> list[tuple[str, str]]:
    """A format as literal texts, each with the name of the column that follows it; the last has none.

    Formats come from strangers, and `str.format` would let them reach into objects; here a name is only looked up.
    """
    parts, literal, end = [], "", 0
    for match in FORMAT_PARTS.finditer(format):
        literal += format[end : match.start()]
        end = match.end()
        escape, name, stray = match.groups()
        if stray:
            raise ValueError(f"format: {stray} is part of no column's {{name}}; write {stray * 2} for the sign itself")
        if escape:
            literal += escape[0]
        else:
            parts.append((literal, name))
            literal = ""
    return [*parts, (literal + format[end:], "")]


def cell_text(value: object) -> str:
    """A cell as text: empty for a missing one, which pandas writes as NaN; JSON for lists and objects.

    The messages of a chat are joined.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if (messages := joined_messages(value)) is not None:
        return messages
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)


def row_pieces(
    rows: Iterable[Row], columns: Columns, skipped: Skipped, location: Callable[[int], str]
) -> Iterator[Piece]:
    """Each row as a document; `location` says where the row of a number is. Empty ones are left out and counted."""
    for number, row in rows:
        try:
            text = columns.render(row)
        except RecursionError:
            skipped.bad("nested too deep", location(number))
            continue
        if not encodes(text):
            skipped.bad("not utf-8", location(number))
        elif not text or text.isspace():
            skipped.unwanted("empty")
        elif len(text) < PIECE_CHARACTERS:
            yield Piece(text, True)
        else:
            yield from split_long_document(
                text[at : at + PIECE_CHARACTERS] for at in range(0, len(text), PIECE_CHARACTERS)
            )


class TableFiles(FileSource, Columns):
    """Files whose rows are documents; a kind of table says how `rows` are read."""

    glob: str = Field(
        ALL_FILES, description="which files of a folder to read; those named as the type's are when left out"
    )
    endings: ClassVar[tuple[str, ...]]

    def listing(self) -> Listing:
        """The files to read. Raises DataError when there are none."""
        listing = super().listing()
        if self.glob != ALL_FILES or not expanded(self.path).is_dir():
            return listing
        files = [path for path in listing.files if path.name.lower().endswith(self.endings)]
        if not files:
            raise DataError(f"{self.path}: no file ends in {', '.join(self.endings)}; name others with glob")
        return listing._replace(files=files)

    def select(self, available: Sequence[str]) -> list[str]:
        """The columns to read of those available. Raises DataError where one is missing, or exists twice."""
        try:
            return super().select(available)
        except DataError as error:
            named = self.text_field or self.fields or self.format
            hint = "" if named else f"; or let `nanogrove explore {shlex.quote(self.path)}` choose, and write a preset"
            raise DataError(f"{error}{hint}") from None

    @abstractmethod
    def rows(self, path: Path, select: SelectColumns, skipped: Skipped) -> Iterator[Row]:
        """The rows of one file, of the columns that `select` chooses; counts those that cannot be read.

        Raises DataError for a file that cannot be read, and as `select` does.
        """

    def count_rows(self, path: Path) -> int:
        """How many rows a file has."""
        return sum(1 for _ in self.rows(path, list, Skipped()))

    def location(self, path: Path, number: int) -> str:
        """Where a row is, for a message."""
        return f"{path}, line {number}"

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        """Documents in order. Raises DataError for a file without the columns, or that cannot be read."""
        for path in self.counted_files(skipped):
            before, empty = skipped.counts.total(), True
            for piece in row_pieces(self._complete_rows(path, skipped), self, skipped, partial(self.location, path)):
                empty = False
                yield piece
            if empty and skipped.counts.total() == before:
                skipped.unwanted("file without rows")

    def _complete_rows(self, path: Path, skipped: Skipped) -> Iterator[Row]:
        """The rows that have all columns of the text."""
        return self.rows(path, self.select, skipped)

    def _on_bad(self, path: Path, skipped: Skipped) -> OnBadRow:
        """Counts a row of a file that cannot be used."""
        return lambda reason, number: skipped.bad(reason, self.location(path, number))


def with_packings(*endings: str) -> tuple[str, ...]:
    """Endings of names, alone and with that of each packing."""
    return tuple(ending + packed for packed in ("", *PACKED_ENDINGS) for ending in endings)


class EncodedTable(TableFiles, EncodedFiles):
    """A table of files of text."""

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        """Documents in order. Raises DataError for a file without the columns, or that cannot be read."""
        try:
            yield from super().pieces(skipped)
        except DecodingError as error:
            path = next(path for path in self.files() if str(error).startswith(f"{path}: "))
            raise DataError(f"{error}; {self.encoding_advice(path)}") from None

    def first_text(self, path: Path) -> str:
        """The beginning of a file. Raises DataError where it cannot be read."""
        name = encoding_of(path, self.encoding)
        return head(path, START_BYTES).data.decode(name, "replace").removeprefix("\ufeff")


class CsvSource(EncodedTable):
    """CSV with a header, plain or packed; a row is a document. A first line `sep=;` names the delimiter."""

    type: Literal["csv"] = "csv"
    delimiter: str | None = Field(
        None, pattern=r'^[^"\r\n\x00]$', description="between cells; a tab in a .tsv, else a comma, when left out"
    )
    quote: str | None = Field(
        None, pattern=r"^[^\r\n\x00]$", description='around cells that hold delimiters or line ends; " when left out'
    )
    escape: str | None = Field(
        None,
        pattern=r"^[^\r\n\x00]$",
        description="before a quote that is part of a cell; doubled quotes count too",
    )
    skip_lines: int | None = Field(None, ge=1, description="above the header, which are no rows")
    spaces: bool | None = Field(None, description="true: blanks that follow a delimiter are no part of a cell")
    endings: ClassVar[tuple[str, ...]] = with_packings(".csv", ".tsv")
    newer: ClassVar[frozenset[str]] = frozenset({"quote", "escape", "skip_lines", "spaces"})

    def rows(self, path: Path, select: SelectColumns, skipped: Skipped) -> Iterator[Row]:
        """The rows of one file, of the columns that `select` chooses. Raises DataError as `csv_rows` does."""
        delimiter, quote = self.delimiter or usual_delimiter(path), self.quote or '"'
        dialect = Dialect(delimiter, quote, self.escape, self.skip_lines or 0, bool(self.spaces))

        def selected(header: Sequence[str]) -> Sequence[str]:
            try:
                return select(header)
            except DataError as error:
                raise DataError(f"{error}{self._dialect_advice(path, dialect)}") from None

        return csv_rows(path, self.encoding, dialect, selected, self._on_bad(path, skipped))

    def _dialect_advice(self, path: Path, dialect: Dialect) -> str:
        """How to name the source where the file seems to have another dialect than `dialect`; else empty."""
        start = self.first_text(path)
        usual = excel_delimiter(start.partition("\n")[0]) or usual_delimiter(path)
        guess = guess_dialect(start, usual)
        if guess.dialect == replace(dialect, delimiter=self.delimiter or usual):
            return ""
        changes: dict[str, object] = {"delimiter": None, "quote": None, "escape": None}
        changes |= {"skip_lines": None, "spaces": None}
        changes |= guess.dialect.settings(usual)
        known = set(self.model_dump(exclude_defaults=True))
        kept = {key: value for key, value in changes.items() if value is not None or key in known}
        return f"; the file looks otherwise ({guess.why}): name the source as {self.restated(**kept)}"


def usual_delimiter(path: Path) -> str:
    """The delimiter that the name of a CSV file says."""
    return "\t" if unpacked_name(path).endswith(".tsv") else ","


class JsonTable(EncodedTable):
    """JSON whose objects are rows, so that each may lack columns."""

    def _complete_rows(self, path: Path, skipped: Skipped) -> Iterator[Row]:
        """The objects that have all columns of the text; others are counted.

        Raises DataError where no object has a column, or the first LINES_BEFORE_MISNAMED lack one.
        """
        lacking, known, complete = 0, dict[str, None](), False
        for number, row in self.rows(path, self.select, skipped):
            missing = [name for name in self.names if name not in row]
            if not missing:
                complete = True
                yield number, row
                continue
            lacking += 1
            if not complete:
                known |= dict.fromkeys(row)
            if skipped.refuse or (not complete and lacking == LINES_BEFORE_MISNAMED):
                with prefix_errors(f"{path}, line {number}"):
                    self.select(list(row if skipped.refuse else known))
            skipped.bad(f"without {missing[0]!r}", self.location(path, number))
        if lacking and not complete:
            with prefix_errors(path):
                self.select(list(known))


class JsonlSource(JsonTable):
    """Lines of JSON objects, plain or packed; an object is a document."""

    type: Literal["jsonl"] = "jsonl"
    endings: ClassVar[tuple[str, ...]] = with_packings(".jsonl", ".ndjson")

    def rows(self, path: Path, select: SelectColumns, skipped: Skipped) -> Iterator[Row]:
        """The objects of one file, all that they hold. Raises DataError as `jsonl_rows` does, and for other JSON."""
        count, checked = self._on_bad(path, skipped), False

        def on_bad(reason: str, number: int) -> None:
            nonlocal checked
            start = b"" if checked else self.first_text(path).encode("utf-8", "replace")
            if holds_json_values(start) and not holds_json_lines(start):
                named = {} if expanded(self.path).is_file() else {"glob": f"**/*{ending_of(path)}"}
                as_json = self.restated(type="json", **named)
                raise DataError(f"{path}: JSON, and not an object per line; name the source as {as_json}")
            checked = True
            count(reason, number)

        return jsonl_rows(path, self.encoding, on_bad)


class JsonSource(JsonTable):
    """JSON in one piece: an array, or objects one after the other; each object or text of it is a document."""

    type: Literal["json"] = "json"
    rows_in: str | None = Field(None, description="key of the list of rows, where the file is one object")
    endings: ClassVar[tuple[str, ...]] = with_packings(".json")

    def rows(self, path: Path, select: SelectColumns, skipped: Skipped) -> Iterator[Row]:
        """The objects of one file, all that they hold. Raises DataError as `json_rows` does."""
        return json_rows(path, self.encoding, self.rows_in, self._on_bad(path, skipped))


class ParquetSource(TableFiles):
    """Parquet; a row is a document, and only the columns of the text are read. Needs pyarrow."""

    type: Literal["parquet"] = "parquet"
    endings: ClassVar[tuple[str, ...]] = (".parquet",)

    def rows(self, path: Path, select: SelectColumns, skipped: Skipped) -> Iterator[Row]:
        """The rows of one file, of the columns that `select` chooses. Raises DataError as `parquet_rows` does."""
        return parquet_rows(path, select, self._on_bad(path, skipped))

    def count_rows(self, path: Path) -> int:
        """How many rows a file says it has."""
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as table:
            return int(table.metadata.num_rows)

    def location(self, path: Path, number: int) -> str:
        """Where a row is, for a message."""
        return f"{path}, row {number}"


def holds_json_lines(start: bytes) -> bool:
    """Whether most of the first lines of a file are JSON objects; some may be broken."""
    lines = [line for line in start.split(b"\n") if line.strip()][: MAX_RECOGNIZED_LINES + 1]
    lines = lines[:-1] or lines  # the last may be cut
    return bool(lines) and 2 * sum(map(_is_object, lines)) >= len(lines)


def _is_object(line: bytes) -> bool:
    try:
        return line.lstrip().startswith(b"{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


CSV = SourceKind(CsvSource, "CSV", CsvSource.endings, encoded=True, delimited=True, table=CsvSource)
JSONL = SourceKind(JsonlSource, "JSON lines", JsonlSource.endings, holds_json_lines, encoded=True, table=JsonlSource)
JSON = SourceKind(JsonSource, "JSON", JsonSource.endings, holds_json_values, encoded=True, table=JsonSource)
PARQUET = SourceKind(
    ParquetSource, "Parquet", ParquetSource.endings, lambda start: start.startswith(b"PAR1"), table=ParquetSource
)
