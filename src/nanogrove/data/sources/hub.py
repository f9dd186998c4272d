"""Data sets of the Hugging Face hub and of Kaggle as sources, and short names for some.

To name one is to allow its download; no other source uses the network. A network that fails is tried again after 1, 2,
4 and 8 seconds, behind the last row that came through, so no row is lost or comes twice. The libraries try a request
several times themselves before that.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from nanogrove.data.sources.base import Documents, Piece, Problems, whole
from nanogrove.data.sources.files import read_text
from nanogrove.data.sources.rows import Row, naming
from nanogrove.data.sources.tables import Columns, CsvSource, JsonlSource, ParquetSource, row_pieces
from nanogrove.errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetBuilder

FIRST_WAIT = 1.0  # seconds before the second try; each further wait is twice as long
TRIES = 5  # that may fail in a row
CLIENTS = {"aiohttp", "httpx", "httpx2", "requests"}  # what is raised by these is the network's fault, or a status
TABLES = (CsvSource, JsonlSource, ParquetSource)

SHORTCUTS: dict[str, dict[str, Any]] = {
    "c4": {"type": "hf", "dataset": "allenai/c4", "config": "en"},
    "fineweb-edu": {"type": "hf", "dataset": "HuggingFaceFW/fineweb-edu", "config": "sample-10BT"},
    "natural-questions": {
        "type": "hf",
        "dataset": "sentence-transformers/natural-questions",
        "fields": ["query", "answer"],
        "format": "Q: {query}\nA: {answer}",
    },
    "openwebtext": {"type": "hf", "dataset": "Skylion007/openwebtext"},
    "tinystories": {"type": "hf", "dataset": "roneneldan/TinyStories"},
    "wikipedia": {"type": "hf", "dataset": "wikimedia/wikipedia", "config": "20231101.en"},
    "wikitext": {"type": "hf", "dataset": "Salesforce/wikitext", "config": "wikitext-103-raw-v1"},
}


class HubSource(Columns):
    """A data set of the Hugging Face hub, or a folder that is laid out like one; a row is a document.

    A folder of the name is read in place of the hub, as the `datasets` library does. Data sets that need a script are
    refused by it.
    """

    type: Literal["hf"] = "hf"
    dataset: str = Field(min_length=1, description="name on the hub, as in wikimedia/wikipedia, or a folder")
    config: str | None = Field(None, description="which part of a data set that has several, as in 20231101.en")
    split: str = "train"
    revision: str | None = Field(None, description="branch, tag or commit; the newest of main when left out")
    streaming: bool = Field(True, description="read while training; false downloads all of it first")

    def identity(self) -> dict[str, Any]:
        """The options and what pins the rows: the commit, or of a folder its files' names, sizes and times.

        Without a network the commit is the one that this machine saw last. Raises DataError where it saw none.
        """
        if self._folder is None:
            return {**self.model_dump(), "revision": self._commit}
        files = [[str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns] for path in _inside(self._folder)]
        return {**self.model_dump(), "files": files}

    def size(self) -> int | None:
        """Bytes of a folder, or those that the data set says of itself. Raises DataError as `pieces` does."""
        if self._folder is not None:
            return sum(path.stat().st_size for path in _inside(self._folder))
        tries = Tries()
        with self._library():
            while True:
                try:
                    told = (self._builder.info.splits or {}).get(self.split)
                    return told.num_bytes if told is not None else None
                except DataError:
                    raise
                except Exception as error:  # the libraries beneath raise their own
                    if not tries.again(error):
                        raise self._gives_up(error, 0) from None

    def pieces(self, problems: Problems) -> Iterator[Piece]:
        """Documents in order. Raises DataError where the data set cannot be read, or the network keeps failing."""
        with self._library():
            yield from row_pieces(self._rows(problems), self, problems, self._place)

    def _place(self, number: int) -> str:
        return f"{self.dataset}, row {number}"

    def _rows(self, problems: Problems) -> Iterator[Row]:
        tries, data, number = Tries(), None, 0
        while True:
            try:
                if data is None:
                    data = self._open()
                elif number and self.streaming:
                    data.load_state_dict(data.state_dict())  # goes on behind the last row, within its file
                for row in data if self.streaming else data.skip(number):
                    number, tries = number + 1, Tries()
                    missing = [name for name in self.names if name not in row]
                    if missing and number == 1:
                        with naming(self.dataset):
                            self.wanted(list(row))
                    if missing:
                        problems.add(f"without {missing[0]!r}", self._place(number))
                    else:
                        yield number, row
                return
            except DataError:
                raise
            except Exception as error:  # the libraries beneath raise their own
                if not tries.again(error):
                    raise self._gives_up(error, number) from None
                problems.leave_out("network error, retried")

    def _open(self) -> Any:
        """The rows of the split, of the wanted columns where the library knows them beforehand."""
        if self.streaming:
            data = self._builder.as_streaming_dataset(split=self.split)
        else:
            self._builder.download_and_prepare()
            data = self._builder.as_dataset(split=self.split)
        if data.column_names is None:  # known from the first row on
            return data
        with naming(self.dataset):
            return data.select_columns(self.wanted(data.column_names))

    @cached_property
    def _folder(self) -> Path | None:
        folder = Path(self.dataset).expanduser()
        return folder if folder.is_dir() else None

    @cached_property
    def _builder(self) -> "DatasetBuilder":
        """The library's description of the data set, which costs the network some requests."""
        from datasets import load_dataset_builder

        if self._folder is not None:
            return load_dataset_builder(str(self._folder), self.config)
        builder = load_dataset_builder(self.dataset, self.config, revision=self._commit)
        if builder.hash != self._commit:  # without a network the library takes what it has
            raise ConnectionError(f"the hub cannot be reached, and the copy here is not of {self._commit}")
        return builder

    @cached_property
    def _commit(self) -> str:
        """The commit of `revision`, from the hub, or without a network from what lies here of it."""
        if self.revision and re.fullmatch("[0-9a-f]{40}", self.revision):
            return self.revision
        with self._library():
            from huggingface_hub import HfApi
            from huggingface_hub.errors import RemoteEntryNotFoundError

            hub = HfApi()
            try:
                readme = hub.hf_hub_download(self.dataset, "README.md", repo_type="dataset", revision=self.revision)
                return Path(readme).parent.name
            except RemoteEntryNotFoundError:
                return str(hub.dataset_info(self.dataset, revision=self.revision).sha)
            except Exception as error:  # the libraries beneath raise their own; they have tried again themselves
                raise self._gives_up(error, 0) from None

    def _gives_up(self, error: Exception, number: int) -> DataError:
        where = f" behind row {number}" if number else ""
        if not passing(error):
            return DataError(f"{self.dataset}: cannot be read{where} ({_line(error)})")
        advice = "once it is back, --resume goes on from where it was"
        return DataError(f"{self.dataset}: the network failed{where} ({_line(error)}); {advice}")

    @contextmanager
    def _library(self) -> Iterator[None]:
        """The libraries, imported and quiet. Raises DataError where they are missing."""
        try:
            import datasets
            import huggingface_hub
        except ImportError:
            raise DataError(f"{self.dataset}: the hub needs datasets; pip install 'nanogrove[data]'") from None
        with quiet(datasets, huggingface_hub):
            yield


class KaggleSource(Columns):
    """Files of a Kaggle data set: rows of CSV, JSONL and Parquet are documents, and so are text files."""

    type: Literal["kaggle"] = "kaggle"
    dataset: str = Field(description="owner/name, or owner/name/versions/2 for that version")
    file: str | None = Field(None, min_length=1, description="which of its files, as in train.csv or *.csv")
    encoding: str = Field("auto", description="of CSV, JSONL and text; auto goes by the byte-order mark")
    local: str | None = Field(None, min_length=1, description="folder with the files, read in place of Kaggle")

    @field_validator("dataset")
    @classmethod
    def _named(cls, value: str) -> str:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+(/versions/\d+)?", value):
            raise ValueError(f"{value!r} is no Kaggle data set; write owner/name, or owner/name/versions/2")
        return value

    def files(self) -> list[Path]:
        """The files to read, downloaded unless they are here. Raises DataError where there are none, or no network."""
        if self._root.is_file():
            return [self._root]
        found = sorted(path for path in self._root.glob(self.file or "**/*") if path.is_file())
        readable = [path for path in found if self.file or _table(path) or path.suffix.lower() == ".txt"]
        if not readable:
            there = ", ".join(str(path.relative_to(self._root)) for path in _inside(self._root)[:9])
            asked = f"no file {self.file!r}" if self.file else "neither CSV, JSONL, Parquet nor text"
            raise DataError(f"{self.dataset}: {asked}; there are {there or 'no files'}")
        return readable

    def identity(self) -> dict[str, Any]:
        """The options, and the files' names, sizes and times. Raises DataError as `files` does."""
        files = [[str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns] for path in self.files()]
        return {**self.model_dump(), "files": files}

    def size(self) -> int:
        """Bytes of all files, as they lie on disk."""
        return sum(path.stat().st_size for path in self.files())

    def pieces(self, problems: Problems) -> Iterator[Piece]:
        """Documents in order. Raises DataError for a file without the columns, or that cannot be read."""
        columns = self.model_dump(include=set(Columns.model_fields))
        for path in self.files():
            table = _table(path)
            if table is None:
                yield from whole(read_text(path, self.encoding))
            else:
                encoding = {} if table is ParquetSource else {"encoding": self.encoding}
                yield from table(path=str(path), **encoding, **columns).pieces(problems)

    @cached_property
    def _root(self) -> Path:
        """The folder of the files, or the one file that is wanted."""
        if self.local is not None:
            root = Path(self.local).expanduser()
            if not root.is_dir():
                raise DataError(f"{self.dataset}: local={self.local} is no folder")
            return root
        try:
            import kagglehub
        except ImportError:
            raise DataError(f"{self.dataset}: Kaggle needs kagglehub; pip install 'nanogrove[data]'") from None
        one = self.file if self.file and not re.search(r"[*?\[]", self.file) else None
        tries = Tries()
        with quiet(kagglehub):
            while True:
                try:
                    return Path(kagglehub.dataset_download(self.dataset, path=one))
                except Exception as error:  # the libraries beneath raise their own
                    if tries.again(error):
                        continue
                    if passing(error):
                        raise DataError(
                            f"{self.dataset}: Kaggle cannot be reached ({_line(error)}); name a version that is here, "
                            f"as in {self.dataset.partition('/versions')[0]}/versions/1, or a folder with local"
                        ) from None
                    raise DataError(f"{self.dataset}: cannot be downloaded ({_line(error)})") from None


class Tries:
    """How often the network has failed in a row."""

    def __init__(self) -> None:
        self.failed = 0

    def again(self, error: Exception) -> bool:
        """Whether to try again, behind a wait; not for what another try does not mend, nor for ever."""
        self.failed += 1
        if self.failed == TRIES or not passing(error):
            return False
        time.sleep(FIRST_WAIT * 2 ** (self.failed - 1))
        return True


def passing(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is one of the network or of an overloaded service."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
        if isinstance(status, int):
            return status in (408, 429) or status >= 500
        if isinstance(error, OfflineModeIsEnabled):
            return False
        if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.partition(".")[0] in CLIENTS:
            return True
        error = error.__cause__
    return False


@contextmanager
def quiet(*libraries: ModuleType) -> Iterator[None]:
    """Keeps bars and warnings of libraries off the terminal: what ends in an error is told by that error."""

    def errors_only(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    handlers = [handler for library in libraries for handler in logging.getLogger(library.__name__).handlers]
    utils = [library.utils for library in libraries if hasattr(library, "utils")]
    barred = [module for module in utils if not module.are_progress_bars_disabled()]
    for handler in handlers:
        handler.addFilter(errors_only)
    for module in barred:
        module.disable_progress_bars()
    try:
        yield
    finally:
        for module in barred:
            module.enable_progress_bars()
        for handler in handlers:
            handler.removeFilter(errors_only)


def _inside(folder: Path) -> list[Path]:
    """All files of a folder, in the order of their paths."""
    return sorted(path for path in folder.glob("**/*") if path.is_file())


def _table(path: Path) -> Callable[..., Documents] | None:
    """What reads a file of this name as a table."""
    return next((table for table in TABLES if path.name.lower().endswith(table.endings)), None)


def _line(error: BaseException) -> str:
    """What a library says, in one line and without advice on how to call it."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__  # it says no more than that something went wrong
    return " ".join(str(error).partition("Example of usage")[0].split())[:500] or type(error).__name__
