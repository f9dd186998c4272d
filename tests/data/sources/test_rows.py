"""Rows of files: what is read, what is told of rows that cannot be used, bounds of time and memory, random damage."""

import csv
import gzip
import io
import json
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanogrove.data.sources import parquet, rows
from nanogrove.data.sources.dialect import Dialect
from nanogrove.data.sources.json_values import json_rows
from nanogrove.data.sources.packing import unpacked_name
from nanogrove.data.sources.parquet import parquet_rows
from nanogrove.data.sources.rows import check_columns, csv_rows, jsonl_rows, text_lines
from nanogrove.data.sources.tables import usual_delimiter
from nanogrove.errors import DataError

Faults = list[tuple[str, int]]
HALF = "\\ud83d"


def read(path: Path, encoding: str = "auto", delimiter: str | None = None) -> tuple[list[tuple[int, Any]], Faults]:
    """Rows, of the column `text` where the format takes columns, and the faults of the others."""
    faults: Faults = []

    def bad(fault: str, number: int) -> None:
        faults.append((fault, number))

    wanted = partial(check_columns, ["text"])
    numbered: Iterator[tuple[int, Mapping[str, Any]]]
    kind = Path(unpacked_name(path)).suffix
    if kind == ".parquet":
        numbered = parquet_rows(path, wanted, bad)
    elif kind == ".jsonl":
        numbered = jsonl_rows(path, encoding, bad)
    elif kind == ".json":
        numbered = json_rows(path, encoding, None, bad)
    else:
        numbered = csv_rows(path, encoding, Dialect(delimiter or usual_delimiter(path)), wanted, bad)
    return [(number, row.get("text")) for number, row in numbered], faults


def csv_of(folder: Path, content: str | bytes, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "kept", "faults"),
    [
        ("id,text\n1,a\n2,b\n", [(2, "a"), (3, "b")], []),
        ("id,text\r\n1,a\r\n\r\n2,b", [(2, "a"), (4, "b")], []),
        ("\n\nid,text\n1,a\n", [(4, "a")], []),
        ('id,text\n1,"a ""b"", c\nd\r\ne"\n2,f\n', [(2, 'a "b", c\nd\r\ne'), (5, "f")], []),
        ('id,text\n1,5" wide\n2,"a"b\n', [(2, '5" wide'), (3, "ab")], []),
        ("id,text\n1\n1,2,3\n4,d\n", [(4, "d")], [("ragged: too few cells", 2), ("ragged: too many cells", 3)]),
        ("id,text\n1,a\0b\n2,c\n", [(3, "c")], [("binary: it has a NUL", 2)]),
        (b"id,text\n1,caf\xe9\n2,caf\xc3\xa9\n", [(3, "café")], [("not utf-8", 2)]),
        (b'id,text\n1,"a\n\xff\n"\n2,b\n', [(5, "b")], [("not utf-8", 2)]),
        ("\ufeffid,text\n1,a\n", [(2, "a")], []),
        ("\ufefftext\na\n", [(2, "a")], []),
        ("text\n\na\n", [(3, "a")], []),
        ("id,text\n", [], []),
        ("", [], []),
        ("id,id,text\n1,2,a\n", [(2, "a")], []),
    ],
)
def test_csv(content: str | bytes, kept: list, faults: Faults, tmp_path: Path) -> None:
    assert read(csv_of(tmp_path, content)) == (kept, faults)


def test_a_long_cell_is_one_cell(tmp_path: Path) -> None:
    text = "word\n" * 200_000  # csv by itself refuses cells above 131072 characters
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], [text], ["b"]])
    assert read(path) == ([(2, text), (200_003, "b")], [])


@pytest.mark.parametrize(("encoding", "named"), [("utf-16", "auto"), ("utf-8-sig", "utf-8"), ("latin-1", "latin-1")])
def test_encodings(encoding: str, named: str, tmp_path: Path) -> None:
    path = csv_of(tmp_path, 'text\ncafé\n"é\nè"\n'.encode(encoding))
    assert read(path, named) == ([(2, "café"), (3, "é\nè")], [])
    path = csv_of(tmp_path, '{"text": "é"}\n{"text": "è"}\n'.encode(encoding), "a.jsonl")
    assert read(path, named) == ([(1, "é"), (2, "è")], [])


def test_half_a_pair_of_utf_16_is_one_bad_row(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "text\na\n\ud83d\nb\n".encode("utf-16", "surrogatepass"))
    assert read(path) == ([(2, "a"), (4, "b")], [("not utf-16", 3)])
    path.write_bytes("text\na\nb\n".encode("utf-16")[:-1])
    with pytest.raises(DataError, match="cut off in its last character, as utf-16"):
        read(path)


@pytest.mark.parametrize("encoding", ["klingon", "hex", "a\0b", ""])
def test_an_unknown_encoding(encoding: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown encoding"):
        read(csv_of(tmp_path, "text\na\n"), encoding)


@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", None), ("a.tsv.gz", None), ("a.csv", "\t"), ("a.tsv", ";")])
def test_delimiters(name: str, delimiter: str | None, tmp_path: Path) -> None:
    content = "id;text\n1;a,b\n".replace(";", delimiter or "\t").encode()
    path = csv_of(tmp_path, gzip.compress(content) if name.endswith(".gz") else content, name)
    assert read(path, delimiter=delimiter) == ([(2, "a,b")], [])


@pytest.mark.parametrize("unit", [1, 400])
def test_a_quote_left_open_costs_its_own_line(unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_CHARACTERS", 40_000)  # 400 lines fit below it, 400 times as many do not
    texts = [f"row {n}" for n in range(400 * unit)]
    lines = [f"{n},{text}" for n, text in enumerate(texts)]
    lines[7] = '7,"row 7'
    expected = [(n + 2, text) for n, text in enumerate(texts) if n != 7]
    assert read(csv_of(tmp_path, "\n".join(["id,text", *lines]))) == (expected, [("left open by a quote", 9)])


def test_a_quote_left_open_before_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_CHARACTERS", 1000)
    path = csv_of(tmp_path, f'text\n"a\nb\nc\n{"x" * 3000}\nd\n')
    assert read(path) == ([(3, "b"), (4, "c"), (6, "d")], [("left open by a quote", 2), ("too long", 5)])


@pytest.mark.parametrize("line", ['x","\n', '"\n"x\n', '""","\n', '"""\n', 'a,"b\n"'])
def test_many_open_quotes_take_time_in_proportion(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_CHARACTERS", 1 << 18)
    path = csv_of(tmp_path, "text\n" + line * 100_000)
    begun = time.process_time()
    read(path)
    assert time.process_time() - begun < 5  # read again from every line it would be an hour


@pytest.mark.parametrize(("name", "head"), [("a.csv", "text\n"), ("b.csv", 'text\n"'), ("a.jsonl", '{"text": "')])
def test_a_line_without_end_is_never_held(
    name: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_CHARACTERS", 1 << 16)
    good = "good" if name.endswith(".csv") else '{"text": "good"}'
    path = csv_of(tmp_path, head + "x" * 20_000_000 + '"\n' + good + "\n", name)
    read(path)
    tracemalloc.start()
    kept, faults = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [text for _, text in kept] == ["good"]
    assert [fault for fault, _ in faults] == ["too long"]
    assert peak < 4_000_000


@pytest.mark.slow
def test_many_short_lines_after_an_open_quote_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_CHARACTERS", 1 << 18)
    path = csv_of(tmp_path, 'text\n"' + "\n" * 200_000)
    tracemalloc.start()
    assert read(path) == ([], [("left open by a quote", 2)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{broken", "broken JSON"),
        ('{"text": "a"} {"text": "b"}', "broken JSON"),
        ('{"text": "a\0"}', "binary: it has a NUL"),
        ("[1]", "neither an object nor a text"),
        ("null", "neither an object nor a text"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        (f'{{"text": "{HALF}"}}', "not utf-8"),
        (f'{{"text": "{HALF.replace("d", "D")}"}}', "not utf-8"),
        (b'{"text": "\xff"}', "not utf-8"),
    ],
)
def test_bad_lines_of_json(line: str | bytes, fault: str, tmp_path: Path) -> None:
    content = line if isinstance(line, bytes) else line.encode()
    path = csv_of(tmp_path, b'{"text": "a"}\n\n \r\n' + content + b'\r\n{"text": "b", "n": NaN}', "a.jsonl")
    assert read(path) == ([(1, "a"), (5, "b")], [(fault, 4)])


def test_texts_and_numbers_of_any_length_are_alike_in_lines_and_in_an_array(tmp_path: Path) -> None:
    lines = ['"a"', '{"text": "b", "unused": ' + "9" * 5000 + "}", '{"text": ' + "9" * 5000 + "}"]
    expected = ["a", "b", "9" * 5000]
    for name, content in (("a.jsonl", "\n".join(lines)), ("a.json", f"[{','.join(lines)}]")):
        found, faults = read(csv_of(tmp_path, content, name))
        assert ([text for _, text in found], faults) == (expected, []), name


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_damaged_row_of_wide_characters_is_left_out(name: str, encoding: str, tmp_path: Path) -> None:
    rows_of = [json.dumps({"text": letter * 9}) for letter in "abc"]
    content = {"a.csv": "text\naaaa\nbbbb\ncccc\n", "a.json": f"[{','.join(rows_of)}]"}.get(name, "\n".join(rows_of))
    data = bytearray(content.encode(encoding))
    size = 4 if encoding == "utf-32" else 2
    at = size * (content.index("bb") + 2)
    data[at : at + size] = b"\xff\xff\xff\xff" if size == 4 else b"\x00\xd8"
    found, faults = read(csv_of(tmp_path, bytes(data), name))
    assert [text[0] for _, text in found] == ["a", "c"]
    assert len(faults) == 1


def test_escaped_pairs_and_controls_are_text(tmp_path: Path) -> None:
    path = csv_of(tmp_path, '{"text": "\\ud83d\\ude00 \\u0000 \\\\ud83d"}\n', "a.jsonl")
    assert read(path) == ([(1, "😀 \0 \\ud83d")], [])


def test_lines(tmp_path: Path) -> None:
    faults: Faults = []
    rows = text_lines(csv_of(tmp_path, b"\xef\xbb\xbfa\r\n\n\xff\nb"), "utf-8", lambda *fault: faults.append(fault))
    assert (list(rows), faults) == ([(1, "a\r\n"), (2, "\n"), (4, "b")], [("not utf-8", 3)])


def test_parquet_reads_the_wanted_columns_and_counts_what_python_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([b"a", b"\xff", b"b"] * 50).view(pa.binary())
    strings = pa.StringArray.from_buffers(150, *texts.buffers()[1:])
    dates = pa.array([10**17] * 150, pa.timestamp("ms"))
    pq.write_table(pa.table({"text": strings, "when": dates}), path)
    kept, faults = read(path)
    assert kept == [(n + 1, "ab"[n % 3 // 2]) for n in range(150) if n % 3 != 1]
    assert faults == [("not utf-8", n + 1) for n in range(150) if n % 3 == 1]
    rows = parquet_rows(path, partial(check_columns, ["when"]), lambda *fault: faults.append(fault))
    assert list(rows) == []
    assert faults[-1] == ("out of range", 150)


def test_parquet_is_not_read_at_once(tmp_path: Path) -> None:
    path, line = tmp_path / "a.parquet", "x" * 1000
    table = pa.table({"text": [f"{n}{line}" for n in range(30_000)]})
    pq.write_table(table, path, compression="none", use_dictionary=False)
    del table
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for _ in parquet_rows(path, partial(check_columns, ["text"]), lambda *_: None):
        count += 1
        most = max(most, pa.total_allocated_bytes() - before) if count % 500 == 0 else most
    assert count == 30_000
    assert most < 8_000_000


def test_missing_columns_are_named_with_the_nearest(tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        path = csv_of(tmp_path, "id,Texts,other\n1,a,b\n", name)
        if name == "a.parquet":
            pq.write_table(pa.table({"id": [1], "Texts": ["a"], "other": ["b"]}), path)
        with pytest.raises(DataError) as error:
            read(path)
        faults = f"{path}: no column 'text'; there are 'id', 'Texts', 'other'; did you mean 'Texts'?"
        assert str(error.value) == faults
    with pytest.raises(DataError, match="column 'text' is there 2 times"):
        read(csv_of(tmp_path, "text,text\na,b\n"))
    with pytest.raises(DataError) as error:
        read(csv_of(tmp_path, ",".join(f"c{n}" * 100 for n in range(500)) + "\n"))
    assert len(str(error.value)) < 3000
    assert "and 480 more" in str(error.value)


@pytest.mark.parametrize(
    ("header", "fault"),
    [(b"te\0xt\n", "a NUL"), (b"text\xff\n", "not utf-8"), (b'"text\na\n', "left open by a quote")],
)
def test_a_header_that_cannot_be_used(header: bytes, fault: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"the header, line 1, is .*{fault}"):
        read(csv_of(tmp_path, header))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_packed_files_and_packed_files_cut_off(name: str, ending: str, tmp_path: Path) -> None:
    texts = [f"{n * 7919 % 10_007} {n * 104_729 % 99_991}" for n in range(20_000)]
    content = "text\n" + "".join(f"{text}\n" for text in texts)
    if name == "a.jsonl":
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    data = packed(content.encode(), f".{ending}")
    path = csv_of(tmp_path, data, f"{name}.{ending}")
    assert [text for _, text in read(path)[0]] == texts
    path.write_bytes(data[: len(data) // 2])
    faults: Faults = []
    rows = jsonl_rows(path, "auto", lambda *fault: faults.append(fault))
    if name == "a.csv":
        rows = csv_rows(
            path, "auto", Dialect(","), partial(check_columns, ["text"]), lambda *fault: faults.append(fault)
        )
    seen: list[object] = []
    with pytest.raises(DataError, match="damaged or cut off"):
        seen.extend(row["text"] for _, row in rows)
    assert ending == "zst" or 1000 < len(seen) < 20_000
    assert seen == texts[: len(seen)]
    assert not faults


def valid(kind: str, rng: np.random.Generator) -> bytes:
    words = ["sun", "", 'say "so"', "a,b", "two\nlines", "é", "😀", "x" * 300, None, "\\", "1e999"]
    table = [{"id": int(n), "text": words[n]} for n in rng.integers(len(words), size=40)]
    buffer = io.StringIO()
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(table), sink, compression=rng.choice(["none", "snappy", "zstd"]))
        return sink.getvalue()
    if kind.startswith("csv"):
        writer = csv.DictWriter(buffer, ["id", "text"])
        writer.writeheader()
        writer.writerows(table)
    else:
        buffer.writelines(json.dumps(row, ensure_ascii=bool(row["id"] % 2)) + "\n" for row in table)
    return buffer.getvalue().encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with a few of them changed, taken out, doubled or put in; sometimes none of them at all."""
    if rng.random() < 0.1:
        return rng.bytes(int(rng.integers(2000)))
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 8)):
        first, last = sorted(rng.integers(len(damaged) + 1, size=2))
        how = rng.integers(5)
        if how == 0 and len(damaged):
            damaged[min(first, len(damaged) - 1)] = rng.integers(256)
        elif how == 1:
            del damaged[first : min(last, first + 50)]
        elif how == 2:
            damaged[first:first] = damaged[first : min(last, first + 50)]
        elif how == 3:
            damaged[first:first] = rng.choice([b'"', b"\n", b"\r", b"\0", b"\xff", b",", b"{", b"\\", b"\xed\xa0\x80"])
        elif rng.random() < 0.2:
            del damaged[last:]
    return bytes(damaged)


def packed(data: bytes, kind: str) -> bytes:
    if kind.endswith(".gz"):
        return gzip.compress(data)
    return pa.compress(data, "zstd", asbytes=True) if kind.endswith(".zst") else data


@pytest.mark.parametrize(
    "kind",
    ["csv", "jsonl.zst", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("jsonl", "csv.gz", "parquet"))],
)
def test_random_damage_is_told_or_a_data_error(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_CHARACTERS", 1500)
    rng, path, refused, readable_files = np.random.default_rng(7), tmp_path / f"a.{kind}", [], 0
    for case in range(250):
        data = valid(kind, rng)
        path.write_bytes(damaged(packed(data, kind), rng) if case % 2 else packed(damaged(data, rng), kind))
        try:
            kept, faults = read(path)
        except DataError as error:
            refused.append(str(error))
            continue
        readable_files += bool(kept)
        assert all(fault for fault, _ in faults)
        for _, text in kept:
            assert rows.encodes(json.dumps(text, ensure_ascii=False))
    assert not any("\n" in error for error in refused)
    assert readable_files > 10
    assert len(refused) > 10


def repeated(size: int) -> pa.Array:
    """The same text of `size` characters in 99 rows."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * 99, pa.int32()), pa.array(["x" * size]))


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"text": repeated(1 << 25)}, "text"),
        ({"a.text": repeated(1 << 25)}, "a.text"),
        ({"a": repeated(3 << 20), "b": repeated(3 << 20)}, "b"),  # each would do
        ({"a": pa.array([[0] * (1 << 21)] * 2)}, r"a.list.\w+"),
    ],
)
def test_parquet_of_few_bytes_that_holds_far_more_is_refused(
    tmp_path: Path, columns: dict[str, pa.Array], named: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=f"column '{named}' unpacks from .* bytes to far more"):
        list(parquet_rows(path, list, lambda *_: None))


def test_wide_parquet_is_read_in_few_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each column a batch takes a fixed time, so that it holds more rows than the sizes of dictionaries allow."""
    path, batches = tmp_path / "a.parquet", []
    table = pa.table({f"{n}": [f"row {row}" for row in range(128)] if n % 2 else range(128) for n in range(20)})
    pq.write_table(table, path)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 1 << 14)
    monkeypatch.setattr(parquet, "_python", lambda batch: batches.append(batch.num_rows) or batch.to_pylist())
    rows = [row for _, row in parquet_rows(path, list, lambda *_: None)]
    assert rows == table.to_pylist()
    assert len(batches) <= 4
