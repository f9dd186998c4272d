"""PDFs as text: what pages say, and that no file harms the others, however damaged it is."""

import os
import random
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest

from nanogrove.data.sources import pdf
from nanogrove.data.sources import pieces as cutting
from nanogrove.data.sources.pdf import PdfSource, Reader, clean
from nanogrove.data.sources.pieces import Skipped
from nanogrove.errors import DataError

LOCKED = b"/Encrypt << /Filter /Standard /V 2 /R 3 /Length 128 /P -4 /O <%s> /U <%s> >> /ID [<%s> <%s>]" % (
    b"41" * 32,
    b"42" * 32,
    b"01" * 16,
    b"01" * 16,
)


def content(lines: list[str]) -> bytes:
    """Drawing commands that write lines one below the other."""
    shown = b" ".join(b"(%s) '" % line.encode("cp1252").replace(b"(", b"\\(").replace(b")", b"\\)") for line in lines)
    return b"BT /F1 12 Tf 14 TL 72 720 Td %s ET" % shown


def pdf_bytes(*pages: list[str] | bytes, more: bytes = b"") -> bytes:
    """A PDF of pages of lines, or of packed drawing commands; `more` goes into its trailer."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>"
        % (b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(pages))), len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for page in pages:
        stream, packed = (page, b" /Filter /FlateDecode") if isinstance(page, bytes) else (content(page), b"")
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            b"/Contents %d 0 R >>" % (len(objects) + 2),
            b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(stream), packed, stream),
        ]
    out, table = b"%PDF-1.4\n", b""
    for number, body in enumerate(objects, start=1):
        table += b"%010d 00000 n \n" % len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    return (
        out
        + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n"
        % (
            len(objects) + 1,
            table,
            len(objects) + 1,
            more,
            len(out),
        )
    )


def read(path: Path, skipped: Skipped | None = None) -> list[str]:
    """The documents, put together from their pieces."""
    documents: list[str] = []
    for piece in PdfSource(path=str(path)).pieces(skipped or Skipped()):
        if piece.first:
            documents.append("")
        documents[-1] += piece.text
    return documents


def worker(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Puts in place of the reader one that does `body` before each page; `name` and `number` are known there."""
    script = f"""
        import os, signal, sys, time
        from pathlib import Path
        from nanogrove.data.sources import pdf
        true_extract = pdf.extract
        def extract(path):
            name, number = Path(path).name, 0
            for page in true_extract(path):
                number += 1
{textwrap.indent(textwrap.dedent(body), " " * 16)}
                yield page
        pdf.extract = extract
        pdf.main()
    """
    monkeypatch.setattr(pdf, "READER_COMMAND", [sys.executable, "-c", textwrap.dedent(script)])


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        pages = [[f"{name}{page} is a page."] for page in range(3)]
        (tmp_path / f"{name}.pdf").write_bytes(pdf_bytes(*pages))
    return tmp_path


def full(name: str, pages: int = 3) -> str:
    return "\n".join(f"{name}{page} is a page." for page in range(pages))


def test_pages_are_joined_and_words_are_too(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(
        pdf_bytes(["An inter-", "national (word), Anglo-", "Saxon and", "café — €5."], ["Page two."], [], ["Four."])
    )
    skipped = Skipped()
    assert read(tmp_path, skipped) == ["An international (word), Anglo-Saxon and\ncafé — €5.\nPage two.\nFour."]
    assert skipped.counts == {"page without text": 1}
    assert not skipped.locations


def test_what_pdfium_puts_for_hyphens_is_cleaned() -> None:
    assert clean("inter\x02national\r\nco\ufffeop\rx\xady Anglo\x02Saxon 3\x024 end\x02") == (
        "international\ncoop\nxy Anglo-Saxon 3-4 end-"
    )


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    unicode_map = b"/CIDInit /ProcSet findresource begin begincmap 1 beginbfchar <41> <D83D> endbfchar endcmap end"
    data = pdf_bytes(["A B"])
    data = data.replace(b"/WinAnsiEncoding >>", b"/WinAnsiEncoding /ToUnicode 6 0 R >>")
    data += b"6 0 obj\n<< /Length %d >>\nstream\n%s\nendstream\nendobj\n" % (len(unicode_map), unicode_map)
    (tmp_path / "a.pdf").write_bytes(data)  # its table of objects is wrong now, which pdfium mends
    (document,) = read(tmp_path)
    document.encode()
    assert document.endswith(" B")


def test_files_come_in_the_order_of_their_paths_from_nested_folders(tmp_path: Path) -> None:
    for name in ("b/two.PDF", "b/inner/deep/one.pdf", "a.pdf", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(pdf_bytes([f"I am {name}."]))
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "self.pdf").symlink_to(tmp_path / "b" / "self.pdf")
    (tmp_path / "gone.pdf").symlink_to(tmp_path / "nowhere.pdf")
    assert read(tmp_path) == [f"I am {name}." for name in ("a.pdf", "b/inner/deep/one.pdf", "b/two.PDF")]
    assert read(tmp_path / "b" / "two.PDF") == ["I am b/two.PDF."]
    assert read(tmp_path / "*.pdf") == ["I am a.pdf."]


def test_odd_names_are_read(tmp_path: Path) -> None:
    names = ["new\nline.pdf", "{x} é 文.pdf", os.fsdecode(b"not-utf8-\xff.pdf")]
    for name in names:
        (tmp_path / name).write_bytes(pdf_bytes(["Read."]))
    assert read(tmp_path) == ["Read."] * 3


def test_what_cannot_be_read_is_counted_with_its_place(three: Path) -> None:
    bad = {
        "aa-empty.pdf": (b"", "damaged PDF"),
        "ab-random.pdf": (random.Random(0).randbytes(5000), "damaged PDF"),
        "ac-cut.pdf": (pdf_bytes(["Hello."] * 30)[:700], "damaged PDF"),
        "ad-no-pages.pdf": (pdf_bytes(), "damaged PDF"),
        "ae-locked.pdf": (pdf_bytes(["Hello."], more=LOCKED), "encrypted PDF"),
        "af-scan.pdf": (pdf_bytes([], [" "]), "scanned PDF (no text)"),
        "ag-text.pdf": (b"This is no PDF at all.\n" * 100, "damaged PDF"),
    }
    for name, (data, _) in bad.items():
        (three / name).write_bytes(data)
    skipped = Skipped()
    assert read(three, skipped) == [full("a"), full("b"), full("c")]
    assert skipped.counts == {"damaged PDF": 5, "encrypted PDF": 1, "scanned PDF (no text)": 1}
    assert skipped.locations["encrypted PDF"] == [str(three / "ae-locked.pdf")]
    assert skipped.locations["scanned PDF (no text)"] == [str(three / "af-scan.pdf")]
    for name, (_, kind) in bad.items():
        alone = Skipped()
        assert read(three / name, alone) == []
        assert alone.counts == {kind: 1}


def test_a_damaged_page_leaves_the_others(tmp_path: Path) -> None:
    data = pdf_bytes(["one"], ["two"], ["three"]).replace(b"/Kids [4 0 R 6 0 R 8 0 R]", b"/Kids [4 0 R 99 0 R 8 0 R]")
    (tmp_path / "a.pdf").write_bytes(data)
    skipped = Skipped()
    assert read(tmp_path, skipped) == ["one\nthree"]
    assert skipped.locations == {"damaged page": [f"{tmp_path / 'a.pdf'}, page 2"]}


def test_refused_problems_end_the_reading_and_the_reader(three: Path) -> None:
    (three / "b.pdf").write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.pdf: damaged PDF; mend it"):
        read(three, Skipped(refuse=True))


@pytest.mark.parametrize(
    "death",
    [
        "os.kill(os.getpid(), signal.SIGSEGV)",
        *(pytest.param(death, marks=pytest.mark.slow) for death in ("os.abort()", "sys.exit(3)", "1 / 0")),
    ],
)
def test_a_crash_costs_the_rest_of_its_file_only(three: Path, monkeypatch: pytest.MonkeyPatch, death: str) -> None:
    worker(monkeypatch, f"if name == 'b.pdf' and number == 2: {death}")
    skipped = Skipped()
    assert read(three, skipped) == [full("a"), full("b", 1), full("c")]
    assert skipped.counts == {"PDF that crashed its reader": 1}
    assert skipped.locations["PDF that crashed its reader"] == [f"{three / 'b.pdf'}, page 2"]


def test_a_crash_at_the_first_page_is_no_document(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, "if name != 'c.pdf': os.kill(os.getpid(), signal.SIGKILL)")
    skipped = Skipped()
    assert read(three, skipped) == [full("c")]
    assert skipped.locations == {"PDF that crashed its reader": [str(three / "a.pdf"), str(three / "b.pdf")]}


@pytest.mark.slow
def test_a_file_is_not_blamed_for_what_an_earlier_one_broke(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker(
        monkeypatch,
        """
        broken = globals().setdefault("broken", [])
        if broken and name == "b.pdf": os.abort()
        if name == "a.pdf": broken.append(name)
        """,
    )
    skipped = Skipped()
    assert read(three, skipped) == [full("a"), full("b"), full("c")]
    assert not skipped.counts


@pytest.mark.slow
def test_a_page_that_takes_forever_is_left(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "PAGE_CPU_SECONDS", 0.3)
    worker(monkeypatch, "while (name, number) in (('a.pdf', 1), ('b.pdf', 3)): pass")
    skipped = Skipped()
    assert read(three, skipped) == [full("b", 2), full("c")]
    assert skipped.locations == {"PDF that took too long": [str(three / "a.pdf"), f"{three / 'b.pdf'}, page 3"]}


@pytest.mark.slow
def test_a_file_whose_pages_together_take_forever_is_left(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "FILE_CPU_SECONDS", 0.3)
    worker(
        monkeypatch, "until = time.process_time() + 0.25 * (name == 'b.pdf')\nwhile time.process_time() < until: pass"
    )
    skipped = Skipped()
    assert read(three, skipped) == [full("a"), full("b", 1), full("c")]
    assert skipped.locations == {"PDF that took too long": [f"{three / 'b.pdf'}, page 2"]}


@pytest.mark.slow
def test_a_page_that_swells_is_left(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = content(["x" * 80] * 400_000)  # 0.1 MB in the file, 35 MB of commands, and far more of pdfium's records
    (three / "b.pdf").write_bytes(pdf_bytes(zlib.compress(lines)))
    worker(monkeypatch, "pass")
    pdf.READER_COMMAND[-1] = pdf.READER_COMMAND[-1].replace(
        "pdf.main()", "pdf.READER_MEMORY_BYTES = 1 << 28\npdf.main()"
    )
    skipped = Skipped()
    assert read(three, skipped) == [full("a"), full("c")]
    assert skipped.counts == {"PDF that crashed its reader": 1}


def test_long_text_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 500)
    (tmp_path / "a.pdf").write_bytes(pdf_bytes(["word " * 16] * 20, zlib.compress(content(["word " * 16] * 20))))
    pieces = list(PdfSource(path=str(tmp_path)).pieces(Skipped()))
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert len(pieces) > 5
    assert max(len(piece.text) for piece in pieces) <= 500
    assert " ".join(piece.text for piece in pieces).split() == ["word"] * 640


def test_a_reader_that_is_left_ends(three: Path) -> None:
    with Reader() as reader:
        assert next(reader.read(three / "a.pdf")) == ("page", "a0 is a page.")
        process = reader.process
        assert process is not None
        assert process.poll() is None
    assert process.returncode is not None


def test_a_reader_that_does_not_start_is_no_files_fault(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "READER_COMMAND", [sys.executable, "-c", "raise SystemExit(7)"])
    with pytest.raises(DataError, match=r"the PDF reader did not start \(status 7\)"):
        read(three)


def test_a_missing_library_says_how_to_get_it(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"PDF needs pypdfium2; pip install 'nanogrove\[data\]'"):
        read(three)


def test_the_reader_imports_no_torch() -> None:
    code = "import sys, nanogrove.data.sources.pdf; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_changed_bytes_never_stop_a_folder(tmp_path: Path) -> None:
    draw = random.Random(1)
    whole = pdf_bytes(["Some words (here)."] * 20, ["and more"], zlib.compress(content(["packed"] * 20)))
    for number in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 30)):
            at, size = draw.randrange(len(data)), draw.randint(1, 20)
            data[at : at + size] = draw.choice([b"", draw.randbytes(size), bytes(data[at // 2 : at // 2 + size]), b"9"])
        (tmp_path / f"{number:03}.pdf").write_bytes(data)
    (tmp_path / "last.pdf").write_bytes(pdf_bytes(["I am read."]))
    skipped = Skipped()
    documents = read(tmp_path, skipped)
    assert documents[-1] == "I am read."
    kinds = {"damaged PDF", "encrypted PDF", "damaged page", "scanned PDF (no text)", "page without text"}
    assert set(skipped.counts) <= kinds
    assert 0 < skipped.counts["damaged PDF"] < 150
    for document in documents:
        document.encode()


@pytest.mark.parametrize("rotate", [0, 90, 270])
def test_words_of_lines_that_run_upwards_stay_apart(rotate: int, tmp_path: Path) -> None:
    lines = [
        "The old mill stood by the river",
        "and the wheel turned all day long",
        "until the inter-",
        "national fair.",
    ]
    turned = content(lines).replace(b"72 720 Td", b"0 1 -1 0 100 72 Tm")
    data = pdf_bytes(zlib.compress(turned))
    path = tmp_path / "turned.pdf"
    path.write_bytes(data.replace(b"/MediaBox [0 0 612 792]", b"/MediaBox[0 0 612 792] /Rotate %d" % rotate, 1))
    assert read(path)[0].split() == " ".join(lines).replace("inter- national", "international").split()
