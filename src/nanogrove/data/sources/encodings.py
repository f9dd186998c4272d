"""Encodings of text: the setting that names one, and a guess by bytes.

The library chardet tells apart what is neither UTF nor marked; decision 025 says how often it is right.
"""

import codecs
import re
from collections.abc import Iterable
from itertools import chain
from typing import Annotated, NamedTuple
from unicodedata import category

from pydantic import AfterValidator

BOMS = {  # in this order, since one mark begins like another
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
AUTO, DETECT = "auto", "detect"
ENCODING = "of the text; auto: by the byte-order mark, utf-8 without one; detect: guessed for each file by its bytes"
START_BYTES = 1 << 16  # of a text, by which NULs are judged
DETECT_BYTES, CONTEXT_BYTES = 1 << 17, 100  # that chardet looks at, and those around each byte that is not ASCII
MAX_DAMAGED_SHARE = 0.1  # of the characters that are not ASCII, up to which text is damaged utf-8 and nothing else
UNLIKELY = ["cp1006"]  # Urdu, which chardet sees in short French
CANDIDATES = 8  # of chardet, the likeliest first, that are compared
FEW_BYTES, RARE_FACTOR = 3, 0.7  # different bytes, up to which encodings that the web does not have count for less
JOINING = "\u2018\u2019\u2013\u2014\u00ad\u00b7\u02bc"  # signs that stand between letters
UNWRITTEN = {"Cc", "Cn", "Co"}  # categories of Unicode: controls, unassigned, private
REPLACEMENT = "\ufffd".encode()
NOT_ASCII = re.compile(rb"[\x80-\xff]+")


def check_encoding(name: str) -> str:
    """Returns the same name. Raises ValueError for one that Python does not know, or that is not of text."""
    try:
        if name not in (AUTO, DETECT):
            "a".encode(name).decode(name)
    except (LookupError, ValueError):
        raise ValueError("unknown encoding; utf-8, cp1252 and latin-1 are common") from None
    return name


Encoding = Annotated[str, AfterValidator(check_encoding)]


class Guess(NamedTuple):
    """An encoding, why, and what to set `encoding` to; None where `auto` reads it."""

    name: str
    why: str
    option: str | None


def marked_encoding(start: bytes) -> str | None:
    """The encoding that a byte-order mark names; None without one."""
    return next((encoding for mark, encoding in BOMS.items() if start.startswith(mark)), None)


def guess_encoding(data: bytes, whole: bool = True) -> Guess:
    """The encoding of a text by its first bytes; where they are not the `whole`, the last character may be cut."""
    return guess_encoding_of([data], whole)


def guess_encoding_of(chunks: Iterable[bytes], whole: bool = True) -> Guess:
    """The same by chunks, the first of START_BYTES where there are as many; memory does not grow with them."""
    rest = iter(chunks)
    start = next(rest, b"")
    if (marked := marked_encoding(start)) is not None:
        return Guess(marked.removesuffix("-sig"), "by its byte-order mark", None)
    if (wide := wide_encoding(start)) is not None:
        return Guess(wide, "by its bytes of NUL; no byte-order mark", wide)
    scan = _Scan()
    for chunk in chain([start], rest):
        scan.add(chunk)
    scan.add(b"", final=whole)
    if scan.broken:
        if scan.broken <= MAX_DAMAGED_SHARE * scan.sound:
            spots = f"{scan.broken:,} position{'' if scan.broken == 1 else 's'}"
            return Guess("utf-8", f"damaged at {spots}, the first at byte {scan.first:,}", None)
        name = _detected(bytes(scan.sample))
        return Guess(name, f"not utf-8 at byte {scan.first:,}; by the letters it makes", name)
    if scan.sound:
        return Guess("utf-8", "it is valid", None)
    if b"\x1b$" in start and (name := _detected(start[:DETECT_BYTES])).startswith("iso2022"):
        return Guess(name, "by its escape sequences", name)  # Japanese and Korean in 7 bits
    return Guess("utf-8", "ASCII alone", None)


class _Scan:
    """What is counted while the bytes of a text are read as utf-8."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.sound = self.broken = self.first = self.bytes = 0  # characters of several bytes; faults, the first; read
        self.sample = bytearray()  # the bytes that are not ASCII with those around them

    def add(self, chunk: bytes, final: bool = False) -> None:
        """Counts the next bytes."""
        pending = len(self.decoder.getstate()[0])
        if chunk.isascii() and not pending:
            self.bytes += len(chunk)
            return
        text = self.decoder.decode(chunk, final)
        broken = max(text.count("\ufffd") - chunk.count(REPLACEMENT), 0)
        if broken and not self.broken:
            self.first = self.bytes - pending + len(text.partition("\ufffd")[0].encode())
        self.broken += broken
        self.sound += len(text) - broken - len(text.encode("ascii", "ignore"))
        self.bytes += len(chunk)
        if len(self.sample) < DETECT_BYTES:
            self.sample += _around(chunk)


def _around(data: bytes) -> bytes:
    """The bytes that are not ASCII with CONTEXT_BYTES on both sides: a long text in ASCII around them says nothing."""
    spans: list[tuple[int, int]] = []
    for match in NOT_ASCII.finditer(data):
        start, end = max(match.start() - CONTEXT_BYTES, 0), match.end() + CONTEXT_BYTES
        if spans and start <= spans[-1][1]:
            start = spans.pop()[0]
        spans.append((start, end))
        if len(spans) * CONTEXT_BYTES > DETECT_BYTES:
            break
    return b"\n".join(data[start:end] for start, end in spans)


def _detected(data: bytes) -> str:
    """The likeliest encoding by chardet, by Python's name, and by how letters follow each other; latin-1 for none."""
    import chardet  # 0.1 s, and needed for few files

    data = data[:DETECT_BYTES]
    era = chardet.EncodingEra.ALL & ~chardet.EncodingEra.MAINFRAME
    answers = chardet.detect_all(data, ignore_threshold=True, encoding_era=era, exclude_encodings=UNLIKELY)[:CANDIDATES]
    scores = {codecs.lookup(one["encoding"]).name: one["confidence"] for one in answers if one["encoding"] is not None}
    if len(set(data) - set(range(128))) <= FEW_BYTES:  # too few to say much, so what most texts have is likelier
        common = chardet.detect_all(data, ignore_threshold=True, encoding_era=chardet.EncodingEra.MODERN_WEB)
        names = {codecs.lookup(one["encoding"]).name for one in common if one["encoding"] is not None}
        scores = {name: score * (1 if name in names else RARE_FACTOR) for name, score in scores.items()}
    scores = {name: score * (1 - _implausible(data.decode(name, "replace"))) for name, score in scores.items()}
    name = max(scores, key=lambda name: scores[name], default="iso8859-1")
    return "latin-1" if name == "iso8859-1" else name


def _implausible(text: str) -> float:
    """The share of the characters that are not ASCII, and that stand where no writer puts them.

    These are a capital after a small letter, a small letter between capitals, a sign between letters, and what Unicode
    assigns to nothing that is written.
    """
    count = odd = 0
    for before, sign, after in zip(" " + text, text, text[1:] + " ", strict=False):
        if sign.isascii():
            continue
        count += 1
        case = (sign.isupper() and before.islower()) or (sign.islower() and before.isupper() and after.isupper())
        amid = (
            not sign.isalpha() and not sign.isspace() and before.isalpha() and after.isalpha() and sign not in JOINING
        )
        odd += case or amid or sign == "\ufffd" or category(sign) in UNWRITTEN
    return odd / max(count, 1)


def wide_encoding(data: bytes) -> str | None:
    """The encoding of text of 2 or 4 bytes per character without a mark, by its NULs; None for other data."""
    data = data[:START_BYTES]
    size = len(data) // 4
    if size < 2 or b"\0" not in data:
        return None
    nul = [data[at : 4 * size : 4].count(0) / size for at in range(4)]
    patterns = {
        "utf-32-le": min(nul[2:]) > 0.95 and nul[0] < 0.1,
        "utf-32-be": min(nul[:2]) > 0.95 and nul[3] < 0.1,
        "utf-16-le": min(nul[1::2]) > 0.4 and max(nul[::2]) < 0.1,
        "utf-16-be": min(nul[::2]) > 0.4 and max(nul[1::2]) < 0.1,
    }
    name = next((name for name, matches in patterns.items() if matches), None)
    if name is None:
        import chardet

        name = str(chardet.detect(data)["encoding"]).lower()  # scripts other than Latin have few NULs
        if not name.startswith(("utf-16-", "utf-32-")):
            return None
    text = data[: 4 * size].decode(name, "replace")
    sound = sum(c.isprintable() or c in "\r\n\t" for c in text)
    return name if sound > 0.95 * len(text) else None
