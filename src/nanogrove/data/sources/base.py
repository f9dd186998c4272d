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
        pieces, held = _cut(held + chunk)
        for piece in pieces:
            yield Piece(piece, first)
            first = False
    if held:
        yield Piece(held, first)


def split(chunks: Iterator[str], separator: str) -> Iterator[Piece]:
    """The documents between separators, cut as `whole` cuts, wherever chunks end; empty ones are none."""
    document, first, held, keep = "", True, "", len(separator) - 1
    for chunk in chunks:
        *ended, held = (held + chunk).split(separator)
        for text in ended:
            pieces, rest = _cut(document + text)
            for piece in filter(None, (*pieces, rest)):
                yield Piece(piece, first)
                first = False
            document, first = "", True
        sure = max(len(held) - keep, 0)  # what is behind may be the beginning of a separator
        pieces, document = _cut(document + held[:sure])
        held = held[sure:]
        for piece in pieces:
            yield Piece(piece, first)
            first = False
    pieces, rest = _cut(document + held)
    for piece in filter(None, (*pieces, rest)):
        yield Piece(piece, first)
        first = False


def _cut(text: str) -> tuple[list[str], str]:
    """The pieces at the front of a text, and what is left."""
    pieces, at = [], 0
    while len(text) - at >= PIECE:
        newline = text.rfind("\n", at + PIECE // 2, at + PIECE)
        end = newline + 1 if newline >= 0 else at + PIECE
        pieces.append(text[at:end])
        at = end
    return pieces, text[at:]
