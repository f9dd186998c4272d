"""Tokens of one source on disk, written shard by shard.

A folder holds `index.json` and `SPLIT-00000.bin`, …: little-endian uint16, or uint32 for a vocabulary above 65,536.
The index is replaced as a whole each time tokens are committed; readers ignore what a file holds beyond the index's
count. So a reader never sees half a document's tokens, and a writer that was killed goes on from the last commit.

The index has a checksum of itself and a digest of each `TOKENS_PER_DIGEST` tokens of a split, which `verified.py`
compares with the files. A file `damaged` marks a folder whose tokens are to be written anew.
"""

import hashlib
import json
import os
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import NonNegativeInt, TypeAdapter
from typing_extensions import TypedDict  # which pydantic needs before Python 3.12

from nanogrove.atomic import no_links, not_plain, read_file, write_file
from nanogrove.data.sources.pieces import Piece, Skipped
from nanogrove.data.splits import SPLITS

DAMAGED = "damaged"  # the name of the file that marks a folder
TOKENS_PER_SHARD = 1 << 27  # in a file
HELD_OUT_TOKENS = 1 << 17  # kept of each held-out split of a source that streams
INDEX_BYTES = 1 << 26  # of index.json, at most
TOKENS_PER_COMMIT = 1 << 20  # of the training split, between two commits
TOKENS_PER_DIGEST = 1 << 21  # of a split, checked together: as many as the windows of a block are read from


class SplitIndex(TypedDict):
    """The committed part of one split."""

    documents: NonNegativeInt
    tokens: NonNegativeInt
    bytes: NonNegativeInt  # of UTF-8 text
    shards: list[NonNegativeInt]  # tokens of each file
    digests: list[str]  # of each TOKENS_PER_DIGEST tokens, through all files, and of the rest
    full: bool  # whether a held-out split of a stream takes no more


class Problems(TypedDict):
    """What was left out, by reason: counts, and the first few locations."""

    counts: dict[str, int]
    places: dict[str, list[str]]


class Index(TypedDict):
    """The content of `index.json`, besides its checksum."""

    dtype: Literal["<u2", "<u4"]
    streamed: bool
    complete: bool
    pieces: NonNegativeInt  # of documents, that were read
    splits: dict[str, SplitIndex]
    made_by: dict[str, str | None]  # versions of the libraries
    problems: Problems
    digest: str  # of all tokens
    change_times: list[int]  # of the files of the source, in nanoseconds, when they were first read


_INDEX: TypeAdapter[Index] = TypeAdapter(Index)


def empty_index(streamed: bool, dtype: Literal["<u2", "<u4"] = "<u2") -> Index:
    """The index of a folder without tokens."""
    return Index(
        dtype=dtype,
        streamed=streamed,
        complete=False,
        pieces=0,
        splits={
            split: SplitIndex(documents=0, tokens=0, bytes=0, shards=[], digests=[], full=False) for split in SPLITS
        },
        made_by={},
        problems=Problems(counts={}, places={}),
        digest="",
        change_times=[],
    )


class RunningDigests:
    """Digests of the tokens of a split as they come: one of each `TOKENS_PER_DIGEST`, and one of the rest."""

    def __init__(self, token_bytes: int) -> None:
        self.bytes_per_digest, self.filled = TOKENS_PER_DIGEST * token_bytes, 0
        self.full: list[str] = []
        self.last = digest_of(b"")

    def add(self, data: bytes) -> None:
        """Goes on with the bytes of further tokens."""
        at = 0
        while at < len(data):
            part = data[at : at + self.bytes_per_digest - self.filled]
            self.last.update(part)
            at, self.filled = at + len(part), self.filled + len(part)
            if self.filled == self.bytes_per_digest:
                self.full.append(self.last.hexdigest())
                self.last, self.filled = digest_of(b""), 0

    def digests(self) -> list[str]:
        """All digests up to here."""
        return self.full + ([self.last.hexdigest()] if self.filled else [])


def digest_of(data: bytes) -> "hashlib.blake2b":
    """The digest of bytes of tokens: 64 bits, against damage and not against malice."""
    return hashlib.blake2b(data, digest_size=8)


class ShardWriter:
    """Appends tokens to the shards in a folder, going on where its index ends; the caller holds its lock.

    Args:
        folder: of the tokens.
        index: of the tokens to go on from, `None` to begin anew.
        vocab_size: decides how wide a token is.
        streamed: whether the source streams.
        change_times: of the files of the source.
    """

    def __init__(
        self, folder: Path, index: Index | None, vocab_size: int, streamed: bool, change_times: list[int]
    ) -> None:
        self.folder, self.uncommitted = folder, 0
        self.touched: set[Path] = set()  # since the last commit
        self.waiting: dict[Path, list[bytes]] = {}  # until `flush`: to open a file per row takes a fifth of the time
        self.digest = hashlib.blake2b(digest_size=16)
        trim(folder, index)
        if index is None:
            (folder / "index.json").unlink(missing_ok=True)
            (folder / DAMAGED).unlink(missing_ok=True)
            index = empty_index(streamed, "<u2" if vocab_size <= 1 << 16 else "<u4")
            index["made_by"], index["change_times"] = versions(), change_times
        self.index = index
        self.dtype = np.dtype(index["dtype"])
        self.digests: dict[str, RunningDigests] = {split: self._digests(split) for split in SPLITS}

    def _digests(self, split: str) -> RunningDigests:
        """The digests of the committed tokens of a split; those after the last full one are read again."""
        digests, size = RunningDigests(self.dtype.itemsize), self.dtype.itemsize
        index = self.index["splits"][split]
        digests.full = index["digests"][: index["tokens"] // TOKENS_PER_DIGEST]
        skip = len(digests.full) * TOKENS_PER_DIGEST * size
        for path, count in shard_files(self.folder, self.index, split):
            with path.open("rb") as file:
                file.seek(min(skip, count * size))
                digests.add(file.read())
            skip -= min(skip, count * size)
        return digests

    def add(self, split: str, piece: Piece, ids: np.ndarray) -> None:
        """Adds the tokens of a piece to those that `flush` writes; none where the split of a stream is full."""
        index = self.index["splits"][split]
        self.index["pieces"] += 1
        if index["full"]:
            return
        if not index["shards"] or index["shards"][-1] >= TOKENS_PER_SHARD:
            index["shards"].append(0)
        data = ids.astype(self.dtype).tobytes()
        self.waiting.setdefault(self.folder / f"{split}-{len(index['shards']) - 1:05}.bin", []).append(data)
        self.digest.update(split.encode() + data)
        self.digests[split].add(data)
        index["shards"][-1] += len(ids)
        index["tokens"] += len(ids)
        index["documents"] += piece.first
        index["bytes"] += len(piece.text.encode("utf-8", "surrogatepass"))
        index["full"] = self.index["streamed"] and split != "train" and index["tokens"] >= HELD_OUT_TOKENS
        self.uncommitted += len(ids) if split == "train" else 0

    def flush(self) -> None:
        """Appends the waiting tokens to the files."""
        for path, parts in self.waiting.items():
            with open(path, "ab", opener=no_links) as file:
                file.writelines(parts)
            self.touched.add(path)
        self.waiting.clear()

    def commit(self, skipped: Skipped, complete: bool = False) -> None:
        """Makes all added tokens part of the corpus: writes them to disk, and then the index that counts them."""
        self.flush()
        for path in self.touched:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self.touched.clear()
        self.uncommitted = 0
        problems = Problems(counts=dict(skipped.counts), places=skipped.locations)
        self.index |= {"complete": complete, "problems": problems, "digest": self.digest.hexdigest()}
        for split, digests in self.digests.items():
            self.index["splits"][split]["digests"] = digests.digests()
        write_file(self.folder / "index.json", json.dumps({**self.index, "checksum": _checksum(self.index)}).encode())


def _checksum(index: object) -> str:
    return hashlib.blake2b(json.dumps(index, sort_keys=True).encode(), digest_size=16).hexdigest()


@cache
def versions() -> dict[str, str | None]:
    """Versions of the libraries that read and tokenise."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in ("nanogrove", "tokenizers", "pyarrow", "datasets", "pypdfium2")}


def read_index(folder: Path) -> Index | None:
    """The index in a folder; None where it is missing or damaged, or files are shorter than it states or not plain.

    None too for an incomplete index of other versions of the libraries, which may split or tokenise differently.
    """
    try:
        if (folder / DAMAGED).exists():
            return None
        content = json.loads(read_file(folder / "index.json", INDEX_BYTES))
        if content.pop("checksum") != _checksum(content):
            return None
        index = _INDEX.validate_python(content, strict=True)
        size = np.dtype(index["dtype"]).itemsize
        for split in SPLITS:
            counts = index["splits"][split]
            digests = -(-counts["tokens"] // TOKENS_PER_DIGEST)
            if sum(counts["shards"]) != counts["tokens"] or len(counts["digests"]) != digests:
                return None
            for path, count in shard_files(folder, index, split):
                if not_plain(path) or path.stat().st_size < count * size:
                    return None
        return index if index["complete"] or index["made_by"] == versions() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def trim(folder: Path, index: Index | None) -> None:
    """Removes what the files hold beyond the index; without an index, all files."""
    committed = {} if index is None else dict(pair for split in SPLITS for pair in shard_files(folder, index, split))
    for path in folder.glob("*.bin"):
        if index is not None and path in committed:
            os.truncate(path, committed[path] * np.dtype(index["dtype"]).itemsize)
        else:
            path.unlink()


def shard_files(folder: Path, index: Index, split: str) -> list[tuple[Path, int]]:
    """The files of a split with their tokens."""
    return [(folder / f"{split}-{n:05}.bin", count) for n, count in enumerate(index["splits"][split]["shards"])]
