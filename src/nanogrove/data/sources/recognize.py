"""The recogniser: what the files at a path are (kind, packing, encoding, dialect, separators), by their content.

`explore` describes its answer, a bare path in `data.sources` becomes it, and rewarded data asks it for the kind.
"""

import codecs
import glob
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nanogrove.data.sources.contract import SourceKind, by_name_alone
from nanogrove.data.sources.dialect import DialectGuess, excel_delimiter, guess_dialect
from nanogrove.data.sources.encodings import DETECT, Guess, guess_encoding, marked_encoding
from nanogrove.data.sources.files import (
    NOT_UTF8_NAME,
    FileSource,
    Listing,
    describe_binary,
    io_errors_as_data_errors,
    size_of,
)
from nanogrove.data.sources.formats import FORMATS, format_of, readable_formats
from nanogrove.data.sources.json_values import lone_object
from nanogrove.data.sources.packing import Head, ending_of, head, packing_at, unpacked_name
from nanogrove.data.sources.tables import JSON, JSONL, usual_delimiter
from nanogrove.data.sources.text import TEXT
from nanogrove.errors import DataError
from nanogrove.paths import expanded

SAMPLE_BYTES, MAX_FILES = 1 << 24, 1000  # of all files of text together, and files, by whose beginnings they are judged
START_BYTES = 1 << 16  # of a file, by which its kind is recognised
LARGEST_FILES = 3  # of a group of a folder, by which its kind is recognised
END_OF_TEXT, START_OF_TEXT = "<|endoftext|>", "<|startoftext|>"
ALL_FILES = "**/*"


@dataclass(frozen=True)
class Recognized:
    """What the files at a path are.

    Args:
        kind: of source that reads them
        source: settings of such a source, for `data.sources`
        files: that it reads
        others: endings of the other files of a folder, and how many each
        hidden: files that were left out, since they are hidden
        sampled: those of the files whose beginnings were read, for files of text alone
        heads: these beginnings
        encodings: of each of them
        encoding: of the text; None for files that are not text
        dialect: of CSV
        notes: what else should be known
    """

    kind: SourceKind
    source: dict[str, object]
    files: list[Path]
    others: list[tuple[str, int]] = field(default_factory=list)
    hidden: int = 0
    sampled: list[Path] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    encodings: list[str] = field(default_factory=list)
    encoding: Guess | None = None
    dialect: DialectGuess | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Group:
    """Files of one kind, the glob that names them in a folder (None for the usual one), and why they cannot be read."""

    kind: SourceKind
    glob: str | None
    files: list[Path]
    problem: str | None


def recognize(path: str) -> Recognized:
    """What is at a path: a file, or the files of the kind that has most bytes in a folder or pattern.

    Raises DataError, with what exists instead, where nothing can be read.
    """
    if path.encode("utf-8", "ignore").decode() != path:
        raise DataError(f"{path}: its name {NOT_UTF8_NAME}")
    root = expanded(path)
    if root.is_file():
        kind, problem = _kind_of(root)
        if problem is not None:
            hint = "" if ";" in problem else f"; nanogrove reads {readable_formats()}"
            raise DataError(f"{path}: {problem}{hint}")
        return _completed(kind, {"type": kind.name, "path": path}, Listing([root], 0), [])
    listing = _listing(path, root)
    groups = _groups(listing.files, root.is_dir())
    readable = [group for group in groups if group.problem is None]
    if not readable:
        reasons = [f"{len(g.files)} {_ending_in_words(g.files[0])}, {g.problem}" for g in groups]
        raise DataError(f"{path}: holds nothing that can be read as text ({'; '.join(reasons[:3])})")
    if len(groups) > 1 and not root.is_dir():
        ending = ending_of(readable[0].files[0])
        raise DataError(f"{path}: names files of {len(groups)} kinds; give it an ending, such as {path}{ending}")
    chosen = readable[0]
    source: dict[str, object] = {"type": chosen.kind.name, "path": path}
    if root.is_dir() and chosen.glob is not None:
        source["glob"] = chosen.glob
    others = Counter(_ending_in_words(file) for group in groups if group is not chosen for file in group.files)
    return _completed(chosen.kind, source, Listing(chosen.files, listing.hidden), others.most_common())


def _listing(path: str, root: Path) -> Listing:
    """All files of a folder or pattern. Raises DataError where there are none."""
    if root.is_dir():
        with io_errors_as_data_errors(root):
            next(root.iterdir(), None)  # raises where access is denied, which a glob passes over
    elif not glob.has_magic(path):
        exists = root.exists() or root.is_symlink()
        raise DataError(f"{path}: " + ("neither a file nor a folder" if exists else "no such file or folder"))
    try:
        return FileSource(path=path).listing()
    except DataError:
        problem = "holds no file that is not hidden" if root.is_dir() else "no file fits this pattern"
        raise DataError(f"{path}: {problem}") from None


def _groups(files: Sequence[Path], folder: bool) -> list[_Group]:
    """The files by what one source can read, those of most bytes first; in a folder a source names one ending."""
    by_ending: dict[tuple[str, str | None], list[Path]] = {}
    kinds = {kind.name: kind for kind in FORMATS}
    for file in files:
        kind, ending = format_of(unpacked_name(file)), ending_of(file)
        usual = f"{file.name.lower()}".endswith(kind.endings)
        named = None if usual or not folder else f"**/*{glob.escape(ending)}" if ending else ALL_FILES
        by_ending.setdefault((kind.name, named), []).append(file)
    groups = []
    for (name, named), members in by_ending.items():
        kind, problem = _group_kind(kinds[name], members)
        if kind is not kinds[name] and named is None and folder:
            named = f"**/*{glob.escape(ending_of(members[0]))}"
        if problem is None and named == ALL_FILES and len(by_ending) > 1:
            problem = "which no glob can name"
        groups.append(_Group(kind, named, members, problem))
    return sorted(groups, key=lambda group: -sum(map(size_of, group.files)))


def _group_kind(kind: SourceKind, files: Sequence[Path]) -> tuple[SourceKind, str | None]:
    """The kind of a group by its largest files, and why it cannot be read, None where it can."""
    largest = sorted(files, key=size_of, reverse=True)[:LARGEST_FILES]
    if not size_of(largest[0]):
        return kind, "empty"
    if not kind.encoded:
        with io_errors_as_data_errors(largest[0]):
            packing = packing_at(largest[0])
        return kind, None if packing is None else f"packed by {packing.name}; unpack them, and name the unpacked files"
    answers = [_kind_of(file) for file in largest]
    problem = next((problem for _, problem in answers if problem is not None), None)
    return (answers[0][0] if len({kind.name for kind, _ in answers}) == 1 else kind), problem


def _kind_of(path: Path) -> tuple[SourceKind, str | None]:
    """The kind of a file by its content, or its name where that says nothing; and why it cannot be read."""
    by_name = format_of(unpacked_name(path))
    with io_errors_as_data_errors(path):
        start, _, whole = head(path, START_BYTES)
        packing = packing_at(path)
    plain = _as_utf8(start)
    kind = next((kind for kind in FORMATS if kind.recognize(plain)), by_name)
    if kind.encoded and (description := describe_binary(path, start)):
        return kind, description
    key = _key_of_rows(path, plain, whole) if by_name is JSON else None
    if kind in (JSON, JSONL) and key == "":
        return kind, _without_rows(path)
    if not kind.encoded and packing is not None:
        return kind, f"{kind.label} packed by {packing.name}; unpack it, and name the unpacked file"
    by_bytes = not kind.encoded and kind.recognize is not by_name_alone
    if by_bytes and start and not kind.recognize(start):
        return kind, f"not {kind.label} by its first bytes; if it is text, rename it to end in .txt"
    return (JSON if key else kind), None


def _key_of_rows(path: Path, start: bytes, whole: bool) -> str | None:
    """Of a file that is one JSON object the key of the rows in it, or ""; None for other files.

    It is looked for in the first bytes, which may be the `whole`, and then in SAMPLE_BYTES.
    """
    key = lone_object(start)
    if key != "" or whole:
        return key
    with io_errors_as_data_errors(path):
        return lone_object(_as_utf8(head(path, SAMPLE_BYTES).data))


def _without_rows(path: Path) -> str:
    """What a file of one JSON object is, in whose beginning there are no rows, and how it can be named."""
    settings: dict[str, object] = {"type": "text", "path": str(path)}
    problem = "one JSON object without rows; to train on it as it stands, name the source as "
    if size_of(path) <= SAMPLE_BYTES:
        return problem + json.dumps(settings, ensure_ascii=False)
    as_json = json.dumps({"type": "json", "path": str(path), "rows_in": "KEY"}, ensure_ascii=False)
    problem = problem.replace(" rows;", f" rows in its first {SAMPLE_BYTES >> 20} MiB;")
    return f"{problem}{json.dumps(settings, ensure_ascii=False)}, and where later rows have a key, as {as_json}"


def _as_utf8(start: bytes) -> bytes:
    """The first bytes of a text in utf-8, where a mark or NULs say that they are in utf-16 or utf-32."""
    guess = guess_encoding(start, whole=False) if b"\0" in start or marked_encoding(start) else None
    return start if guess is None else start.decode(guess.name, "replace").removeprefix("\ufeff").encode()


def _ending_in_words(file: Path) -> str:
    return ending_of(file) or "without an ending"


def _completed(
    kind: SourceKind, source: dict[str, object], listing: Listing, others: list[tuple[str, int]]
) -> Recognized:
    """The answer with all that the beginnings of files of text say. Raises DataError for a text that is damaged."""
    if not kind.encoded:
        return Recognized(kind, source, listing.files, others, listing.hidden)
    sampled = evenly([file for file in listing.files if size_of(file)], MAX_FILES)
    heads = []
    for file in sampled:
        with io_errors_as_data_errors(file):
            heads.append(head(file, max(SAMPLE_BYTES // len(sampled), 1)))
    if not heads:
        return Recognized(kind, source, listing.files, others, listing.hidden)
    best, option, notes = _encoding(kind, sampled, heads)
    names = [guess_encoding(one.data, one.whole).name if option == DETECT else best.name for one in heads]
    if kind is TEXT and all(
        one.whole and not decoded(one, name).strip() for one, name in zip(heads, names, strict=True)
    ):
        raise DataError(f"{source['path']}: nothing to train on (blanks alone)")
    if option is not None:
        source["encoding"] = option
    start = decoded(heads[0]._replace(data=heads[0].data[:START_BYTES], whole=False), names[0])
    answer = None
    if kind.delimited:
        answer = guess_dialect(start, usual_delimiter(sampled[0]))
        source |= answer.dialect.settings(excel_delimiter(start.partition("\n")[0]) or usual_delimiter(sampled[0]))
    whole = len(heads[0].data) <= START_BYTES
    if kind is JSON and (key := _key_of_rows(sampled[0], start.encode("utf-8", "replace"), whole)):
        source["rows_in"] = key
        notes.append(f"its rows are the list under {key!r}; rows_in names another key")
    if kind is TEXT and (marks := _marks(map(decoded, heads, names))):
        source["separator"] = marks
    return Recognized(kind, source, listing.files, others, listing.hidden, sampled, heads, names, best, answer, notes)


def evenly(files: list[Path], most: int) -> list[Path]:
    """At most so many of the files, spread evenly."""
    return [files[n * len(files) // most] for n in range(most)] if len(files) > most else files


def _encoding(kind: SourceKind, files: Sequence[Path], heads: Sequence[Head]) -> tuple[Guess, str | None, list[str]]:
    """The encoding of most of the files that are not ASCII alone, what to set, and a note where files differ."""
    guesses = [guess_encoding(one.data, one.whole) for one in heads]
    telling = [guess for guess in guesses if guess.why != "ASCII alone"] or guesses
    options = [guess.option for guess in telling]
    best = next(guess for guess in telling if guess.option == max(options, key=options.count))
    odd = [n for n, guess in enumerate(guesses) if guess in telling and guess.option != best.option]
    if odd:
        first = f"{files[odd[0]]} ({guesses[odd[0]].name})"
        return (
            best,
            DETECT,
            [f"{len(odd)} of the files are not {best.name}, such as {first}; each is read by its own bytes"],
        )
    if kind is TEXT and (damaged := [g for g, one in zip(guesses, heads, strict=True) if _is_damaged(one, g.name)]):
        return best, DETECT, [f"bytes that are not {damaged[0].name} are read as U+FFFD, and counted"]
    return best, best.option, []


def _is_damaged(one: Head, encoding: str) -> bool:
    """Whether some of the first bytes of a file are not of its encoding."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(one.data, final=one.whole)
    except UnicodeError:
        return True
    return False


def _marks(texts: Iterable[str]) -> str | list[str] | None:
    """The marks between texts, where a text has them: no doubt is left that these separate documents."""
    for text in texts:
        if END_OF_TEXT in text:
            return [START_OF_TEXT, END_OF_TEXT] if START_OF_TEXT in text else END_OF_TEXT
    return None


def decoded(one: Head, encoding: str) -> str:
    """The text of a head; a byte-order mark, and a character that its end cuts, are left out."""
    text = one.data.decode(encoding, "replace").removeprefix("\ufeff")
    return text if one.whole else text.rstrip("\ufffd")
