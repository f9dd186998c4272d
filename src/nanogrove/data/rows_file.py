"""A file of rows in any format that `data.sources` reads: lines of text, or a table, recognised by its content."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from nanogrove.data.sources.contract import TableSource
from nanogrove.data.sources.encodings import AUTO, ENCODING, Encoding
from nanogrove.data.sources.formats import FORMATS
from nanogrove.data.sources.recognize import recognize
from nanogrove.errors import DataError
from nanogrove.paths import OnDisk, expanded
from nanogrove.settings import Settings

Format = Literal["auto", "lines", "csv", "jsonl", "json", "parquet"]


class RowsFile(Settings):
    """Which file, and how it is read."""

    path: Annotated[str, OnDisk()] = Field(description="file of the rows")
    format: Format = Field("auto", description="format of the file; auto goes by its content and its name")
    encoding: Encoding = Field(AUTO, description=ENCODING)

    def existing_path(self) -> Path:
        """The path of the file. Raises DataError where there is none."""
        path = expanded(self.path)
        if not path.is_file():
            problem = "not a file" if path.exists() or path.is_symlink() else "no such file"
            raise DataError(f"{self.path}: {problem}; check data.path")
        return path

    def table(self, path: Path) -> TableSource | None:
        """The reader of a table; None for a file of lines. Raises DataError for what is neither."""
        if self.format == "lines":
            return None
        settings: dict[str, object] = {}
        kind = next((kind for kind in FORMATS if kind.name == self.format), None)
        if kind is None:
            recognized = recognize(str(path))
            kind, settings = recognized.kind, recognized.source
            option = settings.pop("encoding", AUTO) if kind.table is not None or recognized.encoding else AUTO
            if self.encoding == AUTO != option and recognized.encoding is not None and recognized.encoding.option:
                guess = recognized.encoding
                raise DataError(f"{path}: it seems to be {guess.name} ({guess.why}); set data.encoding={option}")
        if kind.table is None:
            if kind.plain_text:
                return None
            raise DataError(f"{path}: {kind.label}; take CSV, JSON lines, JSON, Parquet or lines of text")
        options = {key: value for key, value in settings.items() if key not in ("type", "path")}
        return kind.table(path=str(path), **options, **({"encoding": self.encoding} if kind.encoded else {}))
