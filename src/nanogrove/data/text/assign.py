"""Which of a source's documents go to which split.

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

import numpy as np

from nanogrove.data.sources.base import Documents, Piece, Problems
from nanogrove.data.splits import SPLITS
from nanogrove.data.text.config import DataConfig

STREAM = 1 << 25  # bytes of a source from which on it streams
MANY = 100  # documents from which on `auto` splits by document
RECENT = 1 << 20  # hashes of documents in a set, ahead of the sorted array that takes less memory


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
