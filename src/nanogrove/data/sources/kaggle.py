"""Data sets of Kaggle as sources. To name one is to allow its download."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from nanogrove.data.sources.contract import SourceKind
from nanogrove.data.sources.encodings import AUTO, ENCODING, Encoding
from nanogrove.data.sources.files import file_identity, files_below, read_text, total_bytes
from nanogrove.data.sources.formats import FORMATS, format_of
from nanogrove.data.sources.network import Retries, is_transient, one_line, quiet
from nanogrove.data.sources.pieces import Piece, Skipped, split_long_document
from nanogrove.data.sources.tables import Columns
from nanogrove.errors import DataError
from nanogrove.paths import OnDisk, expanded


class KaggleSource(Columns):
    """Files of a Kaggle data set: rows of CSV, JSONL and Parquet are documents, and so are text files."""

    type: Literal["kaggle"] = "kaggle"
    dataset: str = Field(description="owner/name, or owner/name/versions/2 for that version")
    file: str | None = Field(None, min_length=1, description="which of its files, as in train.csv or *.csv")
    encoding: Encoding = Field(AUTO, description=ENCODING)
    local: Annotated[str | None, OnDisk()] = Field(
        None, min_length=1, description="folder with the files, read in place of Kaggle"
    )

    @field_validator("dataset")
    @classmethod
    def _named(cls, value: str) -> str:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+(/versions/\d+)?", value):
            raise ValueError("is not a Kaggle data set, which is owner/name or owner/name/versions/2")
        return value

    def title(self) -> str:
        """Its name at Kaggle."""
        return self.dataset

    def files(self) -> list[Path]:
        """The files to read, downloaded unless they are here. Raises DataError where there are none, or no network."""
        if self._root.is_file():
            return [self._root]
        paths = sorted(path for path in self._root.glob(self.file or "**/*") if path.is_file())
        readable = [path for path in paths if self.file or _is_read_by_itself(path)]
        if not readable:
            names = ", ".join(str(path.relative_to(self._root)) for path in files_below(self._root)[:9])
            labels = ", ".join(kind.label for kind in FORMATS if kind.table is not None)
            missing = f"no file {self.file!r}" if self.file else f"neither {labels} nor text"
            raise DataError(f"{self.dataset}: {missing}; there are {names or 'no files'}")
        return readable

    def identity(self) -> dict[str, object]:
        """The options, and the files' names, sizes and times. Raises DataError as `files` does."""
        return {**self.model_dump(), "files": file_identity(self.files())}

    def size(self) -> int:
        """Bytes of all files, as they lie on disk."""
        return total_bytes(self.files())

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        """Documents in order. Raises DataError for a file without the columns, or that cannot be read."""
        columns = self.model_dump(include=set(Columns.model_fields))
        for path in self.files():
            kind = format_of(path.name)
            if kind.table is None:
                yield from split_long_document(read_text(path, self.encoding, skipped))
            else:
                encoding = {"encoding": self.encoding} if kind.encoded else {}
                yield from kind.table(path=str(path), **encoding, **columns).pieces(skipped)

    @cached_property
    def _root(self) -> Path:
        """The folder of the files, or the one file that `file` names."""
        if self.local is not None:
            root = expanded(self.local)
            if not root.is_dir():
                raise DataError(f"{self.dataset}: local={self.local} is not a folder")
            return root
        try:
            import kagglehub
        except ImportError:
            raise DataError(f"{self.dataset}: Kaggle needs kagglehub; pip install 'nanogrove[data]'") from None
        one = self.file if self.file and not re.search(r"[*?\[]", self.file) else None
        retries = Retries()
        with quiet(kagglehub):
            while True:
                try:
                    return Path(kagglehub.dataset_download(self.dataset, path=one))
                except Exception as error:  # the libraries beneath raise their own
                    if retries.should_retry(error):
                        continue
                    if is_transient(error):
                        raise DataError(
                            f"{self.dataset}: Kaggle cannot be reached ({one_line(error)}); name a version that is "
                            f"here, as in {self.dataset.partition('/versions')[0]}/versions/1, or a folder with local"
                        ) from None
                    raise DataError(f"{self.dataset}: cannot be downloaded ({one_line(error)})") from None


def _is_read_by_itself(path: Path) -> bool:
    """Whether a file is read where no setting names it: a table, or a text by its ending."""
    return format_of(path.name).table is not None or path.suffix.lower() == ".txt"


KAGGLE = SourceKind(KaggleSource, "Kaggle")
