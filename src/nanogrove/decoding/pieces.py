"""Text as its tokens come, piece by piece: all pieces joined are what the tokens decode to, up to a stop text.

A piece is given out as soon as nothing that follows can change it. What waits:

- the first bytes of a character whose last ones are missing, which decode to U+FFFD until these come;
- tokens of single bytes, where a vocabulary has them beside words: a run of them is decoded as a whole, and all of it
  is U+FFFD where one byte of it fits nowhere;
- what a stop text may begin with.

Only the last tokens are decoded again at each step, so that a long text takes no longer per token than a short one.
"""

from collections.abc import Sequence

from nanogrove.data.tokenizer import Tokenizer
from nanogrove.decoding.stopping import StopTexts
from nanogrove.errors import DataError

MOST_TOKENS = 32  # decoded per step, unless more of them wait
LEAD_TOKENS = 8  # of those whose text is out, decoded with what follows: the first of a text may be written otherwise


class TextPieces:
    """The text of one row: `take` its new tokens step by step, then the `rest`.

    `stopped` says whether a stop text was written, after which nothing comes; the row's tokens are then of no use.

    Args:
        tokenizer: whose tokens are taken.
        stops: texts before which the text ends.
    """

    def __init__(self, tokenizer: Tokenizer, stops: StopTexts | None = None) -> None:
        self.stopped = False
        self._tokenizer, self._stops, self._runs = tokenizer, stops, tokenizer.run_tokens
        self._ids: list[int] = []  # the last tokens
        self._given = ""  # what was given out of their text
        self._most = MOST_TOKENS

    def take(self, ids: Sequence[int]) -> str:
        """The text that is certain once `ids`, the tokens of a step, follow; often empty.

        A stop text counts as soon as the tokens up to here decode to it, as it does while a row grows. Raises DataError
        for a tokenizer that writes what was given out otherwise once more follows.
        """
        if self.stopped or not ids:
            return ""
        self._ids += ids
        new = self._waiting()
        end = None if self._stops is None else self._stops.first(new)
        if end is not None:
            self.stopped = True
            return new[:end]
        piece = new[: self._certain(new)]
        self._given += piece
        if len(self._ids) > self._most:
            self._forget(len(new) - len(piece))
        return piece

    def rest(self) -> str:
        """What waited, when no more tokens come."""
        return "" if self.stopped else self._waiting()

    def _waiting(self) -> str:
        """The text of the tokens so far, less what was given out."""
        text = self._tokenizer.decode(self._ids)
        if not text.startswith(self._given):
            raise DataError(
                "this tokenizer writes a text otherwise once more follows, so it cannot come in pieces; use generate"
            )
        return text[len(self._given) :]

    def _certain(self, new: str) -> int:
        """How many characters of the text that waits are certain."""
        certain = len(new) - new.endswith("\ufffd")
        if self._ids[-1] in self._runs:
            run = next((n for n, i in enumerate(reversed(self._ids)) if i not in self._runs), None)
            words = [] if run is None else self._ids[: len(self._ids) - run]
            certain = max(len(self._tokenizer.decode(words)) - len(self._given), 0)
        return certain - (0 if self._stops is None else self._stops.begun(new[:certain]))

    def _forget(self, waiting: int) -> None:
        """Drops the first half of the tokens, where the text of the others is known to be the same without them.

        Text of the first of these, which may be written otherwise now, must be out; `waiting` characters are not.
        """
        kept = self._ids[len(self._ids) // 2 :]
        text, lead = self._tokenizer.decode(kept), len(self._tokenizer.decode(kept[:LEAD_TOKENS]))
        given = text[: max(len(text) - waiting, 0)]
        if 0 < lead <= len(given) and self._given.endswith(given[lead:]):
            self._ids, self._given, self._most = kept, given, MOST_TOKENS
        else:
            self._most = 2 * len(self._ids)
