"""PDF files as sources, by their text; pictures of text are not read.

The PDF library is C++: a damaged file can crash it, keep it busy for hours, or make it use all memory. So it runs in a
process of its own, with limits on time and memory. That process is started again after a file that ended it; such a
file is counted, and the others are still read. `python -m nanogrove.data.sources.pdf SECONDS SECONDS`, for a page and
for a file, is that process: it reads one path per line and answers in lines of JSON.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from nanogrove.data.processes import ended
from nanogrove.data.sources.contract import SourceKind
from nanogrove.data.sources.files import FileSource
from nanogrove.data.sources.pieces import Piece, Skipped, split_long_document
from nanogrove.errors import DataError

PAGE_CPU_SECONDS, FILE_CPU_SECONDS = 10.0, 120.0  # of CPU time; a page of a book takes a thousandth of a second
SOON_SECONDS = 1e-3  # since a timer of none would never ring
READER_MEMORY_BYTES = 1 << 31
READER_COMMAND = [sys.executable, "-P", "-m", "nanogrove.data.sources.pdf"]
PDFIUM_ERRORS = {2: "PDF that cannot be opened", 4: "encrypted PDF", 5: "encrypted PDF"}  # by number; else damaged
NOT_WRITTEN = re.compile("[\\s\x02\ufffe]")  # blanks, and pdfium's two marks for a hyphen at a line's end
HYPHEN = re.compile("[\x02\ufffe](.?)", re.DOTALL)  # pdfium's mark for a hyphen at a line's end, and what follows it


class PdfSource(FileSource):
    """The text of PDF files; a file is a document."""

    type: Literal["pdf"] = "pdf"
    glob: str = Field("**/*.[pP][dD][fF]", description="which files of a folder to read")

    def pieces(self, skipped: Skipped) -> Iterator[Piece]:
        """Documents in order. Raises DataError where pypdfium2 is missing; a PDF that cannot be read is counted."""
        files = self.counted_files(skipped)
        if find_spec("pypdfium2") is None:
            raise DataError(f"{self.path}: PDF needs pypdfium2; pip install 'nanogrove[data]'")
        if find_spec("resource") is None:
            raise DataError(
                f"{self.path}: this system cannot limit the memory and time of a PDF reader; make text of it first"
            )
        with Reader() as reader:
            for path in files:
                yield from split_long_document(_texts(reader, path, skipped))


def texts(path: Path, skipped: Skipped) -> Iterator[str]:
    """The text of a PDF a page at a time; counts what cannot be read."""
    with Reader() as reader:
        yield from _texts(reader, path, skipped)


PDF = SourceKind(PdfSource, "PDF", (".pdf",), lambda start: start.startswith(b"%PDF-"), texts=texts)


def _texts(reader: "Reader", path: Path, skipped: Skipped) -> Iterator[str]:
    """The text of each page that has any, with a line break before all but the first; counts what cannot be read."""
    written = blank = 0
    sound = True
    for page, (kind, text) in enumerate(reader.read(path), start=1):
        if kind == "page" and text.strip():
            yield "\n" + text if written else text
            written += 1
        elif kind == "page":
            blank += 1
        else:
            sound = False
            skipped.bad(kind, f"{path}, page {page}" if page > 1 or kind == "damaged page" else str(path))
    if sound and not written:
        skipped.bad("scanned PDF (no text)", str(path))
    elif written:
        for _ in range(blank):
            skipped.unwanted("page without text")


class Reader:
    """The process that reads PDFs, started when the first PDF is read."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self._ended()

    def read(self, path: Path) -> Iterator[tuple[str, str]]:
        """The pages that `extract` yields, and in the end a problem where this PDF ended the process.

        Raises DataError when the process cannot be started.
        """
        while True:
            fresh = self.process is None
            process = self.process = self.process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            answered = False
            with suppress(BrokenPipeError):  # the process has ended; the empty answer below shows it
                process.stdin.write(json.dumps(str(path)) + "\n")
                process.stdin.flush()
            while (line := process.stdout.readline()).endswith("\n"):
                kind, text = json.loads(line)
                if kind == "end":
                    return
                answered = True
                yield kind, text
            status = self._ended()
            if status == -signal.SIGPROF:
                yield "PDF that took too long", ""
                return
            if fresh or answered:
                yield "PDF that crashed its reader", ""
                return
            # An earlier PDF may have damaged the process; a fresh process shows whether this one does.

    def _start(self) -> "subprocess.Popen[str]":
        command = [*READER_COMMAND, str(PAGE_CPU_SECONDS), str(FILE_CPU_SECONDS)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C ends the run after its step, which may need another document
        )
        self.process = process
        assert process.stdout is not None
        if process.stdout.readline() != '["ready", ""]\n':
            status = self._ended()
            raise DataError(f"the PDF reader did not start (status {status}); see {' '.join(command)}")
        return process

    def _ended(self) -> int:
        """Waits for the process to end and returns its status."""
        assert self.process is not None
        process, self.process = self.process, None
        return ended(process)


def extract(path: str) -> Iterator[tuple[str, str]]:
    """The pages of a PDF, each as `page` and text or as `damaged page`; or one problem of the whole file."""
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        document = PdfDocument(Path(path))
    except PdfiumError as error:
        yield PDFIUM_ERRORS.get(error.err_code or 0, "damaged PDF"), ""
        return
    except OSError:
        yield PDFIUM_ERRORS[2], ""
        return
    with closing(document):
        for number in range(len(document)):
            try:
                with closing(document[number]) as page, closing(page.get_textpage()) as text:
                    within = text.get_text_bounded(errors="replace")
                    answer = "page", clean(with_line_ends(within, text.get_text_range(errors="replace")))
            except PdfiumError:
                answer = "damaged page", ""
            yield answer


def with_line_ends(within: str, all_text: str) -> str:
    """The text within a page, or all text where that differs by line ends alone.

    Pdfium leaves out line ends of lines that run up or down from what is within a page, and so joins their words.
    """
    if len(all_text.split()) <= len(within.split()) or NOT_WRITTEN.sub("", within) != NOT_WRITTEN.sub("", all_text):
        return within
    return all_text


def clean(text: str) -> str:
    r"""Text of pdfium with \n for line ends, and with words joined that were hyphenated at the end of a line.

    A hyphen is kept unless a small letter follows: `Anglo-Saxon` stays, and `inter-national` becomes one word.
    """
    text = HYPHEN.sub(lambda match: match[1] if match[1].islower() else "-" + match[1], text)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\xad", "")


def main() -> None:
    """Reads the PDFs named on standard input, until a limit or a crash ends it."""
    import resource  # Windows has none, and imports this module all the same

    import pypdfium2  # noqa: F401  before `ready`, so that a failed import does not count as the fault of a file

    page_seconds, file_seconds = map(float, sys.argv[1:])
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, even within the library
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows no such limit; elsewhere a lower one may be set
        resource.setrlimit(resource.RLIMIT_AS, (READER_MEMORY_BYTES, READER_MEMORY_BYTES))
    _print_answer("ready")
    for line in sys.stdin:
        end = time.process_time() + file_seconds
        signal.setitimer(signal.ITIMER_PROF, page_seconds)
        for kind, text in extract(json.loads(line)):
            _print_answer(kind, text)
            signal.setitimer(signal.ITIMER_PROF, max(min(page_seconds, end - time.process_time()), SOON_SECONDS))
        _print_answer("end")


def _print_answer(kind: str, text: str = "") -> None:
    print(json.dumps([kind, text]), flush=True)


if __name__ == "__main__":
    main()
