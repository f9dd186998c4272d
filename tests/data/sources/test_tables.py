"""Sources of rows: how a row becomes a text, which files are read, bad ones counted or refused."""

import gzip
import json
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from nanogrove.data.sources.files import FileSource
from nanogrove.data.sources.pieces import PIECE_CHARACTERS, Skipped
from nanogrove.data.sources.tables import Columns, CsvSource, JsonlSource, ParquetSource, row_pieces
from nanogrove.errors import DataError

ROW = {"question": "why?", "answer": "so", "the.n": 3, "none": None, "a b": "c", "list": ["é", 1], "{answer}": "no"}


def texts(source: Any, skipped: Skipped | None = None) -> list[str]:
    return [piece.text for piece in source.pieces(skipped or Skipped())]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"text_field": "answer"}, "so"),
        ({"text_field": "the.n"}, "3"),
        ({"text_field": "none"}, ""),
        ({"text_field": "list"}, '["é", 1]'),
        ({"fields": ["question", "none", "answer"]}, "why?\nso"),
        ({"format": "Q: {question}\nA: {answer}"}, "Q: why?\nA: so"),
        ({"fields": ["answer", "question"], "format": "{question} {answer} {question}"}, "why? so why?"),
        ({"format": "{{{answer}}} {{answer}} {a b}{the.n}{none}."}, "{so} {answer} c3."),
        ({"fields": ["{answer}"]}, "no"),
        ({"format": "an {none} alone"}, ""),
    ],
)
def test_a_row_becomes_a_text(settings: dict, expected: str) -> None:
    columns = Columns(**settings)
    assert set(columns.select(list(ROW))) <= set(ROW)
    assert columns.render({name: ROW[name] for name in columns.names}) == expected


def test_values_as_text() -> None:
    render = Columns(text_field="x").render
    values = [1, 1.5, True, float("nan"), b"caf\xc3\xa9", date(2024, 5, 1), Decimal("1.10"), {"a": date(2024, 5, 1)}]
    expected = ["1", "1.5", "True", "", "café", "2024-05-01", "1.10", '{"a": "2024-05-01"}']
    assert [render({"x": value}) for value in values] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_field": "a", "fields": ["b"]}, "text_field is for one column alone"),
        ({"text_field": "a", "format": "{a}"}, "text_field is for one column alone"),
        ({"fields": []}, "at least 1"),
        ({"fields": ["a", "a"]}, "fields names 'a' twice"),
        ({"format": ""}, "at least 1"),
        ({"format": "no field {{a}}"}, "format has no field"),
        ({"fields": ["a"], "format": "{a}{b}"}, "'b' is in one of fields and format only"),
        ({"fields": ["a", "b"], "format": "{a}"}, "'b' is in one of fields and format only"),
        ({"format": "{a!r}"}, "{ is part of no column's"),
        ({"format": "{a:>999999999}"}, "{ is part of no column's"),
        ({"format": "{}"}, "{ is part of no column's"),
        ({"format": "{a} }"}, "} is part of no column's"),
        ({"format": "{a{b}}"}, "{ is part of no column's"),
        ({"template": "{a}"}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Columns(**settings)
    assert message in error.value.errors()[0]["msg"]
    assert "\n" not in error.value.errors()[0]["msg"]


def test_a_format_reaches_into_nothing() -> None:
    columns = Columns(format="{a.__class__} {a[0]}")
    with pytest.raises(DataError, match=r"no column 'a\.__class__'; there are 'a'"):
        columns.select(["a"])
    assert columns.render({"a.__class__": "{a}", "a[0]": "{{"}) == "{a} {{"


def test_without_settings_the_column_is_text() -> None:
    assert Columns().select(["id", "text"]) == ["text"]
    with pytest.raises(DataError, match="there are 'id', 'body'; name one with text_field, or several with fields"):
        Columns().select(["id", "body"])


def written(folder: Path, kind: str, table: list[dict[str, Any]], name: str = "a") -> Path:
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        lines = [",".join(table[0]), *(",".join(f'"{value or ""}"' for value in row.values()) for row in table)]
        path.write_text("\n".join(lines) + "\n")
    return path


SOURCES: dict[str, Any] = {"csv": CsvSource, "jsonl": JsonlSource, "parquet": ParquetSource}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_row_is_a_document_and_empty_ones_are_counted(kind: str, tmp_path: Path) -> None:
    table: list[dict[str, Any]] = [
        {"q": "a", "n": 1, "text": "one\ntwo"},
        {"q": None, "n": 2, "text": " \n"},
        {"q": "c", "n": 3, "text": ""},
    ]
    path, skipped = written(tmp_path, kind, table), Skipped(refuse=True)
    source = SOURCES[kind](path=str(path))
    assert texts(source, skipped) == ["one\ntwo"]
    assert skipped.counts == {"empty": 2}
    assert source.size() == path.stat().st_size
    assert json.loads(json.dumps(source.identity()))["type"] == kind
    assert texts(SOURCES[kind](path=str(path), format="{n}: {q}")) == ["1: a", "2: ", "3: c"]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_long_row_comes_in_pieces(kind: str, tmp_path: Path) -> None:
    long = "".join(f"line {n}\n" for n in range(PIECE_CHARACTERS // 5))
    path = written(tmp_path, kind, [{"text": "a"}, {"text": long}, {"text": "b"}])
    pieces = list(SOURCES[kind](path=str(path)).pieces(Skipped()))
    assert [piece.first for piece in pieces] == [True, True, False, False, True]
    assert "".join(piece.text for piece in pieces) == f"a{long}b"


@pytest.mark.parametrize("kind", SOURCES)
def test_a_missing_column(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind, [{"id": "1", "body": "a"}])
    with pytest.raises(DataError) as error:
        texts(SOURCES[kind](path=str(path), text_field="bodi"))
    assert str(error.value) == f"{path}: no column 'bodi'; there are 'id', 'body'; did you mean 'body'?"
    with pytest.raises(DataError, match="name one with text_field"):
        texts(SOURCES[kind](path=str(path)))


def test_lines_of_json_may_lack_a_column_but_not_all_of_them(tmp_path: Path) -> None:
    path = written(tmp_path, "jsonl", [{"meta": 1}, {"text": "a"}, {"tex": "b"}, {"text": "c"}])
    source, skipped = JsonlSource(path=str(path)), Skipped()
    assert texts(source, skipped) == ["a", "c"]
    assert skipped.locations == {"without 'text'": [f"{path}, line 1", f"{path}, line 3"]}
    with pytest.raises(DataError, match=r"line 1: no column 'text'; there are 'meta'"):
        texts(source, Skipped(refuse=True))
    written(tmp_path, "jsonl", [{"tex": n} for n in range(1000)])
    skipped = Skipped()
    with pytest.raises(DataError, match=r"line 100: no column 'text'; there are 'tex'; did you mean 'tex'\?"):
        texts(source, skipped)


@pytest.mark.parametrize(
    ("kind", "content", "counts"),
    [
        ("csv", "text,n\na\nb\0,1\n", {"ragged: too few cells": 1, "binary: it has a NUL": 1}),
        ("csv", "text,n\n", {"file without rows": 1}),
        ("csv", "", {"file without rows": 1}),
        ("jsonl", "", {"file without rows": 1}),
        ("jsonl", '[1]\n{"a\n7\n', {"neither an object nor a text": 2, "broken JSON": 1}),
        ("jsonl", '{"text": NaN}\n', {"empty": 1}),
    ],
)
def test_files_of_bad_rows_alone_yield_nothing(kind: str, content: str, counts: dict, tmp_path: Path) -> None:
    path, skipped = tmp_path / f"a.{kind}", Skipped()
    path.write_text(content)
    assert texts(SOURCES[kind](path=str(path)), skipped) == []
    assert skipped.counts == counts


def test_parquet_without_rows_and_with_bytes_for_text(tmp_path: Path) -> None:
    path, skipped = tmp_path / "a.parquet", Skipped()
    pq.write_table(pa.table({"text": pa.array([b"a", b"\xff"])}), path)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    assert texts(ParquetSource(path=str(tmp_path)), skipped) == ["a"]
    assert skipped.counts == {"not utf-8": 1, "file without rows": 1}
    assert skipped.locations["not utf-8"] == [f"{path}, row 2"]
    path.write_text("no table")
    with pytest.raises(DataError, match="not Parquet"):
        texts(ParquetSource(path=str(tmp_path)))


def test_a_problem_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,n\na,1\nb\nc,2\n")
    with pytest.raises(DataError, match=r"a\.csv, line 3: ragged: too few cells"):
        texts(CsvSource(path=str(path)), Skipped(refuse=True))
    assert texts(CsvSource(path=str(path))) == ["a", "c"]


def test_rows_from_elsewhere() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    texts: list[Any] = ["a", "\udcff", None, deep]
    rows = [(number, {"text": text}) for number, text in enumerate(texts, start=1)]
    skipped = Skipped()
    pieces = list(row_pieces(rows, Columns(), skipped, "set, row {}".format))
    assert [piece.text for piece in pieces] == ["a"]
    assert skipped.counts == {"not utf-8": 1, "empty": 1, "nested too deep": 1}
    assert skipped.locations["not utf-8"] == ["set, row 2"]


def test_files_of_a_folder_by_their_endings(tmp_path: Path) -> None:
    for name in ("a.csv", "b.TSV", "c.csv.gz", "d.csv.bak", "e.txt", "in/f.csv", "g.csv.zst"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        data = f"text\n{name}\n".encode()
        packed = {".gz": gzip.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}
        path.write_bytes(packed.get(path.suffix, bytes)(data))
    names = ["a.csv", "b.TSV", "c.csv.gz", "g.csv.zst", "in/f.csv"]
    assert texts(CsvSource(path=str(tmp_path))) == names
    assert texts(CsvSource(path=str(tmp_path), glob="*.txt")) == ["e.txt"]
    assert texts(CsvSource(path=str(tmp_path / "e.txt"))) == ["e.txt"]
    assert texts(CsvSource(path=str(tmp_path / "*.t*"))) == ["e.txt"]
    with pytest.raises(DataError, match=r"no file ends in \.jsonl, .*; name others with glob"):
        texts(JsonlSource(path=str(tmp_path)))


@pytest.mark.parametrize("pattern", ["", "**/*.csv"])
def test_links_that_lead_back_are_not_followed(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.csv"
    path.write_text("text\na\n")
    for name in ("up", "again", "third"):
        (tmp_path / "in" / name).symlink_to(tmp_path)
    (tmp_path / "in" / "itself.csv").symlink_to("itself.csv")
    assert CsvSource(path=str(tmp_path / pattern)).files() == [path]


STARS = pytest.param("**.txt", marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="a pattern since then"))


@pytest.mark.parametrize("pattern", [STARS, "", "/*.txt"])
def test_a_glob_that_is_no_pattern(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a pattern"):
        FileSource(path=str(tmp_path), glob=pattern).files()


@pytest.mark.parametrize("delimiter", ["", "ab", '"', "\n", "\0"])
def test_a_delimiter_is_one_character(delimiter: str) -> None:
    with pytest.raises(ValidationError):
        CsvSource(path="a.csv", delimiter=delimiter)
    assert CsvSource(path="a.csv", delimiter="|").delimiter == "|"
