"""What `explore` says of files: kinds, encodings, delimiters, columns, texts, tokens, and what larger ones hold."""

import csv
import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanogrove.data.sources import recognize
from nanogrove.data.sources.binary import binary
from nanogrove.data.sources.dialect import Dialect, guess_dialect
from nanogrove.data.sources.encodings import guess_encoding
from nanogrove.data.sources.formats import format_of
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.text.config import DataConfig
from nanogrove.errors import DataError
from nanogrove.explore import sample
from nanogrove.explore.columns import choose, examine
from nanogrove.explore.findings import Findings, Tokens, explore, recommend, scripts, thinned

WORDS = ["the", "sun", "moon", "walks", "over", "a", "quiet", "river", "stone", "while", "an", "old", "lamp", "waits"]
GENRES, PLATFORMS = ["Sports", "Racing", "Puzzle", "Action"], ["Wii", "NES", "DS", "PS2", "GB"]


def prose(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes a CSV of rows, the first of them the header."""

    def write(rows: list[list[Any]], name: str = "table.csv", encoding: str = "utf-8", **options: Any) -> Path:
        with (tmp_path / name).open("w", encoding=encoding, newline="") as file:
            csv.writer(file, **options).writerows(rows)
        return tmp_path / name

    return write


def verdicts(findings: Findings) -> dict[str, str]:
    return {column.name: column.verdict for column in findings.columns}


def source_of(findings: Findings) -> dict[str, Any]:
    """The source that is proposed, checked to yield what was counted."""
    (source,) = DataConfig(sources=[findings.source]).all_sources
    pieces = list(source.pieces(Skipped()))
    if findings.whole:
        assert sum(piece.first for piece in pieces) == findings.documents
        assert sum(len(piece.text) for piece in pieces) == findings.characters
    return findings.source


def games(rng: random.Random, count: int) -> list[list[Any]]:
    names = [" ".join(rng.choice(WORDS).title() for _ in range(rng.randint(2, 4))) + f" {n}" for n in range(count)]
    sales = [round(rng.random() * 30, 2) for _ in range(count)]
    return [
        ["Rank", "Name", "Platform", "Year", "Genre", "Publisher", "NA_Sales", "EU_Sales"],
        *(
            [
                n + 1,
                name,
                rng.choice(PLATFORMS),
                rng.choice([*range(1980, 2017), "N/A"]),
                rng.choice(GENRES),
                rng.choice(["Nintendo", "Electronic Arts"]),
                sale,
                round(sale / 3, 2),
            ]
            for n, (name, sale) in enumerate(zip(names, sales, strict=True))
        ),
    ]


def test_short_texts_beside_numbers_become_a_format(table: Any, rng: random.Random) -> None:
    findings = explore(str(table(games(rng, 300))))
    assert verdicts(findings) == {
        "Rank": "id",
        "Name": "short text",
        "Platform": "category",
        "Year": "number",
        "Genre": "category",
        "Publisher": "category",
        "NA_Sales": "number",
        "EU_Sales": "number",
    }
    assert source_of(findings)["format"] == (
        "Name: {Name}\nPlatform: {Platform}\nYear: {Year}\nGenre: {Genre}\nPublisher: {Publisher}\n"
        "NA_Sales: {NA_Sales}\nEU_Sales: {EU_Sales}"
    )
    assert (findings.rows, findings.documents, findings.whole) == (300, 300, True)
    assert "delimiter" not in findings.source
    assert "encoding" not in findings.source


def test_questions_with_their_answers(tmp_path: Path, rng: random.Random) -> None:
    rows = [{"id": n, "Question": prose(rng, 8), "Answer": prose(rng, 20), "tags": ["a"]} for n in range(50)]
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n[1]\n" + '{"id": 7}\n')
    findings = explore(str(path))
    assert source_of(findings)["format"] == "Q: {Question}\nA: {Answer}"
    assert verdicts(findings)["tags"] == "nested"
    assert findings.skipped == {"broken JSON": 1, "neither an object nor a text": 1, "without 'Question'": 1}
    assert findings.locations["broken JSON"] == [f"{path}, line 51"]
    assert any("2% of the rows have no 'Question'" in note for note in findings.notes)
    assert findings.documents == 50


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["prompt", "completion"], {"format": "prompt: {prompt}\ncompletion: {completion}"}),
        (
            ["instruction", "input", "output"],
            {"format": "instruction: {instruction}\ninput: {input}\noutput: {output}"},
        ),
        (["title", "body"], {"format": "{title}\n\n{body}"}),
        (["name", "review"], {"format": "{name}\n\n{review}"}),
        (["plot"], {"text_field": "plot"}),
        (["Text"], {"text_field": "Text"}),
        (["plot", "review"], {"format": "plot: {plot}\nreview: {review}"}),
        (["plo{t", "review"], {"fields": ["plo{t", "review"]}),
    ],
)
def test_the_columns_that_make_a_text(rng: random.Random, names: list[str], expected: dict[str, Any]) -> None:
    length = {"title": 4, "name": 3, "input": 5, "Text": 5}
    columns = [examine(name, [prose(rng, length.get(name, 30)) for _ in range(40)], 40) for name in names]
    columns.append(examine("stars", [rng.randint(1, 5) for _ in range(40)], 40))
    assert choose(columns).options == expected


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([None, "", " "], "empty"),
        (["1,200", "$3.50", "40%", "-7e3", "N/A"] * 9, "number"),
        ([3.5, float("nan"), 2], "number"),
        (list(range(7, 40)), "id"),
        ([*range(60), "²", "9" * 5000, "1"], "id"),
        (["2024-05-01", "1999-12-31T10:00:00"], "date"),
        (["12 May 2024", "May 3, 2020"], "date"),
        (["https://a.example/b c", "https://a.example"], "short text"),
        (["https://a.example/b", "http://a.example"], "link"),
        (["6f9619ff-8b86-d011-b42d-00c04fc964ff", "6f9619ff-8b86-d011-b42d-00c04fc964fe"], "id"),
        ([{"a": 1}, [2]], "nested"),
        (["same"] * 9, "constant"),
        (["これは長い文章で、空白がない。" * 3, "別の文章もここにあって、かなり長い。" * 3], "text"),
        (["True", "False"] * 20, "category"),
    ],
)
def test_the_verdict_on_a_column(values: list[Any], verdict: str) -> None:
    assert examine("x", values, len(values)).verdict == verdict


def test_figures_of_a_column() -> None:
    column = examine("x", ["one two", "one two", "three", None], 8)
    assert (column.present, column.filled, column.numeric, column.distinct) == (0.5, 3 / 8, 0, 2 / 3)
    assert column.characters == 19 / 3
    assert column.words == 5 / 3


def test_a_table_of_numbers_alone(table: Any, rng: random.Random) -> None:
    findings = explore(str(table([["a", "b"], *([rng.randint(0, 99), rng.random()] for _ in range(50))])))
    assert source_of(findings)["format"] == "a: {a}\nb: {b}"
    assert findings.choice is not None
    assert "no column is text" in findings.choice.why


def test_names_that_a_format_cannot_take(table: Any) -> None:
    header = ["Name", "Price: USD", "", "Name2", "Twice", "Twice"]
    findings = explore(str(table([header, *([f"n{n} x", n * 7 % 5, n, f"m {n}", 1, 2] for n in range(30))])))
    assert source_of(findings)["format"] == "Name: {Name}\nName2: {Name2}"
    notes = " ".join(findings.notes)
    assert "'Price: USD' cannot be named in a format" in notes
    assert "column 'Twice' stands more than once" in notes


@pytest.mark.parametrize(("delimiter", "name"), [(";", "a.csv"), ("\t", "a.csv"), ("|", "a.csv"), (",", "a.tsv")])
def test_another_delimiter(table: Any, rng: random.Random, delimiter: str, name: str) -> None:
    rows = [["city", "note"], *([rng.choice(WORDS), prose(rng, 12) + ", 1,5"] for _ in range(60))]
    findings = explore(str(table(rows, name, delimiter=delimiter)))
    assert source_of(findings)["delimiter"] == delimiter
    assert source_of(findings)["text_field"] == "note"


def test_the_usual_delimiter_is_kept_where_rows_have_others_too() -> None:
    assert guess_dialect("a,b\nx;y;z,1\nx;y;z,2\n").dialect.delimiter == ","
    assert guess_dialect("a;b\n1,5;2,5\n3,5;4,5\n").dialect.delimiter == ";"
    assert guess_dialect("one column\nx\n") == (Dialect(","), "the header has one column")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_another_encoding(table: Any, tmp_path: Path, encoding: str, name: str) -> None:
    texts = ["Un café près d’ici, où l’on joue." if encoding == "cp1252" else "Un café près de là"] * 30
    texts = [f"{text} {n} et plus encore, car la ligne est longue" for n, text in enumerate(texts)]
    if name == "a.csv":
        table([["text"], *([text] for text in texts)], name, encoding)
    else:
        lines = texts if name == "a.txt" else [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        (tmp_path / name).write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    findings = explore(str(tmp_path / name))
    assert source_of(findings)["encoding"] in ({"latin-1", "cp1252"} if encoding == "latin-1" else {encoding})
    assert "é" in findings.example
    assert findings.skipped == {}


@pytest.mark.parametrize(("encoding", "message"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("utf-8", "utf-8")])
def test_an_encoding_that_needs_no_name(tmp_path: Path, encoding: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("Ein schöner Tag.\n" * 30, encoding=encoding)
    findings = explore(str(tmp_path / "a.txt"))
    assert findings.encoding is not None
    assert findings.encoding.name == message
    assert source_of(findings) == {"type": "text", "path": str(tmp_path / "a.txt")}


def test_an_encoding_is_judged_with_care() -> None:
    assert guess_encoding("häß".encode()[:-1], whole=False).name == "utf-8", "a character that is cut is none broken"
    assert "damaged at 1 position," in guess_encoding("schön ".encode() * 20 + b"\xff").why
    assert guess_encoding("Привет, мир".encode("cp1251")).name == "cp1251"
    assert guess_encoding(b"plain").why == "ASCII alone"


def test_files_of_several_encodings_are_told(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text("schöner Tag\n" * 20, encoding="utf-8" if n else "latin-1")
    findings = explore(str(tmp_path))
    assert findings.source["encoding"] == "detect"
    assert f"1 of the files are not utf-8, such as {tmp_path / '0.txt'} (cp1252)" in findings.notes[0]
    assert findings.example == "schöner Tag\n" * 20


def test_parquet(tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [prose(rng, 30) for _ in range(500)]
    columns = {"id": range(500), "text": texts, "when": pa.array([0] * 500, pa.timestamp("s")), "list": [[1]] * 500}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    findings = explore(str(tmp_path / "a.parquet"))
    assert source_of(findings) == {"type": "parquet", "path": str(tmp_path / "a.parquet"), "text_field": "text"}
    assert verdicts(findings) == {"id": "id", "text": "text", "when": "date", "list": "nested"}
    assert findings.encoding is None
    monkeypatch.setattr(sample, "MAX_ROWS", 100)
    findings = explore(str(tmp_path / "a.parquet"))
    assert (findings.rows, findings.sample_rows, findings.whole) == (500, 100, False)
    assert findings.characters == pytest.approx(sum(map(len, texts)), rel=0.1)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("a.csv", "SAMPLE_BYTES"),
        pytest.param("a.csv.gz", "SAMPLE_BYTES", marks=pytest.mark.slow),
        ("a.jsonl", "SAMPLE_BYTES"),
        pytest.param("a.jsonl.zst", "SAMPLE_BYTES", marks=pytest.mark.slow),
        ("a.txt", "SAMPLE_BYTES"),
        ("a.csv", "MAX_ROWS"),
        ("a.jsonl", "MAX_ROWS"),
    ],
)
def test_a_larger_file_is_estimated(
    table: Any, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, name: str, limit: str
) -> None:
    count = 20_000 if name.endswith(("gz", "zst")) else 3000  # what is packed is read ahead, by blocks
    texts = [f'{prose(rng, rng.randint(2, 60))} "é {n}", so' for n in range(count)]
    if ".csv" in name:
        data = table([["n", "text"], *([n * n, text] for n, text in enumerate(texts))], "plain").read_bytes()
    elif ".jsonl" in name:
        data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    else:
        data = "\n".join(texts).encode()
    packed = {".gz": gzip.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}
    (tmp_path / name).write_bytes(packed.get(Path(name).suffix, bytes)(data))
    exact = explore(str(tmp_path / name))
    assert exact.whole
    module, value = (sample, 900) if limit == "MAX_ROWS" else (recognize, len(data) // 5)
    monkeypatch.setattr(module, limit, value)
    about = explore(str(tmp_path / name))
    assert not about.whole
    for figure in ("rows", "documents", "characters"):
        assert getattr(about, figure) == pytest.approx(getattr(exact, figure), rel=0.1)
    for sampled, real in zip(about.tokens, exact.tokens, strict=True):
        assert sampled.count == pytest.approx(real.count, rel=0.1)
    assert about.source == exact.source


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_rows_that_grow_longer_are_counted_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rows = [{"n": n, "text": "word " * (1 + n // 2000)} for n in range(20_000)]
    lines = [json.dumps(row) if "json" in name else f"{row['n']},{row['text']}" for row in rows]
    (tmp_path / name).write_text("\n".join(["n,text"] * ("csv" in name) + lines) + "\n")
    monkeypatch.setattr(sample, "MAX_ROWS", 2000)
    findings = explore(str(tmp_path / name))
    assert not findings.whole
    assert findings.rows == pytest.approx(20_000, rel=0.1)


def test_a_folder_of_many_files_is_read_evenly(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(60):
        (tmp_path / f"{n:02}.txt").write_text(prose(rng, 200 + 10 * n))
    exact = explore(str(tmp_path))
    monkeypatch.setattr(recognize, "MAX_FILES", 12)
    monkeypatch.setattr(recognize, "SAMPLE_BYTES", 12 * 800)
    about = explore(str(tmp_path))
    assert (about.looked_at, about.files, about.whole, about.documents) == (12, 60, False, 60)
    assert about.characters == pytest.approx(exact.characters, rel=0.1)
    assert about.compared == 0, "of none is known whether it is the same as another"


def test_documents_that_came_before(tmp_path: Path) -> None:
    for n in range(6):
        (tmp_path / f"{n}.txt").write_text(f"A text of its own, {n % 4}. " * 10)
    findings = explore(str(tmp_path))
    assert (findings.duplicates, findings.compared) == (2, 6)


def test_scripts_are_shares_of_the_letters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("12 ab, да! 漢字 かな " * 20 + "ﬁ", encoding="utf-8")
    shares = explore(str(tmp_path / "a.txt")).scripts
    assert shares == {k: pytest.approx(0.25, abs=0.01) for k in ("Latin", "Cyrillic", "Han", "Japanese kana")}
    assert scripts({}) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(("separator", "shown"), [("\n---\n", "\\n---\\n"), ("\n\n", "\\n\\n"), ("\r\n\r\n", "\\r\\n")])
def test_a_text_that_may_be_several(tmp_path: Path, rng: random.Random, separator: str, shown: str) -> None:
    (tmp_path / "a.txt").write_text(separator.join(prose(rng, 20) for _ in range(120)), newline="")
    (note,) = explore(str(tmp_path / "a.txt")).notes
    assert shown in note
    assert "about 120, of " in note
    (tmp_path / "a.txt").write_text("One line.\n" * 200)
    assert explore(str(tmp_path / "a.txt")).notes == []


def test_the_tokens_are_those_of_training(tmp_path: Path, rng: random.Random) -> None:
    text = "".join(prose(rng, 20) + "é\n" for _ in range(400))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    findings = explore(str(tmp_path / "a.txt"))
    char, byte, bpe = findings.tokens
    assert (char.count, char.vocabulary) == (len(text) + 1, len(set(text)) + 1)
    assert (byte.count, byte.vocabulary) == (len(text.encode()) + 1, 257)
    assert bpe.count < len(text) / 3


def test_which_tokenizer(tmp_path: Path, rng: random.Random) -> None:
    letters = "".join(chr(rng.randrange(97, 123)) if rng.random() < 0.8 else " " for _ in range(20_000))
    (tmp_path / "a.txt").write_text(letters)
    findings = explore(str(tmp_path / "a.txt"))
    assert findings.tokenizer == "char"
    assert "26 characters are few" in findings.why or "27 characters are few" in findings.why
    (tmp_path / "a.txt").write_text("".join(chr(rng.randrange(0x4E00, 0x5500)) for _ in range(20_000)), "utf-8")
    assert explore(str(tmp_path / "a.txt")).tokenizer == "byte"
    advice = recommend([Tokens("char", 90, 3_000_000), Tokens("byte", 257, 3_000_000), Tokens("bpe", 4096, 900_000)])
    assert advice == ("bpe", "each of its 4,096 tokens is seen about 219 times")


def test_a_thinned_text_comes_from_all_of_it() -> None:
    parts = thinned(["a" * 100_000, "b" * 100_000], 50_000)
    assert 25_000 < sum(map(len, parts)) < 100_000
    assert {part[0] for part in parts} == {"a", "b"}


@pytest.mark.slow
def test_pdf(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf", "named.txt"):
        stream = b"BT /F1 12 Tf 72 720 Td (" + b"A page of a PDF, with some words. " * 3 + b") Tj ET"
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 900 900] /Contents 4 0 R /Resources << /Font << /F1 5 0 R "
            b">> >> >>",
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
        body = b"".join(b"%d 0 obj\n%s\nendobj\n" % each for each in enumerate(objects, start=1))
        (tmp_path / name).write_bytes(b"%PDF-1.4\n" + body + b"trailer\n<< /Size 6 /Root 1 0 R >>\n%%EOF\n")
    (tmp_path / "c.pdf").write_bytes(b"%PDF-1.4 and nothing else" * 9)
    findings = explore(str(tmp_path))
    assert (findings.kind, findings.documents, findings.files) == ("pdf", 2, 3)
    assert source_of(findings) == {"type": "pdf", "path": str(tmp_path)}
    assert "A page of a PDF" in findings.example
    assert findings.skipped
    assert findings.others == [(".txt", 1)]
    assert explore(str(tmp_path / "named.txt")).source == {"type": "pdf", "path": str(tmp_path / "named.txt")}


def test_a_folder_of_several_kinds(tmp_path: Path, rng: random.Random) -> None:
    (tmp_path / "code" / ".hidden").mkdir(parents=True)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 900)
    (tmp_path / "notes.txt").write_text("Short.")
    (tmp_path / "README").write_text("No ending. " * 9000)
    for n in range(3):
        (tmp_path / "code" / f"{n}.py").write_text(f"print({n})  # {prose(rng, 60)}\n")
    (tmp_path / "code" / ".hidden" / "x.py").write_text("import this\n")
    findings = explore(str(tmp_path))
    assert source_of(findings) == {"type": "text", "path": str(tmp_path), "glob": "**/*.py"}
    assert sorted(findings.others) == [(".png", 1), (".txt", 1), ("without an ending", 1)]
    assert findings.skipped == {"hidden file": 1}
    assert explore(f"{tmp_path}/**/*.py").source == {"type": "text", "path": f"{tmp_path}/**/*.py"}


def test_json_lines_by_another_name(tmp_path: Path, rng: random.Random) -> None:
    for n in range(2):
        lines = [json.dumps({"text": prose(rng, 30)}) + "\n" for _ in range(9)]
        (tmp_path / f"{n}.json").write_text("".join(lines))
    assert source_of(explore(str(tmp_path / "0.json")))["type"] == "jsonl"
    assert source_of(explore(str(tmp_path)))["glob"] == "**/*.json"
    (tmp_path / "0.json").write_text(json.dumps([{"text": prose(rng, 30)}] * 9, indent=1))
    findings = explore(str(tmp_path / "0.json"))
    assert (findings.kind, findings.rows, findings.source["text_field"]) == ("json", 9, "text")


def test_a_table_without_a_header(table: Any) -> None:
    findings = explore(str(table([[n, f"word {n} and more"] for n in range(1, 40)])))
    assert any("the first line is taken for the names of columns, but '1' looks like data" in n for n in findings.notes)


def test_files_with_other_columns(table: Any, tmp_path: Path, rng: random.Random) -> None:
    table([["text"], *([prose(rng, 30)] for _ in range(30))], "a.csv")
    table([["body"], [prose(rng, 30)]], "b.csv")
    findings = explore(str(tmp_path))
    assert any(f"1 of the files have other columns, such as {tmp_path / 'b.csv'}" in note for note in findings.notes)


BAD: dict[str, tuple[Any, str]] = {
    "empty.txt": (b"", "empty; there is nothing"),
    "blank.txt": (b" \n\n", "nothing to train on (blanks alone)"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n" + bytes(999), "a PNG picture; nanogrove reads text"),
    "book.csv": (b"PK\x03\x04" + bytes(range(256)), "a ZIP archive that is damaged or cannot be unpacked"),
    "noise.txt": (bytes(range(256)) * 4, "binary, of a kind not known"),
    "cut.txt.gz": (gzip.compress(os.urandom(9999))[:500], "damaged or cut off"),
    "header.csv": (b"a,b\n", "no row that can be used (there is none)"),
    "broken.jsonl": (b"{\n" * 9, "no row that can be used (9 times broken JSON)"),
    "numbers.jsonl": (b"1\n" * 9, "9 times neither an object nor a text"),
    "none.parquet": (b"nothing", "not Parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_explored(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        explore(str(tmp_path / name))
    assert message in str(error.value)
    assert name in str(error.value)


def test_a_path_that_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999))
    (tmp_path / "none").mkdir()
    cases = {
        "nope": "no such file or folder",
        "none": "holds no file",
        "*.txt": "no file fits this pattern",
        "": "holds nothing that can be read as text (1 .png, a PNG picture)",
    }
    for name, message in cases.items():
        with pytest.raises(DataError) as error:
            explore(f"{tmp_path}/{name}".rstrip("/"))
        assert message in str(error.value)
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="names files of 2 kinds"):
        explore(f"{tmp_path}/a.[ct]*")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["a.txt", "folder"])
def test_what_may_not_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text("text")
    path.chmod(0)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        explore(str(path))
    path.chmod(0o700)


def test_text_is_not_taken_for_binary() -> None:
    assert binary(b"PK means pack. " * 99) is None
    assert binary("Zeilen\n".encode("utf-16")) is None
    assert binary(b"\x1b[31mred\x1b[0m\n" * 9) is None
    assert format_of("a.txt").name == "text"
