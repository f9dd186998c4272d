"""Whether a stranger's regular expression is safe to run, before a library runs it.

The `tokenizers` library matches with Oniguruma, which backtracks and cannot be interrupted, and rewards with Python's
`re`, which backtracks too: `(a|aa)+b` takes exponential time on a run of the letter a, and `((a{1000}){1000}){1000}` is
a program of a billion steps. Patterns of published tokenizers need neither: they repeat single characters and classes,
at most a group of fixed length.
"""

import re
from dataclasses import dataclass

MAX_PATTERN_CHARACTERS = 10_000
MAX_REPEATED_ATOMS = 100_000  # of a pattern once its counts, such as {3}, are written out
EXTENDED = re.compile(r"\?[a-zA-Z^-]*x[a-zA-Z-]*[:)]")  # flags of a group
MAX_WAYS = 1_000_000  # to match at one place, beside open repeats: a?a?a? has 8
MAX_OPEN_REPEATS = 6  # one after the other, such as a*b*c*: each may take what the others give back


@dataclass
class _Part:
    """What has been read of a group, or a single character.

    Args:
        atoms: characters and classes once counts are written out.
        varies: whether it may match in several ways, since it repeats or offers alternatives.
        open_repeats: repeats without a bound, in the alternative that has the most.
        ways: in how many ways it may match at one place, however often each open repeat does.
    """

    atoms: int = 0
    varies: bool = False
    open_repeats: int = 0
    ways: int = 1

    def add(self, other: "_Part") -> None:
        """Appends what follows."""
        self.atoms += other.atoms
        self.varies |= other.varies
        self.open_repeats += other.open_repeats
        self.ways *= other.ways


def refusal(pattern: str, classes_nest: bool = True) -> str | None:
    """Why a pattern is refused, as a clause; None for one that is safe, or that its library rejects.

    Its syntax is that of Oniguruma, where classes such as `[a[bc]]` nest, or Python's, where they do not.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return f"is longer than {MAX_PATTERN_CHARACTERS:,} characters"
    try:
        whole = _Reader(pattern, classes_nest).group()
    except _RefusedError as error:
        return str(error)
    if whole.atoms > MAX_REPEATED_ATOMS:
        return f"repeats more than {MAX_REPEATED_ATOMS:,} characters"
    if whole.ways > MAX_WAYS:
        return f"may match in more than {MAX_WAYS:,} ways"
    if whole.open_repeats > MAX_OPEN_REPEATS:
        return f"has more than {MAX_OPEN_REPEATS} open repeats one after the other"
    return None


class _RefusedError(Exception):
    """A pattern is not safe; the text says why."""


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str, classes_nest: bool) -> None:
        self.pattern, self.at, self.classes_nest = pattern, 0, classes_nest

    def group(self) -> _Part:
        """A pattern, or a group up to its parenthesis: its alternatives together. Levels are not nested calls."""
        outer: list[tuple[list[_Part], _Part]] = []
        alternatives: list[_Part] = []
        sequence = _Part()
        while self.at < len(self.pattern):
            character = self.pattern[self.at]
            self.at += 1
            if character == "(":
                self._open()
                outer.append((alternatives, sequence))
                alternatives, sequence = [], _Part()
                continue
            if character == "|":
                alternatives.append(sequence)
                sequence = _Part()
                continue
            if character == ")":
                if not outer:
                    break  # the library says that it is one too many
                part = _joined([*alternatives, sequence])
                alternatives, sequence = outer.pop()
            else:
                part = self._atom(character)
            sequence.add(self._repeated(part))
        while outer:  # a parenthesis is missing, which the library says
            part = _joined([*alternatives, sequence])
            alternatives, sequence = outer.pop()
            sequence.add(part)
        return _joined([*alternatives, sequence])

    def _open(self) -> None:
        """Reads what follows an opening parenthesis.

        Raises _RefusedError for a condition, which is a program, a reference to a group, and a comment or a flag that
        allows comments, in which a bracket means nothing.
        """
        rest = self.pattern[self.at : self.at + 2]
        if rest in ("?(", "?~", "?#"):
            raise _RefusedError(f"has a group ({rest}")
        if self.pattern.startswith("?P=", self.at):
            raise _RefusedError("refers to a group")
        if EXTENDED.match(self.pattern, self.at):
            raise _RefusedError("has the flag x")
        if rest[:1] == "?":
            while self.at < len(self.pattern) and self.pattern[self.at] not in ":=!>)":
                self.at += 1
            if self.pattern[self.at : self.at + 1] != ")":
                self.at += 1

    def _atom(self, character: str) -> _Part:
        """A character or a class. Raises _RefusedError for a reference to a group."""
        if character == "\\":
            escaped = self.pattern[self.at : self.at + 1]
            self.at += 1
            if escaped in tuple("123456789gk"):
                raise _RefusedError("refers to a group")
            if self.pattern[self.at : self.at + 1] == "{" and escaped in ("p", "P", "x", "o", "u"):
                self.at = (self.pattern.find("}", self.at) + 1) or len(self.pattern)
        elif character == "[":
            self._class()
        return _Part(atoms=1)

    def _class(self) -> None:
        """Reads a class up to its bracket; classes nest, and a bracket that comes first is a character."""
        depth = 1
        self.at += self.pattern[self.at : self.at + 1] == "^"
        self.at += self.pattern[self.at : self.at + 1] == "]"
        while depth and self.at < len(self.pattern):
            character = self.pattern[self.at]
            self.at += 2 if character == "\\" else 1
            depth += (character == "[" and self.classes_nest) - (character == "]")

    def _repeated(self, part: _Part) -> _Part:
        """A part with the quantifiers that follow it. Raises _RefusedError where it repeats what varies itself."""
        while (bounds := self._quantifier()) is not None:
            low, high = bounds
            times = max(low, high if high is not None else 1, 1)
            if part.varies and (high is None or high > 1):
                raise _RefusedError("repeats a group that repeats or has alternatives")
            part = _Part(
                atoms=part.atoms * times,
                varies=part.varies or low != high,
                open_repeats=part.open_repeats * times + (high is None),
                ways=part.ways + (0 if high is None else max(high - low, 0)),
            )
        return part

    def _quantifier(self) -> tuple[int, int | None] | None:
        """The least and the greatest count of a quantifier, None for no bound; None where there is no quantifier."""
        character = self.pattern[self.at : self.at + 1]
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if character in simple:
            self.at += 1
            self.at += self.pattern[self.at : self.at + 1] in ("?", "+")  # lazy, possessive
            return simple[character]
        end = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : end].partition(",")
        counts = [text for text in (low, high) if text]
        if character != "{" or end < 0 or not counts or not all(text.isdecimal() for text in counts):
            return None
        self.at = end + 1
        self.at += self.pattern[self.at : self.at + 1] in ("?", "+")  # GPT-4's pattern means possessive by {1,3}+
        if max(map(len, counts)) > 6:
            raise _RefusedError("repeats a character more than 999,999 times")
        return int(low or 0), (int(high) if high else None) if comma else int(low)


def _joined(alternatives: list[_Part]) -> _Part:
    return _Part(
        atoms=sum(part.atoms for part in alternatives),
        varies=len(alternatives) > 1 or any(part.varies for part in alternatives),
        open_repeats=max(part.open_repeats for part in alternatives),
        ways=sum(part.ways for part in alternatives),
    )
