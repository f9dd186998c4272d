"""The contract of a source of text, and the record by which the rest of the program knows a kind of source.

A new source is one file, with a settings class and a `SourceKind`, and one line: in `formats.FORMATS` where it reads
files, in `kinds.KINDS` where it does not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from nanogrove.data.sources.pieces import Piece, Skipped

Row = tuple[int, Mapping[str, object]]  # the number of a row or its line, from 1, and its cells by column
OnBadRow = Callable[[str, int], object]  # takes the reason, such as `broken JSON`, and the row's number
SelectColumns = Callable[[Sequence[str]], Sequence[str]]  # takes existing columns, returns those to read; DataError


class DocumentSource(Protocol):
    """Documents in a fixed order, a piece at a time, so that memory does not grow with their number or length."""

    @property
    def type(self) -> str:
        """Its name in a preset."""

    def title(self) -> str:
        """The name of the source in messages and records: its path, its data set, or its type."""

    def identity(self) -> dict[str, object]:
        """All that its documents depend on, as JSON: settings, and the names, sizes and times of files.

        Raises DataError when there is nothing to read.
        """

    def size(self) -> int | None:
        """Bytes that will be read; None where that is unknown."""

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        """Documents in order. Raises DataError where the source as a whole cannot be read."""


class TableSource(DocumentSource, Protocol):
    """A source of files whose rows are documents."""

    def rows(self, path: Path, select: SelectColumns, skipped: Skipped) -> Iterator[Row]:
        """The rows of one file, of the columns that `select` chooses; counts those that cannot be read."""

    def count_rows(self, path: Path) -> int:
        """How many rows a file has."""

    def location(self, path: Path, number: int) -> str:
        """Where a row is, for a message."""


def unchanged(source: DocumentSource) -> DocumentSource:
    """The same source."""
    return source


def by_name_alone(start: bytes) -> bool:
    """False: no first bytes tell a kind that is known by the endings of names."""
    return False


@dataclass(frozen=True)
class SourceKind:
    """What presets, preparation, `explore` and Kaggle need to know of a kind of source.

    Args:
        settings: the class of its settings, a pydantic model; an instance is a `DocumentSource`
        label: its name in text, such as `JSON lines`
        endings: of the names of files that it reads, in lower case
        recognize: whether the first bytes of a file (up to 64 KiB, unpacked) are of this kind
        encoded: whether its files are text, of which `explore` guesses the `encoding`
        delimited: whether its cells stand between delimiters, of which `explore` guesses the `delimiter`
        table: `settings` again where its rows are documents, called with `path`, and `encoding` and `delimiter`
        texts: the text of a file a part at a time, for files that take long to read; counts what cannot be read
        pin: returns the same source with its version fixed, so that a resumed run reads the same documents
    """

    settings: type[BaseModel]
    label: str
    endings: tuple[str, ...] = ()
    recognize: Callable[[bytes], bool] = by_name_alone
    encoded: bool = False
    delimited: bool = False
    table: Callable[..., TableSource] | None = None
    texts: Callable[[Path, Skipped], Iterator[str]] | None = None
    pin: Callable[..., DocumentSource] = unchanged

    @property
    def name(self) -> str:
        """The `type` in a preset."""
        return str(self.settings.model_fields["type"].default)

    @property
    def plain_text(self) -> bool:
        """Whether each of its files is a text as it stands."""
        return self.encoded and self.table is None
