"""Data sets of the Hugging Face hub as sources, and short names for well-known ones.

To name one is to allow its download. Where the network fails, reading goes on after the last row that was received, so
no row is lost or read twice.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nanogrove.data.sources.contract import DocumentSource, Row, SourceKind
from nanogrove.data.sources.files import file_identity, files_below, total_bytes
from nanogrove.data.sources.network import Retries, is_transient, one_line, quiet
from nanogrove.data.sources.pieces import Piece, Skipped
from nanogrove.data.sources.rows import prefix_errors
from nanogrove.data.sources.tables import Columns, row_pieces
from nanogrove.errors import DataError
from nanogrove.paths import LocalPath, expanded

if TYPE_CHECKING:
    from datasets import DatasetBuilder

SHORTCUTS: dict[str, dict[str, object]] = {
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
    dataset: LocalPath = Field(min_length=1, description="name on the hub, as in wikimedia/wikipedia, or a folder")
    config: str | None = Field(None, description="which part of a data set that has several, as in 20231101.en")
    split: str = Field("train", description="which of its splits to read, as the data set names them")
    revision: str | None = Field(None, description="branch, tag or commit; the newest of main when left out")
    streaming: bool = Field(True, description="read while training; false downloads all of it first")

    def title(self) -> str:
        """Its name on the hub, or the folder."""
        return self.dataset

    def identity(self) -> dict[str, object]:
        """The options and what pins the rows: the commit, or of a folder its files' names, sizes and times.

        Without a network the commit is the one that this machine saw last. Raises DataError where it saw none.
        """
        if self._folder is None:
            return {**self.model_dump(), "revision": self._commit}
        return {**self.model_dump(), "files": file_identity(files_below(self._folder))}

    def size(self) -> int | None:
        """Bytes of a folder, or those that the data set states. Raises DataError as `pieces` does."""
        if self._folder is not None:
            return total_bytes(files_below(self._folder))
        retries = Retries()
        with self._library():
            while True:
                try:
                    split = (self._builder.info.splits or {}).get(self.split)
                    return split.num_bytes if split is not None else None
                except DataError:
                    raise
                except Exception as error:  # the libraries beneath raise their own
                    if not retries.should_retry(error):
                        raise self._gives_up(error, 0) from None

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        """Documents in order. Raises DataError where the data set cannot be read, or the network keeps failing."""
        with self._library():
            yield from row_pieces(self._rows(skipped), self, skipped, self._location)

    def _location(self, number: int) -> str:
        return f"{self.dataset}, row {number}"

    def _rows(self, skipped: Skipped) -> Iterator[Row]:
        retries, data, number = Retries(), None, 0
        while True:
            try:
                if data is None:
                    data = self._open()
                elif number and self.streaming:
                    data.load_state_dict(data.state_dict())  # goes on after the last row, within its file
                for row in data if self.streaming else data.skip(number):
                    number, retries = number + 1, Retries()
                    missing = [name for name in self.names if name not in row]
                    if missing and number == 1:
                        with prefix_errors(self.dataset):
                            self.select(list(row))
                    if missing:
                        skipped.bad(f"without {missing[0]!r}", self._location(number))
                    else:
                        yield number, row
                return
            except DataError:
                raise
            except Exception as error:  # the libraries beneath raise their own
                if not retries.should_retry(error):
                    raise self._gives_up(error, number) from None
                skipped.unwanted("network error, retried")

    def _open(self) -> Any:
        """The rows of the split, with the columns of the text alone where the library knows its columns."""
        if self.streaming:
            data = self._builder.as_streaming_dataset(split=self.split)
        else:
            self._builder.download_and_prepare()
            data = self._builder.as_dataset(split=self.split)
        if data.column_names is None:  # known from the first row on
            return data
        with prefix_errors(self.dataset):
            return data.select_columns(self.select(data.column_names))

    @cached_property
    def _folder(self) -> Path | None:
        folder = expanded(self.dataset)
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
        """The commit of `revision`, from the hub, or without a network from this machine's copy."""
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
        where = f" after row {number}" if number else ""
        if not is_transient(error):
            return DataError(f"{self.dataset}: cannot be read{where} ({one_line(error)})")
        advice = "once it is back, --resume goes on from where it was"
        return DataError(f"{self.dataset}: the network failed{where} ({one_line(error)}); {advice}")

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


def pinned_to_commit(source: HubSource) -> DocumentSource:
    """The same source with the commit of its rows as its revision; a folder as it is."""
    commit = source.identity()["revision"]
    return source if commit is None else source.model_copy(update={"revision": commit})


HUB = SourceKind(HubSource, "the Hugging Face hub", pin=pinned_to_commit)
