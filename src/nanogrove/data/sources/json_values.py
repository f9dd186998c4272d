"""Rows of JSON in one piece: an array of objects or texts, or objects one after the other, on lines or not.

A value at a time is in memory, of at most MAX_LINE_CHARACTERS.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from nanogrove.data.sources.contract import OnBadRow, Row
from nanogrove.data.sources.pieces import PIECE_CHARACTERS
from nanogrove.data.sources.rows import MAX_LINE_CHARACTERS, NO_ROW, encodes, opened, row_of, with_long_numbers
from nanogrove.errors import DataError

BETWEEN = re.compile(r"[\s,\ufeff]*")  # what separates values; a byte-order mark may come first
CUT_CHARACTERS = 12  # at the end of what was read, within which an error may be no more than its end
OBJECT = re.compile(r'\{\s*"[^"]*"\s*:')  # how one begins
MAX_KEY = 60  # characters of a key of rows


class _Value(NamedTuple):
    """A value, the line on which it begins, and its text."""

    line: int
    value: object
    source: str


class _Broken(Exception):  # noqa: N818  it never leaves this file
    """The JSON is not valid; the arguments are the line and the reason."""


class _Values:
    """The values of a stream of JSON: those of its arrays, and those that stand alone."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text, self.at, self.line, self.ended = "", 0, 1, False
        self.count = self.arrays = 0  # that have begun
        self.entered = False  # an object, of which only one value is read

    def enter(self, key: str) -> None:
        """Goes to the value of a key of the object that is next. Raises _Broken where there is none."""
        if not self._skip_blanks() or self.text[self.at] != "{":
            raise _Broken(self.line, f"no object with {key!r}")
        for name in self._keys():
            if name == key:
                self.entered = True
                return
            if self._skip_blanks():
                self._value()
        raise _Broken(self.line, f"no key {key!r} in the object")

    def lists(self) -> Iterator[tuple[str, int]]:
        """The keys of lists of objects in the object that is next, each with the characters of one object in it.

        Raises _Broken where the object is cut off or broken.
        """
        self._skip_blanks()
        for key in self._keys():
            if not self._skip_blanks():
                return
            if self.text[self.at] != "[":
                self._value()
                continue
            self.at += 1
            while self._skip_blanks() and self.text[self.at] != "]":
                is_object = self.text[self.at] == "{"
                if is_object:
                    yield key, 1  # it counts where it is cut off, too
                one = self._value()
                if is_object:
                    yield key, len(one.source)
            self.at += 1

    def _keys(self) -> Iterator[str]:
        """The keys of the object that begins here; who asks for the next one has passed the value."""
        self.at += 1
        while self._skip_blanks() and self.text[self.at] != "}":
            key = self._value().value
            if not self._skip_blanks() or self.text[self.at] != ":":
                return
            self.at += 1
            yield str(key)

    def __iter__(self) -> Iterator[_Value]:
        """Raises _Broken where no value follows, though more text does."""
        in_array = False
        while self._skip_blanks():
            sign = self.text[self.at]
            if sign == "[" and not in_array:
                in_array, self.at, self.arrays = True, self.at + 1, self.arrays + 1
            elif sign == "]" and in_array:
                in_array, self.at = False, self.at + 1
                if self.entered:
                    return
            else:
                self.count += 1
                yield self._value()
        if in_array:
            raise _Broken(self.line, "it is cut off")

    def _skip_blanks(self) -> bool:
        """Goes to the next sign that is neither blank nor a comma; false at the end."""
        while True:
            end = BETWEEN.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing too
            self._forward(end)
            if self.at < len(self.text):
                return True
            if not self._read(PIECE_CHARACTERS):
                return False

    def _value(self) -> _Value:
        while True:
            try:
                value, end = with_long_numbers(lambda decoder: decoder.raw_decode(self.text, self.at))
            except RecursionError:
                raise _Broken(self.line, "nested too deep") from None
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - CUT_CHARACTERS
                if not cut or self.ended:
                    raise _Broken(self.line, "it is cut off" if cut else error.msg[:60].lower()) from None
            else:
                if end < len(self.text) or self.ended:  # a number may go on
                    one = _Value(self.line, value, self.text[self.at : end])
                    self._forward(end)
                    return one
            held = len(self.text) - self.at
            if held > MAX_LINE_CHARACTERS:
                raise _Broken(self.line, f"a value is longer than {MAX_LINE_CHARACTERS:,} characters")
            self._read(max(held, PIECE_CHARACTERS))  # twice as much each time, so that time stays in proportion

    def _forward(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def _read(self, characters: int) -> bool:
        """Reads more and forgets what was passed; false at the end."""
        more = self.file.read(characters)
        self.ended = not more
        self.text, self.at = self.text[self.at :] + more, 0
        return bool(more)


def json_rows(path: Path, encoding: str, key: str | None, on_bad: OnBadRow) -> Iterator[Row]:
    """The objects of a file with the numbers of the lines on which they begin; a text is a row of one column, `text`.

    With `key` the file is one object, and its rows are the list under that key.

    Raises DataError for a file that cannot be read, is cut off or is not JSON.
    """
    with opened(path, encoding) as (file, name):
        try:
            values = _Values(file)
            if key is not None:
                values.enter(key)
            for line, value, source in values:
                if not encodes(source) or (("\\ud" in source or "\\uD" in source) and not encodes(_dumped(value))):
                    on_bad(f"not {name}", line)
                elif (row := row_of(value)) is None:
                    on_bad(NO_ROW, line)
                else:
                    yield line, row
        except _Broken as error:
            line, reason = error.args
            raise DataError(f"{path}, line {line}: broken JSON ({reason})") from None


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def holds_json_values(start: bytes) -> bool:
    """Whether the first bytes of a file are an array of objects or texts, or the first of several objects."""
    text = start.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    values = _Values(io.StringIO(text))
    try:
        for one in values:
            if not isinstance(one.value, (dict, str)) or not text.startswith(("[", "{")):
                return False
    except _Broken as error:
        if error.args[0] == 1 and values.count > 1 and "cut off" not in error.args[1]:
            return False  # prose that begins with JSON
        if values.count < 2:
            return text.startswith("[") and re.match(r'\[\s*(\{\s*"|")', text) is not None and values.count == 1
    return bool(values.count > 1 or (values.arrays and values.count))


def lone_object(start: bytes) -> str | None:
    """Where a file of these first bytes is one JSON object, the key of the rows in it, or ""; None for other files."""
    text = start.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not OBJECT.match(text):
        return None
    values = _Values(io.StringIO(text))
    try:
        count = sum(1 for _ in values)
    except _Broken as error:
        count = values.count
        if "cut off" not in error.args[1] and count < 2:
            return None
    return None if count > 1 else _longest_list(text)


def _longest_list(text: str) -> str:
    """The key of the longest list of objects of an object, by the beginning of its text; "" where it has none."""
    lengths = Counter[str]()
    with suppress(_Broken):
        for key, characters in _Values(io.StringIO(text)).lists():
            if len(key) <= MAX_KEY:
                lengths[key] += characters
    return max(lengths, key=lambda key: lengths[key], default="")
