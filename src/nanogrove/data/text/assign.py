"""Assigns the documents of a source to splits.

Splits never overlap. By document, a hash of the text decides, so equal documents are in the same split. By position
(`tail`), the end of a source is held out: first validation, then test. `auto` splits a source by document where it
streams or has 100 documents, and otherwise by position.

A source above `STREAM_FROM_BYTES`, or of unknown size, streams: training begins before all of it has been read. Each
piece of a long streamed document is assigned by itself, and no more than `HELD_OUT_TOKENS` tokens of a held-out split
are kept.

Neither this module nor any other that the preparation process imports needs torch, so that this process starts sooner.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from nanogrove.data.sources.contract import DocumentSource
from nanogrove.data.sources.pieces import Piece, Skipped
from nanogrove.data.splits import SPLITS
from nanogrove.data.text.config import DataConfig

STREAM_FROM_BYTES = 1 << 25  # size of a source from which on it streams
DOCUMENTS_TO_SPLIT_BY = 100  # number of them from which on `auto` splits by document
RECENT_HASHES = 1 << 20  # kept in a set before they are merged into the sorted array, which takes less memory


def streams(source: DocumentSource) -> bool:
    """Whether training on this source begins before all of it has been read."""
    size = source.size()
    return size is None or size > STREAM_FROM_BYTES


def characters_to_split(config: DataConfig, source: DocumentSource) -> int | None:
    """How many characters a source has, where it is split by position; None where it is split by document."""
    if config.split == "document" or (config.split == "auto" and streams(source)):
        return None
    documents = characters = 0
    for piece in accepted_pieces(config, source, Skipped()):
        documents, characters = documents + piece.first, characters + len(piece.text)
        if config.split == "auto" and documents >= DOCUMENTS_TO_SPLIT_BY:
            return None
    return characters


def accepted_pieces(config: DataConfig, source: DocumentSource, skipped: Skipped) -> Iterator[Piece]:
    """The pieces of a source, without documents that are too short or duplicates; these are counted.

    A document of several pieces is taken for neither.
    """
    seen = HashSet()
    for piece, is_whole in _with_next(source.pieces(skipped)):
        if is_whole and len(piece.text) < config.min_text_length:
            skipped.unwanted(f"shorter than {config.min_text_length} characters")
        elif is_whole and config.drop_duplicates and seen.add(_digest(piece.text)):
            skipped.unwanted("duplicate")
        else:
            yield piece


def assign_to_splits(
    config: DataConfig, source: DocumentSource, characters: int | None, skipped: Skipped
) -> Iterator[tuple[str, Piece]]:
    """Every accepted piece with its split: by position among `characters`, and by document where that is None.

    A piece across the border of two splits is cut in two.
    """
    held_out, test = config.validation + config.test, config.test
    if characters is None:
        share, each_piece, before = 0.0, streams(source), ""
        for piece in accepted_pieces(config, source, skipped):
            if piece.first or each_piece:
                share = _digest(piece.text) / 2**64
            split = "test" if share < test else "validation" if share < held_out else "train"
            yield split, Piece(piece.text, piece.first or split != before)  # the split's text does not go on here
            before = split
        return
    ends = [int(characters * (1 - held_out)), int(characters * (1 - test)), characters]
    position = 0
    for piece in accepted_pieces(config, source, skipped):
        text, first = piece
        for split, end in zip(SPLITS, ends, strict=True):
            head, text = text[: max(end - position, 0)], text[max(end - position, 0) :]
            if head:
                yield split, Piece(head, first)
                first, position = False, position + len(head)


class HashSet:
    """A set of 64-bit hashes at 8 bytes each: most in a sorted array, the latest in a set."""

    def __init__(self) -> None:
        self.sorted = np.empty(0, dtype=np.uint64)
        self.recent: set[int] = set()

    def add(self, digest: int) -> bool:
        """Adds a hash and returns whether the set had it before."""
        if digest in self.recent:
            return True
        at = int(np.searchsorted(self.sorted, np.uint64(digest)))
        if at < len(self.sorted) and int(self.sorted[at]) == digest:
            return True
        self.recent.add(digest)
        if len(self.recent) >= RECENT_HASHES:
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
