"""Documents, which every source yields, in pieces; and the count of what a source holds that could not be used."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from nanogrove.errors import DataError

PIECE = 1 << 18  # characters; a longer document comes in pieces, cut behind a line where it has one
PLACES = 3  # of a kind of problem that are kept to be shown


class Piece(NamedTuple):
    """A document or, where it is long, one part of it; `first` opens a new document."""

    text: str
    first: bool


class Problems:
    """What could not be used, counted by kind, with the first few places of each; with `refuse` the first ends it."""

    def __init__(self, refuse: bool = False) -> None:
        self.refuse = refuse
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        """Counts a problem, such as `broken JSON` at `a.jsonl, line 7`. Raises DataError where problems are refused."""
        if self.refuse:
            raise DataError(f"{place}: {kind}; mend it, or set data.bad_rows=skip to leave such rows out, counted")
        self.leave_out(kind)
        known = self.places.setdefault(kind, [])
        if len(known) < PLACES:
            known.append(place)

    def leave_out(self, kind: str) -> None:
        """Counts what is in order but not wanted, such as a duplicate."""
        self.counts[kind] += 1


class Documents(Protocol):
    """A source: where documents come from, in a fixed order, a piece at a time, so memory does not grow with size."""

    @property
    def type(self) -> str:
        """Its name in a preset."""

    def identity(self) -> dict[str, Any]:
        """What fixes its documents, as JSON: options, and of files their names, sizes and times.

        Raises DataError when there is nothing to read.
        """

    def size(self) -> int | None:
        """Bytes that will be read; None where nobody knows."""

    def pieces(self, problems: Problems) -> Iterator[Piece]:
        """Documents in order. Raises DataError where the source as a whole cannot be read."""


def whole(chunks: Iterator[str]) -> Iterator[Piece]:
    """One document in pieces that end behind a line, where a line ends within the last half of a piece."""
    first, held = True, ""
    for chunk in chunks:
        held += chunk
        while len(held) >= PIECE:
            newline = held.rfind("\n", PIECE // 2, PIECE)
            end = newline + 1 if newline >= 0 else PIECE
            yield Piece(held[:end], first)
            first, held = False, held[end:]
    if held:
        yield Piece(held, first)


def split(chunks: Iterator[str], separator: str) -> Iterator[Piece]:
    """The documents between separators; empty ones are none."""
    held, first = "", True
    for chunk in chunks:
        held += chunk
        *documents, held = held.split(separator)
        for document in documents:
            if document:
                yield Piece(document, first)
            first = True
        while len(held) >= 2 * PIECE:  # keep enough that a separator across the cut is still seen
            yield Piece(held[:PIECE], first)
            first, held = False, held[PIECE:]
    if held:
        yield Piece(held, first)
