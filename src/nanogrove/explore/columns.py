"""Describes what each column of a table holds, and chooses those that make a text, by rules of thumb with reasons."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from itertools import pairwise
from typing import NamedTuple

from nanogrove.data.sources.messages import joined_messages
from nanogrove.data.sources.tables import Columns, cell_text

TEXT_CHARACTERS, TEXT_WORDS = 60, 10  # mean of a cell, from which on a column is text
FIRST_WIDE = "\u2e80"  # from here on scripts without spaces between words, whose characters count for more
MAX_FORMAT_COLUMNS = 20
MESSAGES = "messages of a chat, joined by their roles"
NUMBER = re.compile(r"[-+]?[$€£]? ?(\d{1,3}([, ]\d{3})+|\d+)?([.,]\d+)?([eE][-+]?\d+)? ?%?")
DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}([-/.]\d{1,2}([T ].{,30})?)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}( .{,20})?"
    r"|(\d{1,2} )?[A-Z][a-z]{2,8}\.? (\d{1,2},? )?\d{4}"
)
CODE = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{24,64}")
LINK = re.compile(r"(https?://|www\.)\S+")
NAMED_ID = re.compile(r"(.*[_\s.-])?(id|uuid|guid|index|idx)|unnamed: \d+|", re.IGNORECASE)
CAMEL_ID = re.compile(r".*[a-z](Id|ID)")
NOTHING = {"", "n/a", "na", "nan", "null", "none", "-"}
TEXTS = ("text", "content", "body", "sentence")
TITLES = "title|headline|name|subject|heading"
PAIRS: list[tuple[tuple[str, ...], str]] = [  # columns by their usual names, in small letters, and their format
    (("instruction", "input", "output|response"), ""),
    (("context", "question", "answer"), ""),
    (("question|query", "answer|response"), "Q: {}\nA: {}"),
    (("prompt", "completion|response|output|chosen"), ""),
    (("instruction", "output|response|completion|answer"), ""),
    (("input", "output|target|response"), ""),
    (("source", "target"), ""),
    (("article|document|text|dialogue", "summary|highlights"), ""),
    ((TITLES, "text|body|content|article|abstract|description|story"), "{}\n\n{}"),
]


@dataclass(frozen=True)
class Column:
    """A column of a sample; shares are of 1, `numeric` and `distinct` of the filled cells."""

    name: str
    verdict: str  # text, short text, category, number, date, id, link, nested, constant, empty
    why: str
    present: float  # of the rows, those that have it at all
    filled: float  # of the rows, those where it is not empty
    numeric: float
    distinct: float
    characters: float  # mean
    words: float  # mean
    example: str
    usable: bool = True  # False for a name that stands twice in the header

    @property
    def fits(self) -> bool:
        """Whether a format can name it."""
        return self.usable and bool(self.name) and not set(self.name) & set("{}!:")


class Choice(NamedTuple):
    """Settings of the columns of a source, why these, and what else should be known."""

    options: dict[str, str | list[str]]
    why: str
    notes: list[str]


def examine(name: str, values: Sequence[object], rows: int, usable: bool = True) -> Column:
    """What a column holds, by the values of those of `rows` rows that have it."""
    cells = [value if isinstance(value, str) else cell_text(value) for value in values]
    full = [(value, text) for value, cell in zip(values, cells, strict=True) if (text := cell.strip())]
    texts = [cell for _, cell in full]
    count = len(texts)
    if not count:
        return Column(name, "empty", "no cell holds anything", len(cells) / rows, 0, 0, 0, 0, 0, "", usable)
    telling = [cell for cell in texts if len(cell) > 4 or cell.lower() not in NOTHING] or texts
    numbers = [cell for cell in telling if _is_number(cell)]
    numeric = len(numbers) / len(telling)
    distinct = len(set(texts))
    characters, words = sum(map(len, texts)) / count, sum(len(cell.split()) for cell in texts) / count
    example = next((cell for cell in texts if len(cell) >= characters / 2), texts[0])[:200]
    verdict, why = _verdict(name, full, telling, numbers, distinct, characters, words)
    shares = (len(cells) / rows, count / rows, numeric, distinct / count)
    return Column(name, verdict, why, *shares, characters, words, example, usable)


def _is_number(cell: str) -> bool:
    match = NUMBER.fullmatch(cell) if len(cell) < 40 else None
    return match is not None and match.lastindex is not None  # each group of NUMBER holds a digit


def _verdict(
    name: str,
    full: list[tuple[object, str]],
    telling: list[str],
    numbers: list[str],
    distinct: int,
    characters: float,
    words: float,
) -> tuple[str, str]:
    """What a column holds, and why.

    Args:
        name: of the column
        full: values and texts of all cells that are not empty
        telling: the texts without such as `n/a`
        numbers: those of `telling` that are numbers
        distinct: how many different texts
        characters: mean of a text
        words: mean of a text
    """
    count = len(full)
    share, numeric = distinct / count, len(numbers) / len(telling)
    size = f"mean {characters:,.0f} characters, {words:,.0f} word{'' if round(words) == 1 else 's'}"
    shown = f"{share:.0%} distinct" if distinct > 20 else f"{distinct} distinct"
    nested = [value for value, _ in full if isinstance(value, (list, dict))]
    if sum(joined_messages(value) is not None for value in nested) > count / 2:
        return "text", f"{MESSAGES}; {size}"
    if len(nested) > count / 2:
        return "nested", f"lists or objects, which become JSON; {size}"
    if (NAMED_ID.fullmatch(name) or CAMEL_ID.fullmatch(name)) and words < 2:
        return "id", f"by its name; {shown}"
    if numeric >= 0.95:
        if count >= 10 and sum(_follows(a, b) for a, b in pairwise(telling)) > 0.95 * (len(telling) - 1):
            return "id", f"counts up from {telling[0]}"
        most = "" if numeric == 1 else f"{numeric:.0%} of its cells; "
        return "number", f"{most}{_range(numbers)}{distinct:,} different"
    if isinstance(full[0][0], (date, datetime, time)) or _most(DATE, telling):
        return "date", shown
    if _most(CODE, telling):
        return "id", f"looks like a key; {shown}"
    if _most(LINK, telling):
        return "link", f"web addresses; {shown}"
    if distinct == 1 and count > 1:
        return "constant", "the same in every row"
    sample = "".join(cell[:200] for cell in telling[:100])
    wide = not sample.isascii() and sum(c >= FIRST_WIDE for c in sample) > len(sample) / 2
    few = distinct <= 0.05 * count or (distinct <= 20 and share <= 0.5)
    if characters >= TEXT_CHARACTERS or words >= TEXT_WORDS or (wide and characters >= TEXT_CHARACTERS / 3):
        return ("category" if few and count >= 20 else "text"), f"{size}, {shown}"
    if few:
        return "category", f"{distinct:,} values, {size}"
    return "short text", f"{size}, {shown}"


def _range(numbers: list[str]) -> str:
    """The least and the greatest number, where all are plain ones."""
    try:
        ordered = sorted(numbers, key=float)
    except ValueError:
        return ""
    return f"{ordered[0]} to {ordered[-1]}, "


def _follows(before: str, after: str) -> bool:
    decimal = before.isdecimal() and after.isdecimal() and max(len(before), len(after)) < 20
    return decimal and int(after) == int(before) + 1


def _most(pattern: re.Pattern[str], cells: list[str]) -> bool:
    """Whether at least 90 % of the cells fit; it is known after the first tenth where none does."""
    fitting, needed = len(cells), 0.9 * len(cells)
    for cell in cells:
        fitting -= pattern.fullmatch(cell[:200]) is None
        if fitting < needed:
            return False
    return True


def choose(columns: Sequence[Column]) -> Choice:
    """Which columns make the text of a row, always with an answer and its reason."""
    notes = []
    if twice := [column.name for column in columns if not column.usable]:
        notes.append(f"column {twice[0]!r} stands more than once in the header; rename all but one to use it")
    candidates = [c for c in columns if c.usable and c.verdict != "empty" and c.present >= 0.5]
    if not candidates:
        candidates = [c for c in columns if c.usable]
    named = {column.name: column for column in columns}
    if {"chosen", "rejected"} <= named.keys():
        settings = "" if "prompt" in named else " data.prompt=null"
        settings += " data.template=plain" if named["chosen"].why.startswith(MESSAGES) else ""
        notes.append(
            f"pairs of a chosen and a rejected text are what `nanogrove train dpo data.path=FILE{settings}` learns from"
        )
        candidates = [column for column in candidates if column.name != "rejected"] or candidates
    options, why = _options(candidates, notes)
    names = set(Columns(**options).names)
    for column in columns:
        if column.name in names and column.present < 1:
            notes.append(f"{1 - column.present:.0%} of the rows have no {column.name!r}; they are left out")
    return Choice(options, why, notes)


def _options(candidates: list[Column], notes: list[str]) -> tuple[dict[str, str | list[str]], str]:
    by_name = {column.name.strip().casefold(): column for column in candidates}
    texts = [column for column in candidates if column.verdict == "text"]
    longest = max((column.characters * column.filled for column in texts), default=0.0)
    texts = [column for column in texts if column.characters * column.filled >= longest / 4]
    for roles, template in PAIRS:
        matches = [next((by_name[n] for n in names.split("|") if n in by_name), None) for names in roles]
        pair = [column for column in matches if column is not None and column.verdict not in ("id", "link")]
        if len(pair) < len(roles) or pair[0].verdict not in ("text", "short text"):
            continue
        if texts and not any(column in texts for column in pair):
            continue  # the text is elsewhere
        return _together(pair, template, notes), f"{' and '.join(repr(c.name) for c in pair)} belong together"
    if len(texts) == 1:
        titles = [by_name[n] for n in TITLES.split("|") if n in by_name and by_name[n].verdict == "short text"]
        if titles:
            pair = [titles[0], texts[0]]
            return _together(pair, "{}\n\n{}", notes), f"{texts[0].name!r} is text, and {titles[0].name!r} its title"
        return {"text_field": texts[0].name}, f"{texts[0].name!r} is the only column of text"
    if texts:
        return _together(_first(texts, "columns of text", notes), "", notes), f"{len(texts):,} columns are text"
    if named := [by_name[n] for n in TEXTS if n in by_name and by_name[n].verdict == "short text"]:
        return {"text_field": named[0].name}, f"{named[0].name!r} is text by its name"
    useful = [c for c in candidates if c.verdict in ("short text", "category", "number", "date") and c.present > 0.9]
    worded = [c for c in useful if c.verdict in ("short text", "category")]
    if not worded and (nested := [c for c in candidates if c.verdict == "nested"]):
        return {"text_field": nested[0].name}, f"{nested[0].name!r} is the only column with words, as JSON"
    useful = useful or [c for c in candidates if c.verdict != "constant"] or candidates
    if len(useful) == 1:
        why = "" if worded else "no column is text; "
        return {"text_field": useful[0].name}, f"{why}{useful[0].name!r} is the only column of use"
    why = (
        "short texts beside numbers: each row becomes a few lines"
        if worded
        else ("no column is text, so the model would learn to write rows of numbers")
    )
    if (odd := [c for c in useful if not c.fits]) and len(odd) <= len(useful) - 2:
        notes.append(f"{odd[0].name!r} cannot be named in a format, for its {{ }} ! or :; rename it to use it")
        useful = [c for c in useful if c.fits]
    return _together(_first(useful, "useful columns", notes), "", notes), why


def _first(columns: list[Column], name: str, notes: list[str]) -> list[Column]:
    """As many of the columns as a text is made of."""
    if len(columns) > MAX_FORMAT_COLUMNS:
        notes.append(f"the first {MAX_FORMAT_COLUMNS} of {len(columns):,} {name} are taken")
    return columns[:MAX_FORMAT_COLUMNS]


def _together(columns: list[Column], template: str, notes: list[str]) -> dict[str, str | list[str]]:
    """The options that join several columns: a format, or `fields`, one per line, where a format cannot name them."""
    if not all(column.fits for column in columns):
        notes.append("a name with { } ! or : cannot be in a format, so the columns stand a line each, without labels")
        return {"fields": [column.name for column in columns]}
    if template:
        return {"format": template.format(*(f"{{{column.name}}}" for column in columns))}
    return {"format": "\n".join(f"{' '.join(column.name.split())}: {{{column.name}}}" for column in columns)}
