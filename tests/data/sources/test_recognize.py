"""What files are recognised as, by content; advice in errors, followed to the letter, reads all the text there is."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from nanogrove.data.sources.contract import DocumentSource
from nanogrove.data.sources.kinds import Source
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.sources.recognize import SAMPLE_BYTES, recognize
from nanogrove.errors import DataError
from nanogrove.explore.findings import explore

FRENCH = "Où est-il allé, le café d’hier ? Là-bas, près de la forêt."
STORIES = [f"{FRENCH} {n}. Il était une fois {n * 7} chênes et {n * 11} hêtres.\n" for n in range(40)]
ROWS = [{"id": n, "text": story.strip()} for n, story in enumerate(STORIES)]
SOURCE: TypeAdapter[DocumentSource] = TypeAdapter(Source)


def documents(source: object) -> list[str]:
    """The documents of a source as `data.sources` may hold it."""
    texts: list[str] = []
    for piece in SOURCE.validate_python(source).pieces(Skipped()):
        if piece.first:
            texts.append("")
        texts[-1] += piece.text
    return texts


def zipped(name: str, data: bytes, *others: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
        for other in others:
            archive.writestr(other, b"\x00\x05\x16\x07" if "._" in other else data)
    return buffer.getvalue()


def csv_text(delimiter: str = ",", quote: str = '""') -> str:
    cells = [row["text"].replace("Là-bas", f"{quote}Là-bas{quote}") for row in ROWS]  # type: ignore[attr-defined]
    return f"id{delimiter}text\n" + "".join(f'{n}{delimiter}"{cell}"\n' for n, cell in enumerate(cells))


JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TEXTS: list[str] = [str(row["text"]) for row in ROWS]
QUOTED = [text.replace("Là-bas", '"Là-bas"') for text in TEXTS]
BARE: dict[str, tuple[bytes, list[Any]]] = {  # a file, and the documents that its path alone names
    "a.txt.xz": (lzma.compress("".join(STORIES).encode()), ["".join(STORIES)]),
    "a.txt.bz2": (bz2.compress("".join(STORIES).encode()), ["".join(STORIES)]),
    "two.xz": (lzma.compress(b"one\n") + lzma.compress(b"two\n"), ["one\ntwo\n"]),
    "a.zip": (zipped("inner/a.txt", "".join(STORIES).encode(), "__MACOSX/inner/._a.txt"), ["".join(STORIES)]),
    "rows.zip": (zipped("rows.csv", csv_text(";").encode()), QUOTED),
    "misnamed.gz": ("".join(STORIES).encode(), ["".join(STORIES)]),
    "packed.txt": (gzip.compress("".join(STORIES).encode()), ["".join(STORIES)]),
    "old.txt": ("".join(STORIES).encode("cp1252"), ["".join(STORIES)]),
    "russian.txt": (
        ("Быстрая лиса прыгает через собаку.\n" * 9).encode("koi8-r"),
        ["Быстрая лиса прыгает через собаку.\n" * 9],
    ),
    "wide.txt": ("".join(STORIES).encode("utf-16-le"), ["".join(STORIES)]),
    "semicolon.csv": (csv_text(";").encode(), QUOTED),
    "excel.csv": (("\ufeffsep=;\r\n" + csv_text(";").replace("\n", "\r\n")).encode(), QUOTED),
    "titled.csv": (("Inventory,\nof a Monday,\n,\n" + csv_text()).encode(), QUOTED),
    "escaped.csv": (csv_text(quote='\\"').encode(), QUOTED),
    "bar.csv": (csv_text("|").encode("cp1252"), QUOTED),
    "trailing.csv": (csv_text().replace('"\n', '",\n').encode(), QUOTED),
    "spaced.csv": (csv_text().replace(',"', ', "').replace("id,", "id, ").encode(), QUOTED),
    "lines.json": (JSONL.encode(), TEXTS),
    "array.jsonl": (json.dumps(ROWS).encode(), TEXTS),
    "indented.jsonl": ("\n".join(json.dumps(row, indent=1) for row in ROWS).encode(), TEXTS),
    "array.json.bz2": (bz2.compress(json.dumps(ROWS, indent=2).encode()), TEXTS),
    "lines of texts.jsonl": ("\n".join(map(json.dumps, TEXTS)).encode(), TEXTS),
    "late.json": (json.dumps({"about": "x" * 70_000, "data": ROWS}).encode(), TEXTS),
    "damaged.txt": (b"\xef\xbb\xbfcaf\xc3\xa9 \xff caf\xc3\xa9\n", ["café \ufffd café\n"]),
    "half a pair.txt": ("café\n".encode("utf-16") + b"\x00\xd8a\0", ["café\n\ufffda"]),
    "texts.json": (json.dumps(TEXTS).encode("utf-16"), TEXTS),
    "within.json": (json.dumps({"version": 1, "rows": ROWS, "end": []}).encode(), TEXTS),
    "signs.csv": (
        csv_text(quote="\u2028;\v").encode(),
        [t.replace("Là-bas", "\u2028;\vLà-bas\u2028;\v") for t in TEXTS],
    ),
    "prose.txt": (f'{{"a": 1}} is JSON.\n{"".join(STORIES)}'.encode(), [f'{{"a": 1}} is JSON.\n{"".join(STORIES)}']),
    "deep.json": (json.dumps({"meta": {"tags": [{"a": 1}]}, "data": ROWS}).encode(), TEXTS),
    "second.json": (json.dumps({"authors": [{"name": "bob"}], "data": ROWS, "more": [{}]}).encode(), TEXTS),
    "marked.txt": ("<|endoftext|>".join(STORIES).encode(), STORIES),
    "started.txt": ("\n".join(f"<|startoftext|>{s}<|endoftext|>" for s in STORIES).encode(), STORIES),
}


@pytest.mark.parametrize("name", BARE)
def test_a_bare_path_and_explore_read_the_same_text(name: str, tmp_path: Path) -> None:
    data, expected = BARE[name]
    path = tmp_path / name
    path.write_bytes(data)
    assert documents(str(path)) == expected
    assert documents(explore(str(path)).source) == expected
    source = recognize(str(path)).source
    assert documents(json.loads(json.dumps(source))) == expected, "what a preset holds"


def folder_of_two(folder: Path) -> list[str]:
    (folder / "a.txt").write_text(STORIES[0], "utf-8")
    (folder / "b.txt").write_bytes(STORIES[1].encode("cp1252"))
    return STORIES[:2]


def text_file(data: bytes, expected: str, **settings: object) -> Callable[[Path], tuple[dict[str, object], list[str]]]:
    def write(folder: Path) -> tuple[dict[str, object], list[str]]:
        (folder / "a.txt").write_bytes(data)
        return {"type": "text", "path": str(folder / "a.txt"), **settings}, [expected]

    return write


def table(name: str, data: bytes, **settings: object) -> Callable[[Path], tuple[dict[str, object], list[Any]]]:
    def write(folder: Path) -> tuple[dict[str, object], list[Any]]:
        (folder / name).write_bytes(data)
        return {"type": name.rpartition(".")[2], "path": str(folder / name), **settings}, TEXTS

    return write


def several(folder: Path) -> tuple[dict[str, object], list[str]]:
    return {"type": "text", "path": str(folder), "separator": "#"}, folder_of_two(folder)


def json_folder(folder: Path) -> tuple[dict[str, object], list[Any]]:
    (folder / "a.jsonl").write_text(json.dumps(ROWS))
    return {"type": "jsonl", "path": str(folder)}, TEXTS


PLAIN = csv_text().replace('""Là-bas""', "Là-bas")
ADVISED: dict[str, Callable[[Path], tuple[dict[str, object], list[Any]]]] = {  # a source that is refused, and the truth
    "cp1252": text_file("".join(STORIES).encode("cp1252"), "".join(STORIES)),
    "koi8": text_file("Быстрая лиса прыгает.\n".encode("koi8-r") * 9, "Быстрая лиса прыгает.\n" * 9),
    "utf-16 without a mark": text_file("".join(STORIES).encode("utf-16-be"), "".join(STORIES)),
    "named wrongly": text_file("".join(STORIES).encode(), "".join(STORIES), encoding="ascii"),
    "utf-16, and none": text_file("".join(STORIES).encode("utf-16-le"), "".join(STORIES), encoding="utf-16"),
    "damaged": text_file("".join(STORIES).encode() + b"\xff.", "".join(STORIES) + "\ufffd."),
    "packed": text_file(gzip.compress("".join(STORIES).encode("cp1252")), "".join(STORIES)),
    "a folder of two encodings": several,
    "an array": table("a.jsonl", json.dumps(ROWS).encode()),
    "a folder of arrays": json_folder,
    "another delimiter": table("a.csv", PLAIN.replace(',"', ';"').replace("id,", "id;").encode()),
    "titles": table("a.csv", b"Inventory,\nof a Monday,\n,\n" + PLAIN.encode(), text_field="text"),
    "blanks": table("a.csv", PLAIN.replace(',"', ', "').replace("id,", "id, ").encode()),
    "a table in utf-16": table("a.csv", PLAIN.encode("utf-16-le"), encoding="utf-16"),
}


@pytest.mark.parametrize("name", ADVISED)
def test_advice_reads_all_the_text_there_is(name: str, tmp_path: Path) -> None:
    source, expected = ADVISED[name](tmp_path)
    with pytest.raises(DataError) as error:
        documents(source)
    assert "\n" not in str(error.value)
    advised = re.search(r"name the source as (\{.*\})", str(error.value))
    assert advised is not None, str(error.value)
    assert documents(json.loads(advised[1])) == expected


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_an_archive_is_unpacked_as_advised(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"book.{ending}"
    if ending == "zip":
        path.write_bytes(zipped("a.txt", STORIES[0].encode(), "b.txt"))
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name in ("a.txt", "b.txt"):
                (tmp_path / name).write_text(STORIES[0], "utf-8")
                archive.add(tmp_path / name, name)
    with pytest.raises(DataError) as error:
        documents(str(path))
    advised = re.search(r"unpack it with python (.*), and name (.*)$", str(error.value))
    assert advised is not None, str(error.value)
    subprocess.run([sys.executable, *advised[1].split()], check=True)
    assert documents(advised[2]) == [STORIES[0]] * 2


def test_what_hidden_names_hold_is_left_out_once_and_counted(tmp_path: Path) -> None:
    for name in ("a.txt", "._a.txt", ".trash/b.txt", "__MACOSX/._a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    skipped = Skipped()
    pieces = list(SOURCE.validate_python(str(tmp_path)).pieces(skipped))
    assert [piece.text for piece in pieces] == ["a.txt"]
    assert skipped.counts == {"hidden file": 3}
    assert documents({"type": "text", "path": str(tmp_path / ".trash")}) == [".trash/b.txt"]
    assert documents(f"{tmp_path}/._*.txt") == ["._a.txt"], "a pattern that names hidden files reads them"


def test_binary_files_of_a_folder_are_counted_and_alone_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    skipped = Skipped()
    source = SOURCE.validate_python({"type": "text", "path": str(tmp_path)})
    assert [piece.text for piece in source.pieces(skipped)] == ["text"]
    assert skipped.counts == {"a PNG picture": 1}
    with pytest.raises(DataError, match="a PNG picture"):
        documents({"type": "text", "path": str(tmp_path / "b.txt")})


def refused(path: Path, message: str) -> None:
    """Refused in one line by explore and as a source, in memory and time that do not depend on what it unpacks to."""
    for read in (explore, documents):
        with pytest.raises(DataError, match=message) as error:
            read(str(path))
        assert "\n" not in str(error.value)


def test_what_no_source_can_read_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe.txt", "loop"):
        refused(tmp_path / name, "neither a file nor a folder")
    refused(Path("/dev/zero"), "neither a file nor a folder")
    (tmp_path / "locked.zip").write_bytes(
        zipped("a.txt", b"x")
        .replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01")
        .replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    )
    refused(tmp_path / "locked.zip", "an encrypted ZIP archive")
    (tmp_path / "one.json").write_text('{"name": "tool", "private": true}')
    refused(tmp_path / "one.json", "one JSON object without rows")
    (tmp_path / "cut.json").write_text(json.dumps(ROWS)[:-40])
    with pytest.raises(DataError, match=r"line 1: broken JSON \(it is cut off\)"):
        documents(str(tmp_path / "cut.json"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: zipped("a.txt", data)])
def test_what_unpacks_to_far_more_is_refused(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogrove.data.sources.packing.RATIO_FROM_BYTES", 1 << 20)
    path = tmp_path / "bomb.txt"
    path.write_bytes(pack(b"a" * (1 << 22)))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        documents(str(path))


def test_a_name_that_is_not_utf8_is_named_by_a_pattern(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / name).write_text("text")
    refused(tmp_path / name, "its name is not UTF-8, as a preset is; rename it, or name a pattern")
    assert documents(f"{tmp_path}/caf?.txt") == ["text"]


def test_an_archive_of_a_name_with_a_dash_is_unpacked_as_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-d.zip").write_bytes(zipped("a.txt", STORIES[0].encode(), "b.txt"))
    with pytest.raises(DataError, match=r"-m zipfile -e \./-d\.zip \./-d, and name -d$"):
        documents("-d.zip")


def test_a_table_cut_within_a_character_is_called_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(csv_text().encode("utf-16")[:-1])
    for source in (str(path), {"type": "csv", "path": str(path), "encoding": "detect"}):
        with pytest.raises(DataError, match="cut off in its last character, as utf-16; copy it again"):
            documents(source)


def test_rows_after_the_beginning_are_named_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"note": "z" * (SAMPLE_BYTES >> 1), "more": "z" * (SAMPLE_BYTES >> 1), "data": ROWS}))
    with pytest.raises(DataError, match="without rows in its first 16 MiB; to train on it as it stands") as error:
        recognize(str(path))
    as_text, as_json = map(json.loads, re.findall(r"\{.*?\}", str(error.value)))
    assert documents(as_json | {"rows_in": "data"}) == TEXTS
    assert len(documents(as_text)) == 1


@pytest.mark.parametrize(("name", "label"), [("a.pdf", "PDF"), ("a.parquet", "Parquet")])
def test_a_text_of_another_name_is_said_to_be_none(name: str, label: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("words\n" * 9)
    with pytest.raises(DataError, match=f"not {label} by its first bytes; if it is text"):
        recognize(str(tmp_path / name))


def test_what_a_library_opens_is_not_packed(tmp_path: Path) -> None:
    for name, start in (("a.pdf.gz", b"%PDF-1.4\n"), ("a.parquet.gz", b"PAR1")):
        (tmp_path / name).write_bytes(gzip.compress(start * 99))
        refused(tmp_path / name, "packed by gzip; unpack it, and name the unpacked file")
        refused(tmp_path, "packed by gzip; unpack them, and name the unpacked files")
        (tmp_path / name).unlink()


def test_blanks_alone_are_refused_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n" * 99)
    for read in (recognize, explore, documents):
        with pytest.raises(DataError, match=r"nothing to train on \(blanks alone\)"):
            read(str(path))
    (tmp_path / "b.txt").write_text("words")
    assert documents(str(tmp_path))[-1] == "words", "a blank file among others does no harm"
