"""Stop texts: what a row has written ends before the first of them, wherever tokens begin and end.

A text may begin within one token and end within another, so it is sought in what tokens decode to. While a row grows,
only its last tokens are decoded, and all of them where a text seems to be among these; what is written is then cut
exactly, by `cut`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanogrove.errors import PresetError

SPARE_TOKENS = 8  # decoded beyond those that a text may consist of: a character of several bytes may be cut in two


@dataclass(frozen=True)
class StopTexts:
    """Texts at which a row ends.

    Args:
        texts: none of them empty
        decode: the text of token ids
    """

    texts: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    @property
    def window(self) -> int:
        """How many of the last tokens may have written a stop text; a token writes one byte at least."""
        return max(len(text.encode()) for text in self.texts) + SPARE_TOKENS

    def within(self, ids: Sequence[int]) -> bool:
        """Whether tokens wrote a stop text."""
        return self.first(self.decode(ids)) is not None

    def cut(self, ids: Sequence[int]) -> tuple[int, str]:
        """How many of the tokens it took to write the first stop text, and the text before it; all where none is."""
        text = self.decode(ids)
        end = self.first(text)
        if end is None:
            return len(ids), text
        low, high = 1, len(ids)  # tokens that are too few at `low - 1`, and enough at `high`
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.within(ids[:middle]) else (middle + 1, high)
        return low, text[:end]

    def first(self, text: str) -> int | None:
        """Where the first stop text in `text` begins."""
        return min((at for at in map(text.find, self.texts) if at >= 0), default=None)

    def begun(self, text: str) -> int:
        """How many of the last characters of `text` a stop text may begin with; 0 where none does."""
        longest = min(len(text), max(map(len, self.texts)) - 1)
        ends = (count for count in range(longest, 0, -1) if any(t[:count] == text[-count:] for t in self.texts))
        return next(ends, 0)


def stop_texts(texts: str | Sequence[str], decode: Callable[[Sequence[int]], str]) -> StopTexts | None:
    """The stop texts, one or several; None where there is none.

    Raises PresetError for an empty one, and for one that is not text.
    """
    listed = (texts,) if isinstance(texts, str) else tuple(texts)
    if not all(listed):
        raise PresetError("stop: an empty text is everywhere; leave it out")
    for text in listed:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PresetError(f"stop: {text!r} holds half a character, which no model writes; leave it out")
    return StopTexts(listed, decode) if listed else None
