"""Checks a stranger's tokenizer.json before the `tokenizers` library reads it.

The library trusts its files: damaged tables and patterns that never end abort the process, eat its memory or hang,
which nothing in Python can catch. So what is known to be dangerous is bounded here, part by part, in the table
`CHECKS`; what merely makes no sense is left to the library, whose errors can be caught.
"""

import base64
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from nanogrove.data.patterns import refusal
from nanogrove.errors import DataError

MAX_BYTES = 100 << 20  # the largest published ones, of a million tokens, have 60 MB
MAX_TOKENS = 1 << 24  # an id is below it
MAX_INSERTED_CHARACTERS = 1000  # for one that is replaced, through all steps
MAX_WORD_CHARACTERS = 10_000  # WordPiece takes the square of a word's length
MAX_NESTED = 64  # parts within each other
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")

Part = Mapping[str, object]


class BadTokenizerError(ValueError):
    """A tokenizer.json that is refused; the text says why."""


def read_tokenizer_file(path: Path) -> str:
    """The text of a tokenizer.json. Raises DataError for what is not a regular file, or not a text of bounded size."""
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            raise DataError(f"{path}: cannot read this tokenizer (not a regular file); name a tokenizer.json")
        if kind.st_size > MAX_BYTES:
            raise DataError(f"{path}: cannot read this tokenizer ({kind.st_size:,} bytes; at most {MAX_BYTES:,})")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1).decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot read this tokenizer ({reason})") from None


def check_tokenizer_json(text: str) -> None:
    """Raises BadTokenizerError for a tokenizer.json that could abort, hang, or eat the memory of this process."""
    if len(text) > MAX_BYTES:
        raise BadTokenizerError(f"{len(text):,} characters; at most {MAX_BYTES:,}")
    try:
        content = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise BadTokenizerError("nested too deeply") from None
    if not isinstance(content, dict):
        return  # the library says that it is none
    for name in PARTS:
        inserted = 1.0
        for part in _parts(content.get(name), 0):
            check = CHECKS.get(str(part.get("type")))
            inserted *= check(part) if check else 1.0
            if inserted > MAX_INSERTED_CHARACTERS:
                raise BadTokenizerError(f"its {name} makes a text more than {MAX_INSERTED_CHARACTERS:,} times as long")
    _check_ids(content)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON. Raises BadTokenizerError where a key comes twice, as which of them counts is open."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise BadTokenizerError("a key comes twice in one object")
    return content


def _parts(value: object, depth: int) -> Iterator[Part]:
    """A part, and the parts of a sequence in it, at any depth."""
    if depth > MAX_NESTED:
        raise BadTokenizerError("nested too deeply")
    if isinstance(value, dict):
        yield value
        for key in ("normalizers", "pretokenizers", "processors", "decoders"):
            inner = value.get(key)
            for each in inner if isinstance(inner, list) else ():
                yield from _parts(each, depth + 1)


def _check_ids(content: Part) -> None:
    """Raises BadTokenizerError for an id beyond `MAX_TOKENS`, which no table of embeddings could hold."""
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    largest = max((number for number in ids if isinstance(number, int)), default=0)
    if largest >= MAX_TOKENS:
        raise BadTokenizerError(f"has a token of id {largest}; ids end at {MAX_TOKENS - 1:,}")


def _pattern(part: Part) -> float:
    """Checks the pattern of a part. Returns 1."""
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(regex, str) and (reason := refusal(regex)):
        raise BadTokenizerError(f"the pattern {regex[:40]!r} {reason}")
    return 1.0


def _replace(part: Part) -> float:
    """How many times as long a text may become: what stands for a match, or for each gap, over the shortest match."""
    _pattern(part)
    pattern, content = part.get("pattern"), part.get("content")
    string = pattern.get("String") if isinstance(pattern, dict) else None
    shortest = len(string) if isinstance(string, str) and string else 1
    return max((len(content) if isinstance(content, str) else 0) / shortest, 1.0)


def _prepend(part: Part) -> float:
    """Checks what stands before each word. Returns its length."""
    return max(float(len(str(part.get("prepend") or part.get("replacement") or ""))), 1.0)


def _fixed_length(part: Part) -> float:
    """Checks the length, by which the library divides. Returns 1."""
    length = part.get("length", 1)
    if not isinstance(length, int) or length < 1:
        raise BadTokenizerError("the length of FixedLength is not 1 or more")
    return 1.0


def _precompiled(part: Part) -> float:
    """Checks the table of a SentencePiece normalizer, whose every step must end within it. Returns 1.

    After its size in bytes it is a double array (Aoe 1989) of little-endian words. A word that is the child of another
    holds the byte of the text that leads to it; its own children are where its offset, its position and the next byte
    lead by exclusive or; where a text ends, the child of byte 0 is the start of its replacement after the array.
    """
    try:
        data = base64.b64decode(str(part.get("precompiled_charsmap") or ""), validate=True)
        size = int.from_bytes(data[:4], "little")
        words = np.frombuffer(data, dtype="<u4", count=size // 4, offset=4).astype(np.int64)
        replacements = data[4 + size :]
        replacements.decode("utf-8")
    except ValueError:  # not base64, cut off, or not UTF-8
        raise BadTokenizerError("precompiled_charsmap is damaged") from None
    label, offset = words & 0x800000FF, (words >> 10) << ((words >> 6) & 8)
    nodes = np.append(np.flatnonzero((label > 0) & (label < 256)), 0)
    if not len(words) or ((nodes ^ offset[nodes]) | 255).max() >= len(words):
        raise BadTokenizerError("precompiled_charsmap is damaged")
    ends = nodes[words[nodes] >> 8 & 1 == 1]
    starts = words[ends ^ offset[ends]] & 0x7FFFFFFF
    first_bytes = np.frombuffer(replacements, dtype=np.uint8)
    if starts.max(initial=0) >= max(len(first_bytes), 1) or (first_bytes[starts] & 0xC0 == 0x80).any():
        raise BadTokenizerError("precompiled_charsmap is damaged")
    return 1.0


def _word_piece(model: Part) -> float:
    """Checks the longest word. Returns 1."""
    longest = model.get("max_input_chars_per_word", 100)
    if not isinstance(longest, int) or longest > MAX_WORD_CHARACTERS:
        raise BadTokenizerError(f"max_input_chars_per_word is above {MAX_WORD_CHARACTERS:,}")
    return 1.0


def _bpe(model: Part) -> float:
    """Checks that what continues a word begins with its prefix, which the library cuts off unasked. Returns 1."""
    prefix, merges = model.get("continuing_subword_prefix"), model.get("merges")
    if isinstance(prefix, str) and prefix and isinstance(merges, list):
        for merge in merges:
            pair = merge.split(" ") if isinstance(merge, str) else merge
            if not isinstance(pair, list) or len(pair) != 2 or not str(pair[1]).startswith(prefix):
                raise BadTokenizerError(f"a merge goes on without the prefix {prefix!r}")
    return 1.0


# By type: each raises BadTokenizerError, and returns how many times as long the part may make a text.
CHECKS: dict[str, Callable[[Part], float]] = {
    "Split": _pattern,
    "Replace": _replace,
    "Prepend": _prepend,
    "Metaspace": _prepend,
    "FixedLength": _fixed_length,
    "Precompiled": _precompiled,
    "WordPiece": _word_piece,
    "BPE": _bpe,
}
