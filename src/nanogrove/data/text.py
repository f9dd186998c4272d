"""Settings of a text corpus, and which of a source's documents go to which split.

Splits never overlap. By document, a hash of the text decides, so equal documents fall on one side. By position
(`tail`), the end of a source is held out: first validation, then test. `auto` splits a source by document where it
streams or has 100 documents, and by position else.

A source above `STREAM` bytes, or of a size that nobody knows, streams: training begins before it has been read. Of its
documents longer than a piece each piece is assigned by itself, and of what is held out no more than `HELD_OUT` tokens
a split are kept.

This module imports no torch, nor does what writes shards: the process that does starts the sooner.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nanogrove.data.documents import PIECE, Documents, Piece, Problems
from nanogrove.data.sources import Source

if TYPE_CHECKING:
    from nanogrove.data.corpus import TextCorpus

SPLITS = ("train", "validation", "test")
STREAM = 1 << 25  # bytes of a source from which on it streams
HELD_OUT = 1 << 17  # tokens of a held-out split of a source that streams
MANY = 100  # documents from which on `auto` splits by document
RECENT = 1 << 20  # hashes of documents in a set, ahead of the sorted array that takes less memory


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Sources = Annotated[list[Source], BeforeValidator(_as_list)]


class DataConfig(BaseModel):
    """Which text to train on, how its sources are mixed, and how it becomes tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"] = "text"
    sources: Sources = []
    custom_sources: Sources = Field([], description="more of the same")
    mix_strategy: Literal["round_robin", "sequential", "weighted"] = "round_robin"
    source_weights: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        None, description="weighted: sequences of each source, in any unit"
    )
    tokenizer: str = Field("bpe", description="char, byte, bpe, a path to a tokenizer.json, or a hub name")
    vocab_size: int = Field(4096, ge=1, description="of a bpe tokenizer trained here")
    split: Literal["auto", "document", "tail"] = "auto"
    validation: float = Field(0.05, gt=0, lt=1, description="share of the text")
    test: float = Field(0.05, ge=0, lt=1, description="share of the text")
    min_text_length: int = Field(0, ge=0, le=PIECE, description="characters; shorter documents are left out")
    drop_duplicates: bool = Field(False, description="leave out documents that came before, letter for letter")
    bad_rows: Literal["skip", "refuse"] = Field("skip", description="what to do with a row that cannot be used")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.all_sources:
            raise ValueError("sources is empty; name a file, a folder or python-stdlib")
        if (self.source_weights is not None) != (self.mix_strategy == "weighted"):
            raise ValueError("source_weights and mix_strategy=weighted belong together; give both or none")
        if self.source_weights is not None:
            if len(self.source_weights) != len(self.all_sources):
                raise ValueError(f"{len(self.source_weights)} source_weights for {len(self.all_sources)} sources")
            if not any(self.source_weights):
                raise ValueError("source_weights are all 0; at least one must be above")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on; their sum must be below 1")
        return self

    @property
    def all_sources(self) -> list[Source]:
        """`sources` and `custom_sources`."""
        return [*self.sources, *self.custom_sources]

    def corpus(self, block_size: int, batch_size: int, seed: int) -> "TextCorpus":
        """The corpus these settings describe; see `TextCorpus`."""
        from nanogrove.data.corpus import TextCorpus

        return TextCorpus(self, block_size, batch_size, seed)


def streams(source: Documents) -> bool:
    """Whether training on this source begins before all of it has been read."""
    size = source.size()
    return size is None or size > STREAM


def characters_to_split(config: DataConfig, source: Documents) -> int | None:
    """How many characters a source has, where it is split by position; None where it is split by document."""
    if config.split == "document" or (config.split == "auto" and streams(source)):
        return None
    documents = characters = 0
    for piece in accepted(config, source, Problems()):
        documents, characters = documents + piece.first, characters + len(piece.text)
        if config.split == "auto" and documents >= MANY:
            return None
    return characters


def accepted(config: DataConfig, source: Documents, problems: Problems) -> Iterator[Piece]:
    """The pieces of a source but those of documents that are too short or came before; these are counted.

    A document of several pieces is neither.
    """
    seen = Seen()
    for piece, alone in _with_next(source.pieces(problems)):
        if alone and len(piece.text) < config.min_text_length:
            problems.leave_out(f"shorter than {config.min_text_length} characters")
        elif alone and config.drop_duplicates and seen.add(_digest(piece.text)):
            problems.leave_out("duplicate")
        else:
            yield piece


def assigned(
    config: DataConfig, source: Documents, characters: int | None, problems: Problems
) -> Iterator[tuple[str, Piece]]:
    """Every accepted piece with its split: by position among `characters`, and by document where that is None.

    A piece that a split by position cuts comes as two.
    """
    held_out, test = config.validation + config.test, config.test
    if characters is None:
        share, each, before = 0.0, streams(source), ""
        for piece in accepted(config, source, problems):
            if piece.first or each:
                share = _digest(piece.text) / 2**64
            split = "test" if share < test else "validation" if share < held_out else "train"
            yield split, Piece(piece.text, piece.first or split != before)  # a mark where the text does not go on
            before = split
        return
    ends = [int(characters * (1 - held_out)), int(characters * (1 - test)), characters]
    position = 0
    for piece in accepted(config, source, problems):
        text, first = piece
        for split, end in zip(SPLITS, ends, strict=True):
            head, text = text[: max(end - position, 0)], text[max(end - position, 0) :]
            if head:
                yield split, Piece(head, first)
                first, position = False, position + len(head)


class Seen:
    """A set of 64-bit hashes at 8 bytes each: most in a sorted array, the latest in a set."""

    def __init__(self) -> None:
        self.sorted = np.empty(0, dtype=np.uint64)
        self.recent: set[int] = set()

    def add(self, digest: int) -> bool:
        """Adds a hash; whether it was there."""
        if digest in self.recent:
            return True
        at = int(np.searchsorted(self.sorted, np.uint64(digest)))
        if at < len(self.sorted) and int(self.sorted[at]) == digest:
            return True
        self.recent.add(digest)
        if len(self.recent) >= RECENT:
            self.sorted = np.sort(np.concatenate([self.sorted, np.fromiter(self.recent, dtype=np.uint64)]))
            self.recent.clear()
        return False


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _with_next(pieces: Iterator[Piece]) -> Iterator[tuple[Piece, bool]]:
    """Each piece, and whether it is a whole document."""
    held: Piece | None = None
    for piece in pieces:
        if held is not None:
            yield held, held.first and piece.first
        held = piece
    if held is not None:
        yield held, held.first
