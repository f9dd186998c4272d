"""Tokens of one source on disk, written shard by shard.

A folder holds `index.json` and `SPLIT-00000.bin`, …: little-endian uint16, or uint32 for a vocabulary above 65,536.
The index is replaced as a whole each time tokens are committed; readers ignore what a file holds beyond the index's
count. So a reader never sees half a document's tokens, and a writer that was killed goes on from the last commit.
"""

import hashlib
import json
import os
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import numpy as np

from nanogrove.atomic import no_links, not_plain, read_file, write_file
from nanogrove.data.sources.pieces import Piece, Skipped
from nanogrove.data.splits import SPLITS

TOKENS_PER_SHARD = 1 << 27  # in a file
HELD_OUT_TOKENS = 1 << 17  # kept of each held-out split of a source that streams
INDEX_BYTES = 1 << 26  # of index.json, at most
TOKENS_PER_COMMIT = 1 << 20  # of the training split, between two commits


class SplitIndex(TypedDict):
    """The committed part of one split."""

    documents: int
    tokens: int
    bytes: int  # of UTF-8 text
    shards: list[int]  # tokens of each file
    full: bool  # whether a held-out split of a stream takes no more


class Problems(TypedDict):
    """What was left out, by reason: counts, and the first few locations."""

    counts: dict[str, int]
    places: dict[str, list[str]]


class Index(TypedDict):
    """The content of `index.json`."""

    dtype: str
    streamed: bool
    complete: bool
    pieces: int  # of documents, that were read
    splits: dict[str, SplitIndex]
    made_by: dict[str, str | None]  # versions of the libraries
    problems: Problems
    digest: str  # of all tokens


def empty_index(streamed: bool, dtype: str = "<u2") -> Index:
    """The index of a folder without tokens."""
    return Index(
        dtype=dtype,
        streamed=streamed,
        complete=False,
        pieces=0,
        splits={split: SplitIndex(documents=0, tokens=0, bytes=0, shards=[], full=False) for split in SPLITS},
        made_by={},
        problems=Problems(counts={}, places={}),
        digest="",
    )


class ShardWriter:
    """Appends tokens to the shards in a folder, going on where the index there ends; the caller holds its lock."""

    def __init__(self, folder: Path, vocab_size: int, streamed: bool) -> None:
        self.folder, self.uncommitted = folder, 0
        self.touched: set[Path] = set()  # since the last commit
        self.waiting: dict[Path, list[bytes]] = {}  # until `flush`: to open a file per row takes a fifth of the time
        self.digest = hashlib.blake2b(digest_size=16)
        # A source that does not stream is written anew, since its digest must be of all tokens.
        index = read_index(folder) if streamed else None
        trim(folder, index)
        if index is None:
            index = empty_index(streamed, "<u2" if vocab_size <= 1 << 16 else "<u4")
            index["made_by"] = versions()
        self.index = index
        self.dtype = np.dtype(index["dtype"])

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
        write_file(self.folder / "index.json", json.dumps(self.index).encode())


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
    """The index in a folder; None where it is missing, or files are shorter than it states or are not plain files.

    None too for an incomplete index of other versions of the libraries, which may split or tokenise differently.
    """
    try:
        index: Index = json.loads(read_file(folder / "index.json", INDEX_BYTES))
        size = np.dtype(index["dtype"]).itemsize
        for split in SPLITS:
            for path, count in shard_files(folder, index, split):
                if not_plain(path) or path.stat().st_size < count * size:
                    return None
        return index if index["complete"] or index["made_by"] == versions() else None
    except (OSError, ValueError, KeyError):
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
