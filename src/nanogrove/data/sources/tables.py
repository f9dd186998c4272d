"""Sources whose documents are rows of a table, and `Columns`, which says how a row becomes a text."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanogrove.data.sources.base import PIECE, Piece, Problems, whole
from nanogrove.data.sources.files import FileSource
from nanogrove.data.sources.rows import Bad, Row, check_columns, csv_rows, encodes, jsonl_rows, naming, parquet_rows
from nanogrove.errors import DataError

SAMPLE = 100  # lines of JSON without the wanted columns, after which the columns are taken to be misnamed
EVERY = "**/*"
PARTS = re.compile(r"(\{\{|\}\})|\{([^{}!:]+)\}|([{}])")  # of a format: an escape, a field, or a mistake


class Columns(BaseModel):
    """Which columns of a row make its text: one, or several one below the other, or several put into a format."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    def wanted(self, there: Sequence[str]) -> list[str]:
        """The columns to read of those there. Raises DataError where one is missing, or is there twice."""
        said = self.text_field or self.fields or self.format
        return check_columns(self.names, there, "" if said else "; name one with text_field, or several with fields")

    def render(self, row: Mapping[str, Any]) -> str:
        """The text of a row; empty where all its columns are."""
        if self.format is not None:
            cells = {name: _text(row[name]) for name in self.names} | {"": ""}
            return "".join(text + cells[name] for text, name in _parts(self.format)) if any(cells.values()) else ""
        if self.fields:
            return "\n".join(filter(None, (_text(row[name]) for name in self.fields)))
        return _text(row[self.text_field or "text"])


@lru_cache
def _parts(format: str) -> list[tuple[str, str]]:
    """A format as literal texts, each with the name of the column behind it; the last has none.

    Formats come from strangers, and `str.format` would let them reach into objects: a name is a name here, no more.
    """
    parts, literal, end = [], "", 0
    for match in PARTS.finditer(format):
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


def _text(value: Any) -> str:
    """A cell as text: nothing for what is missing, which pandas writes as NaN, and JSON for lists and objects."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)


def row_pieces(
    rows: Iterable[Row], columns: Columns, problems: Problems, place: Callable[[int], str]
) -> Iterator[Piece]:
    """Each row as a document; `place` says where a row of a number stands. Empty ones are left out and counted."""
    for number, row in rows:
        try:
            text = columns.render(row)
        except RecursionError:
            problems.add("nested too deep", place(number))
            continue
        if not encodes(text):
            problems.add("not utf-8", place(number))
        elif not text or text.isspace():
            problems.leave_out("empty")
        elif len(text) < PIECE:
            yield Piece(text, True)
        else:
            yield from whole(text[at : at + PIECE] for at in range(0, len(text), PIECE))


class _Table(FileSource, Columns):
    """Files whose rows are documents."""

    glob: str = Field(EVERY, description="which files of a folder to read; those named as the type's are when left out")
    endings: ClassVar[tuple[str, ...]]

    def files(self) -> list[Path]:
        """The files to read. Raises DataError when there are none."""
        found = super().files()
        if self.glob == EVERY and Path(self.path).expanduser().is_dir():
            found = [path for path in found if path.name.lower().endswith(self.endings)]
            if not found:
                raise DataError(f"{self.path}: no file ends in {', '.join(self.endings)}; name others with glob")
        return found

    def rows(self, path: Path, problems: Problems) -> Iterator[Row]:
        """The rows of one file."""
        raise NotImplementedError

    def place(self, path: Path, number: int) -> str:
        """Where a row stands, for a message."""
        return f"{path}, line {number}"

    def bad(self, path: Path, problems: Problems) -> Bad:
        """Counts what is told of rows of a file."""
        return lambda kind, number: problems.add(kind, self.place(path, number))

    def pieces(self, problems: Problems) -> Iterator[Piece]:
        """Documents in order. Raises DataError for a file without the columns, or that cannot be read."""
        for path in self.files():
            before, some = problems.counts.total(), False
            for piece in row_pieces(self.rows(path, problems), self, problems, partial(self.place, path)):
                some = True
                yield piece
            if not some and problems.counts.total() == before:
                problems.leave_out("file without rows")


class CsvSource(_Table):
    """CSV with a header, plain or packed; a row is a document."""

    type: Literal["csv"] = "csv"
    encoding: str = Field("auto", description="auto goes by the byte-order mark, utf-8 without one")
    delimiter: str | None = Field(
        None, pattern=r'^[^"\r\n\x00]$', description="between cells; a tab in a .tsv, else a comma, when left out"
    )
    endings: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")

    def rows(self, path: Path, problems: Problems) -> Iterator[Row]:
        """The rows of one file, of the wanted columns. Raises DataError as `csv_rows` does."""
        return csv_rows(path, self.encoding, self.delimiter, self.wanted, self.bad(path, problems))


class JsonlSource(_Table):
    """Lines of JSON objects, plain or packed; an object is a document."""

    type: Literal["jsonl"] = "jsonl"
    encoding: str = Field("auto", description="auto goes by the byte-order mark, utf-8 without one")
    endings: ClassVar[tuple[str, ...]] = tuple(e + p for e in (".jsonl", ".ndjson") for p in ("", ".gz", ".zst"))

    def rows(self, path: Path, problems: Problems) -> Iterator[Row]:
        """The objects that have the wanted columns.

        Raises DataError as `jsonl_rows` does, and where no object has a column, or the first SAMPLE have not.
        """
        bad, names = self.bad(path, problems), self.names
        lacking, there, some = 0, dict[str, None](), False
        for number, row in jsonl_rows(path, self.encoding, bad):
            missing = [name for name in names if name not in row]
            if not missing:
                some = True
                yield number, row
                continue
            lacking += 1
            if not some:
                there |= dict.fromkeys(row)
            if problems.refuse or (not some and lacking == SAMPLE):
                with naming(f"{path}, line {number}"):
                    self.wanted(list(row if problems.refuse else there))
            bad(f"without {missing[0]!r}", number)
        if lacking and not some:
            with naming(path):
                self.wanted(list(there))


class ParquetSource(_Table):
    """Parquet; a row is a document, and only the columns of the text are read. Needs pyarrow."""

    type: Literal["parquet"] = "parquet"
    endings: ClassVar[tuple[str, ...]] = (".parquet",)

    def place(self, path: Path, number: int) -> str:
        """Where a row stands, for a message."""
        return f"{path}, row {number}"

    def rows(self, path: Path, problems: Problems) -> Iterator[Row]:
        """The rows of one file, of the wanted columns. Raises DataError as `parquet_rows` does."""
        return parquet_rows(path, self.wanted, self.bad(path, problems))
