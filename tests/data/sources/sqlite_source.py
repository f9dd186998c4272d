"""A kind of source that nanogrove does not have: the one file that a new kind is."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from nanogrove.data.sources.contract import Row, SelectColumns, SourceKind
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.sources.rows import prefix_errors
from nanogrove.data.sources.tables import TableFiles
from nanogrove.errors import DataError


class SqliteSource(TableFiles):
    """A table of an SQLite database; a row is a document."""

    type: Literal["sqlite"] = "sqlite"
    table: str | None = Field(None, description="name of the table; the first when left out")
    endings: ClassVar[tuple[str, ...]] = (".db", ".sqlite")

    def rows(self, path: Path, select: SelectColumns, skipped: Skipped) -> Iterator[Row]:
        """The rows of a table, of the columns that `select` chooses. Raises DataError for a file that is none."""
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
                table = (
                    self.table or database.execute("select name from sqlite_master where type='table'").fetchone()[0]
                )
                columns = [column[1] for column in database.execute(f"pragma table_info({quoted(table)})")]
                with prefix_errors(path):
                    names = select(columns)
                listed = ", ".join(map(quoted, names))
                for number, cells in enumerate(database.execute(f"select {listed} from {quoted(table)}"), start=1):
                    yield number, dict(zip(names, cells, strict=True))
        except sqlite3.Error as error:
            raise DataError(f"{path}: not an SQLite database, or damaged ({error})") from None

    def location(self, path: Path, number: int) -> str:
        """Where a row is, for a message."""
        return f"{path}, row {number}"


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


SQLITE = SourceKind(
    SqliteSource,
    "SQLite",
    SqliteSource.endings,
    recognize=lambda start: start.startswith(b"SQLite format 3\0"),
    table=SqliteSource,
)
