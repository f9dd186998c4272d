"""Text made into tokens once, kept in memory-mapped shards, and read from there in any order.

`prepare` reads the sources twice, once to learn the vocabulary and once to write tokens, a piece at a time, into a
cache folder named by a fingerprint of sources, tokenizer and split. A folder holds `tokenizer.json`, `index.json` and
`SPLIT-00000.bin`, …: little-endian uint16, or uint32 for a vocabulary above 65,536. It is made aside and renamed.

Splits never overlap. By document, a hash of the text decides, so equal documents fall on one side. By position
(`tail`), the end of the corpus is held out: first validation, then test. `auto` splits by document from 100
documents on, and by position below.

`TextCorpus.batches` shows every window of `block_size` tokens once an epoch, in an order and with an offset that are
functions of (seed, epoch); nothing is kept in memory but the batch.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nanogrove.data.batch import Batch, permuted, random
from nanogrove.data.documents import PIECE, Piece, Problems
from nanogrove.data.sources import Source
from nanogrove.data.tokenizer import (
    Tokenizer,
    bpe_tokenizer,
    byte_tokenizer,
    character_tokenizer,
    load_tokenizer,
)
from nanogrove.errors import DataError

FORMAT = 1
SPLITS = ("train", "validation", "test")
SHARD = 1 << 27  # tokens a file
LEARN = 1 << 28  # characters a BPE vocabulary is learned from, at most


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class DataConfig(BaseModel):
    """Which text to train on, and how it becomes tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"] = "text"
    sources: Annotated[list[Source], BeforeValidator(_as_list)] = Field(min_length=1)
    tokenizer: str = Field("bpe", description="char, byte, bpe, a path to a tokenizer.json, or a hub name")
    vocab_size: int = Field(4096, ge=1, description="of a bpe tokenizer trained here")
    split: Literal["auto", "document", "tail"] = "auto"
    validation: float = Field(0.05, gt=0, lt=1, description="share of the text")
    test: float = Field(0.05, ge=0, lt=1, description="share of the text")

    def corpus(self, block_size: int, batch_size: int, seed: int) -> "TextCorpus":
        """The corpus these settings describe; see `TextCorpus`."""
        return TextCorpus(self, block_size, batch_size, seed)


class Survey(NamedTuple):
    """What a first look at the sources counted."""

    documents: int
    characters: int


def cache_folder() -> Path:
    """Where prepared data lies: `NANOGROVE_CACHE`, or `nanogrove` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NANOGROVE_CACHE") or Path(base) / "nanogrove")


def prepare(config: DataConfig) -> Path:
    """The cache folder that holds the tokens of `config`, made now unless it is there.

    Raises DataError for sources that cannot be read or hold too little, and for a disk that is full.
    """
    if config.validation + config.test >= 1:
        raise DataError("data.validation and data.test leave nothing to train on; their sum must be below 1")
    fingerprint = {
        "format": FORMAT,
        "config": config.model_dump(exclude={"type", "sources"}),
        "sources": [source.identity() for source in config.sources],
        "tokenizer": _file_digest(config.tokenizer),
    }
    key = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_folder() / key
    if _is_whole(folder):
        return folder
    aside = folder.with_name(f"{key}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        _write(config, aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except OSError as error:
        if not _is_whole(folder):  # else another process was first
            raise DataError(
                f"{folder}: cannot write prepared data ({error.strerror}); free some space or set NANOGROVE_CACHE"
            ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _file_digest(tokenizer: str) -> str | None:
    path = Path(tokenizer)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _is_whole(folder: Path) -> bool:
    try:
        index = json.loads((folder / "index.json").read_text())
        size = np.dtype(index["dtype"]).itemsize
        return all(
            (folder / f"{split}-{n:05}.bin").stat().st_size == count * size
            for split in SPLITS
            for n, count in enumerate(index["splits"][split]["shards"])
        )
    except (OSError, ValueError, KeyError):
        return False


def _pieces(config: DataConfig) -> Iterator[Piece]:
    for source in config.sources:
        yield from source.pieces(Problems())


def _assigned(config: DataConfig, survey: Survey) -> Iterator[tuple[str, Piece]]:
    """Every piece with its split; one that a split by position cuts comes as two."""
    by_document = config.split == "document" or (config.split == "auto" and survey.documents >= 100)
    held_out, test = config.validation + config.test, config.test
    if by_document:
        share = 0.0
        for piece in _pieces(config):
            if piece.first:
                digest = hashlib.blake2b(piece.text.encode("utf-8", "surrogatepass"), digest_size=8)
                share = int.from_bytes(digest.digest(), "big") / 2**64
            yield ("test" if share < test else "validation" if share < held_out else "train"), piece
        return
    ends = [int(survey.characters * (1 - held_out)), int(survey.characters * (1 - test)), survey.characters]
    position = 0
    for piece in _pieces(config):
        text, first = piece
        for split, end in zip(SPLITS, ends, strict=True):
            head, text = text[: max(end - position, 0)], text[max(end - position, 0) :]
            if head:
                yield split, Piece(head, first)
                first, position = False, position + len(head)


def _tokenizer(config: DataConfig, survey: Survey) -> Tokenizer:
    """The tokenizer a configuration names; a BPE learns from the training split only."""
    if config.tokenizer == "char":
        return character_tokenizer(piece.text for piece in _pieces(config))
    if config.tokenizer == "byte":
        return byte_tokenizer()
    if config.tokenizer != "bpe":
        return load_tokenizer(config.tokenizer)

    def training_text() -> Iterator[str]:
        learned = 0
        for split, piece in _assigned(config, survey):
            if split == "train" and learned < LEARN:
                learned += len(piece.text)
                yield piece.text

    return bpe_tokenizer(training_text(), config.vocab_size)


def _write(config: DataConfig, folder: Path) -> None:
    documents = characters = 0
    for piece in _pieces(config):
        documents, characters = documents + piece.first, characters + len(piece.text)
    if not characters:
        raise DataError(f"{_names(config)}: empty; a corpus needs text")
    survey = Survey(documents, characters)
    tokenizer = _tokenizer(config, survey)
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    digest = hashlib.blake2b(digest_size=16)
    splits = {split: {"documents": 0, "tokens": 0, "bytes": 0, "shards": []} for split in SPLITS}

    def flush(waiting: list[tuple[str, Piece]]) -> None:
        encoded = tokenizer.encode_batch([piece.text for _, piece in waiting])
        for (split, piece), ids in zip(waiting, encoded, strict=True):
            if piece.first:
                ids = np.concatenate(([tokenizer.end], ids))
            index: dict[str, Any] = splits[split]
            if not index["shards"] or index["shards"][-1] >= SHARD:
                index["shards"].append(0)
            with (folder / f"{split}-{len(index['shards']) - 1:05}.bin").open("ab") as file:
                file.write(ids.astype(dtype).tobytes())
            digest.update(split.encode() + ids.astype(dtype).tobytes())
            index["shards"][-1] += len(ids)
            index["tokens"] += len(ids)
            index["documents"] += piece.first
            index["bytes"] += len(piece.text.encode("utf-8", "surrogatepass"))

    waiting: list[tuple[str, Piece]] = []
    held = 0
    for split, piece in _assigned(config, survey):
        waiting.append((split, piece))
        held += len(piece.text)
        if held >= 8 * PIECE:
            flush(waiting)
            waiting, held = [], 0
    flush(waiting)
    index = {"format": FORMAT, "dtype": dtype.str, "splits": splits, "digest": digest.hexdigest()}
    (folder / "index.json").write_text(json.dumps(index))


def _names(config: DataConfig) -> str:
    return ", ".join(getattr(source, "path", source.type) for source in config.sources)


class Tokens:
    """The tokens of one split, on disk."""

    def __init__(self, folder: Path, split: str, counts: list[int], dtype: str) -> None:
        self.files = [folder / f"{split}-{n:05}.bin" for n in range(len(counts))]
        self.starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """`[N, length]` int64: the tokens from each of N places on. Files are mapped for this call only, since the
        pages a long-lived map has touched would count as this process's memory."""
        maps: dict[int, np.memmap[Any, Any]] = {}
        out = np.empty((len(starts), length), dtype=np.int64)
        for row, start in enumerate(starts.tolist()):
            filled = 0
            while filled < length:
                at = start + filled
                shard = int(np.searchsorted(self.starts, at, side="right")) - 1
                if shard not in maps:
                    maps[shard] = np.memmap(self.files[shard], dtype=self.dtype, mode="r")
                offset = at - int(self.starts[shard])
                part = maps[shard][offset : offset + length - filled]
                out[row, filled : filled + len(part)] = part
                filled += len(part)
        return out


class TextCorpus:
    """Prepared text as batches of `batch_size` windows of `block_size` tokens; see `Corpus`.

    Raises DataError when a split is too short for one window.
    """

    def __init__(self, config: DataConfig, block_size: int, batch_size: int, seed: int) -> None:
        folder = prepare(config)
        self.index = json.loads((folder / "index.json").read_text())
        self.tokenizer = Tokenizer.from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.length, self.batch_size, self.seed = block_size, batch_size, seed
        self.splits = {
            split: Tokens(folder, split, self.index["splits"][split]["shards"], self.index["dtype"]) for split in SPLITS
        }
        for split, need in (("train", block_size + 1), ("validation", 2), ("test", 2 * (config.test > 0))):
            if len(self.splits[split]) < need:
                raise DataError(
                    f"{_names(config)}: the {split} split has {len(self.splits[split])} tokens and needs at least "
                    f"{need}; use more text, a smaller model.block_size, or another data.split"
                )

    @property
    def windows_per_epoch(self) -> int:
        """Windows of `block_size` tokens in one pass over the training split."""
        whole = (len(self.splits["train"]) - 1) // self.length
        return max(whole - 1, 1)  # one less, for the offset that moves all windows of an epoch

    def batches(self, step: int) -> Batch:
        """Batch number `step`, a pure function of (seed, step)."""
        count, size = self.windows_per_epoch, self.length
        slack = len(self.splits["train"]) - 1 - count * size
        number = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        starts = np.empty(self.batch_size, dtype=np.int64)
        for epoch in np.unique(number // count).tolist():
            mine = number // count == epoch
            offset = int(random(self.seed, "offset", epoch).integers(min(slack, size - 1) + 1))
            order = random(self.seed, "order", epoch)
            starts[mine] = permuted(number[mine] % count, count, order) * size + offset
        return _batch(self.splits["train"].read(starts, size + 1))

    def windows(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """Batches that cover `split` without overlap, the last window shorter; with `limit`, evenly
        spread windows of about that many tokens. Raises DataError for a split that holds nothing."""
        tokens, size = self.splits[split], self.length
        if len(tokens) < 2:
            raise DataError(f"the {split} split is empty; this run was made with data.{split}=0")
        count = -(-(len(tokens) - 1) // size)
        chosen = np.arange(count)
        if limit is not None and limit < count * size:
            whole = max((len(tokens) - 1) // size, 1)
            chosen = np.arange(whole)[:: max(1, whole * size // limit)]
        for rows in np.split(chosen, range(self.batch_size, len(chosen), self.batch_size)):
            full = rows[(rows + 1) * size + 1 <= len(tokens)]
            if len(full):
                yield _batch(tokens.read(full * size, size + 1))
            for row in rows[len(full) :].tolist():
                yield _batch(tokens.read(np.array([row * size]), len(tokens) - row * size))

    def truth(self, split: str, limit: int | None = None) -> None:
        """Nobody knows the distribution of a text."""

    def bytes_per_token(self, split: str) -> float:
        """Mean UTF-8 bytes a token of `split` stands for."""
        counts = self.index["splits"][split]
        return float(counts["bytes"] / counts["tokens"])

    def describe(self) -> dict[str, Any]:
        """Documents, tokens a split, and a digest of all tokens that tells one corpus from another."""
        splits = self.index["splits"]
        return {
            "documents": sum(splits[split]["documents"] for split in SPLITS),
            **{f"{split}_tokens": splits[split]["tokens"] for split in SPLITS},
            "bytes_per_token": self.bytes_per_token("train"),
            "fingerprint": self.index["digest"],
        }


def _batch(windows: np.ndarray) -> Batch:
    """Windows `[B, T + 1]` as a batch `[B, T]` whose every token is scored."""
    tokens = torch.from_numpy(windows)
    return Batch(
        tokens[:, :-1],
        tokens[:, 1:],
        torch.ones(windows.shape[0], windows.shape[1] - 1),
        torch.zeros(len(windows), dtype=torch.int64),
    )
