"""Dialects of CSV: what stands between cells and around them, and the lines above the header.

Candidates are tried on the first rows; the one under which most rows are sound and of one length wins. Decision 025 has
how often this, and what libraries say, is right.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", "^": "caret", "~": "tilde"}
EXCEL_LINE = re.compile("sep=(.)(\r\n|\r|\n)?", re.DOTALL)  # the first line in which Excel names the delimiter
TRIED_ROWS = 200  # by which candidates are compared
MAX_TITLE_LINES = 30  # above a header
UNLIKELY, TITLED = 0.5, 0.8  # factors of the share, for one column or no header, and for lines above the header
DATA = re.compile(r"[-+]?[$€£]?[\d.,:/ %-]*\d[\d.,:/ %-]*[$€£]?")  # numbers and dates, which no header has


@dataclass(frozen=True)
class Dialect:
    """How the rows of a CSV file are written.

    Args:
        delimiter: between cells
        quote: around cells that hold delimiters, line ends or quotes; twice within such a cell, it is part of it
        escape: makes a quote that follows it a part of the cell; None where only doubled quotes are
        skip_lines: above the header
        spaces: whether blanks that follow a delimiter are left out
    """

    delimiter: str
    quote: str = '"'
    escape: str | None = None
    skip_lines: int = 0
    spaces: bool = False

    def settings(self, usual: str) -> dict[str, object]:
        """The settings of a source that has this dialect, without those that are right when left out.

        `usual` is the delimiter that the file's name, or Excel's line, says.
        """
        settings: dict[str, object] = {}
        if self.delimiter != usual:
            settings["delimiter"] = self.delimiter
        if self.quote != '"':
            settings["quote"] = self.quote
        if self.escape is not None:
            settings["escape"] = self.escape
        if self.skip_lines:
            settings["skip_lines"] = self.skip_lines
        if self.spaces:
            settings["spaces"] = True
        return settings

    def rows(self, lines: Iterable[str], strict: bool = False) -> "CsvReader":
        """The rows that lines make; with `strict`, one with more after a closing quote raises csv.Error."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote,
            escapechar=self.escape,
            skipinitialspace=self.spaces,
            strict=strict,
        )


class DialectGuess(NamedTuple):
    """A dialect, and why it was chosen."""

    dialect: Dialect
    why: str


class _Trial(NamedTuple):
    """What the first rows are under a dialect."""

    dialect: Dialect
    share: float  # of the rows that are sound and of the commonest length
    cells: int  # the commonest length
    skip_lines: int | None  # before the header; None where no row looks like one

    @property
    def score(self) -> float:
        if self.cells < 2 or self.skip_lines is None:
            return UNLIKELY * self.share
        return TITLED * self.share if self.skip_lines else self.share


def excel_delimiter(line: str) -> str | None:
    """The delimiter that a first line `sep=;` names; None for any other line."""
    match = EXCEL_LINE.fullmatch(line)
    return match[1] if match else None


def guess_dialect(text: str, usual: str = ",") -> DialectGuess:
    """The dialect of a table by its beginning; `usual` is the delimiter that its name says."""
    lines = list(io.StringIO(text, newline=""))  # str.splitlines cuts at signs within cells, as U+2028
    named = excel_delimiter(lines[0]) if lines else None
    lines = (lines[1:] if named else lines)[:-1] or lines  # the last may be cut
    delimiters = [named] if named else [usual, *(d for d in DELIMITERS if d != usual)]
    trials = [_try(lines, dialect) for dialect in _candidates(text, delimiters)]
    best = max(trials, key=lambda trial: trial.score)
    if best.cells < 2 and lines and best.dialect.delimiter not in lines[0]:  # one that occurs nowhere says nothing
        occurring = [trial for trial in trials if trial.dialect.delimiter in lines[0]]
        best = max(occurring or trials, key=lambda trial: trial.score)
    return DialectGuess(replace(best.dialect, skip_lines=best.skip_lines or 0), _why(best, named))


def _candidates(text: str, delimiters: list[str]) -> Iterator[Dialect]:
    """What is tried, the likeliest first; a quote that a backslash escapes is one where that makes no fault."""
    signs = re.escape("".join(delimiters))
    opening = len(re.findall(f"(?:^|[{signs}])'", text, re.MULTILINE))
    closing = len(re.findall(f"'(?:$|[{signs}\r])", text, re.MULTILINE))
    quotes = '"' if not opening else "'\"" if opening == closing and '"' not in text else "\"'"
    for delimiter in delimiters:
        for quote in quotes:
            if "\\" + quote in text:
                yield Dialect(delimiter, quote, "\\")
            yield Dialect(delimiter, quote)
            if f"{delimiter} {quote}" in text:
                yield Dialect(delimiter, quote, spaces=True)


def _try(lines: list[str], dialect: Dialect) -> _Trial:
    rows = dialect.rows(lines, strict=True)
    sound, faults, before = list[tuple[int, list[str]]](), 0, 0
    while len(sound) + faults < TRIED_ROWS:
        try:
            cells = next(rows)
        except StopIteration:
            break
        except csv.Error:
            faults += rows.line_num < len(lines)  # at the end a row may be cut
        else:
            if cells:
                sound.append((before, cells))
        before = rows.line_num
    _leave_out_last_empty(sound)
    lengths = Counter(len(cells) for _, cells in sound)
    length, count = lengths.most_common(1)[0] if lengths else (0, 0)
    return _Trial(dialect, count / max(len(sound) + faults, 1), length, _lines_before_header(sound, length))


def _leave_out_last_empty(rows: list[tuple[int, list[str]]]) -> None:
    """Leaves out the cell after a last delimiter, where all rows but the header end in one, as the reader does."""
    header = len(rows[0][1]) if rows else 0
    longer = [cells for _, cells in rows if len(cells) == header + 1]
    if header > 1 and not any(cells[-1] for cells in longer):
        for cells in longer:
            cells.pop()


def _lines_before_header(rows: list[tuple[int, list[str]]], length: int) -> int | None:
    """How many lines precede the header: rows of one filled cell or of another length than `length`.

    None where what follows them has data or gaps in place of names. `rows` have the number of lines before each.
    """
    for number, (before, cells) in enumerate(rows):
        filled = len("\0".join(cells).rstrip("\0").split("\0"))
        if len(cells) != length or (filled < 2 <= length and before < MAX_TITLE_LINES):
            continue
        named = all(cell.strip() for cell in cells[1:])  # the first may have no name, as that of an index
        if number and not (named and len(set(cells)) == length and not any(map(DATA.fullmatch, cells))):
            return None
        return before if number else 0
    return None


def _why(trial: _Trial, named: str | None) -> str:
    if named:
        reasons = ["its first line says so"]
    elif trial.cells < 2:
        reasons = ["the header has one column"]
    else:
        reasons = [f"{trial.cells} cells in {trial.share:.0%} of the rows"]
    if trial.dialect.quote != '"':
        reasons.append(f"cells are quoted by {trial.dialect.quote}")
    if trial.dialect.escape:
        reasons.append("a backslash stands before a quote that is part of a cell")
    if trial.dialect.spaces:
        reasons.append("blanks stand between delimiters and quotes")
    if trial.skip_lines:
        reasons.append(f"the header follows {trial.skip_lines} lines of other text")
    return "; ".join(reasons)
