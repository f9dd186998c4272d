"""The pieces of documents that every source yields, and the count of what is left out of a source."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nanogrove.errors import DataError

PIECE_CHARACTERS = 1 << 18  # a longer document is cut into several pieces, after a line where it has one
LOCATIONS_PER_REASON = 3  # kept to be shown


class Piece(NamedTuple):
    """A document or, where it is long, one part of it; `first` opens a new document."""

    text: str
    first: bool


class Skipped:
    """Counts what is left out, by reason, with the first few locations; with `refuse` a bad row is an error."""

    def __init__(self, refuse: bool = False) -> None:
        self.refuse = refuse
        self.counts: Counter[str] = Counter()
        self.locations: dict[str, list[str]] = {}

    def bad(self, reason: str, location: str) -> None:
        """Counts what cannot be used, such as `broken JSON` at `a.jsonl, line 7`.

        Raises DataError where bad rows are refused.
        """
        if self.refuse:
            raise DataError(f"{location}: {reason}; mend it, or set data.bad_rows=skip to leave such rows out, counted")
        self.unwanted(reason)
        known = self.locations.setdefault(reason, [])
        if len(known) < LOCATIONS_PER_REASON:
            known.append(location)

    def unwanted(self, reason: str) -> None:
        """Counts what is in order but not wanted, such as a duplicate."""
        self.counts[reason] += 1

    def most_common(self, examples: bool = False) -> str:
        """The three commonest reasons with their counts, for a message; empty where there are none.

        With `examples` the first location of each, where one is known.
        """
        return "; ".join(
            f"{count} times {reason}"
            + (f", as in {known[0]}" if examples and (known := self.locations.get(reason)) else "")
            for reason, count in self.counts.most_common(3)
        )


def split_long_document(chunks: Iterator[str]) -> Iterator[Piece]:
    """One document as pieces that end after a line, where a line ends within the last half of a piece."""
    first, rest = True, ""
    for chunk in chunks:
        pieces, rest = _cut_pieces(rest + chunk)
        for piece in pieces:
            yield Piece(piece, first)
            first = False
    if rest:
        yield Piece(rest, first)


def split_at_separators(chunks: Iterator[str], separators: Sequence[str]) -> Iterator[Piece]:
    """The documents between separators, each cut as `split_long_document` cuts; empty ones are left out.

    A separator is recognised even where it spans two chunks. Where one begins like another, the longer one counts. Of
    several separators, what is blank between them is left out too, as a line end between an end mark and a start mark.
    """
    longest = sorted(separators, key=len, reverse=True)
    pattern, keep = re.compile("|".join(map(re.escape, longest))), len(longest[0]) - 1
    document, first, held, several = "", True, "", len(separators) > 1
    for chunk in chunks:
        *ended, held = pattern.split(held + chunk)
        for text in ended:
            if several and first and (document + text).isspace():
                document = ""
                continue
            pieces, rest = _cut_pieces(document + text)
            for piece in filter(None, (*pieces, rest)):
                yield Piece(piece, first)
                first = False
            document, first = "", True
        sure = max(len(held) - keep, 0)  # what follows may be the beginning of a separator
        pieces, document = _cut_pieces(document + held[:sure])
        held = held[sure:]
        for piece in pieces:
            yield Piece(piece, first)
            first = False
    if several and first and (document + held).isspace():
        return
    pieces, rest = _cut_pieces(document + held)
    for piece in filter(None, (*pieces, rest)):
        yield Piece(piece, first)
        first = False


def _cut_pieces(text: str) -> tuple[list[str], str]:
    """The full pieces at the front of a text, and the rest."""
    pieces, at = [], 0
    while len(text) - at >= PIECE_CHARACTERS:
        newline = text.rfind("\n", at + PIECE_CHARACTERS // 2, at + PIECE_CHARACTERS)
        end = newline + 1 if newline >= 0 else at + PIECE_CHARACTERS
        pieces.append(text[at:end])
        at = end
    return pieces, text[at:]
