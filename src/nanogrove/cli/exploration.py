"""The findings of `explore` as lines for a terminal of any width. Text that comes from a file is made printable."""

import textwrap
from collections.abc import Iterator

from rich.cells import cell_len

from nanogrove.cli.text import printable
from nanogrove.data.sources.dialect import DELIMITERS
from nanogrove.data.sources.kinds import KINDS
from nanogrove.explore.columns import Column
from nanogrove.explore.findings import Findings
from nanogrove.explore.proposal import Proposal

LABEL = 12  # characters of the first column
COLUMNS = 30  # that are shown
SHOWN, LINES = 500, 12  # characters and lines of a document


def described(findings: Findings, width: int = 80) -> Iterator[str]:
    """Lines on all that was found, of at most `width` characters unless a word is longer."""
    for label, text in _described_files(findings):
        yield from _wrapped(label, text, width, LABEL if label else 0)
    if findings.columns:
        yield ""
        for column in findings.columns[:COLUMNS]:
            yield from _column(column, width)
        if len(findings.columns) > COLUMNS:
            yield f"and {len(findings.columns) - COLUMNS:,} more columns"
        yield ""
    if findings.choice is not None:
        yield from _wrapped("text", f"{findings.choice.why}; so", width)
        for key, value in findings.choice.options.items():
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            yield from _wrapped("", f"{key}:\n{shown}" if "\n" in shown else f"{key}: {shown}", width)
        yield ""
    for label, text in _described_documents(findings):
        yield from _wrapped(label, text, width)
    yield ""
    example = printable(findings.example[:SHOWN].strip()).splitlines()[:LINES]
    yield "the first document" + (" begins:" if len("\n".join(example)) < len(findings.example.strip()) else ":")
    for line in example:
        yield from _wrap(line, width, "  ", "  ") or [""]
    yield ""
    for tokens in findings.tokens:
        counted = f"{_about(findings)}{tokens.count:,} tokens, vocabulary {tokens.vocabulary:,}"
        yield from _wrapped(tokens.name, counted, width)
    yield from _wrapped("tokenizer", f"{findings.tokenizer}: {findings.why}", width)


def _about(findings: Findings) -> str:
    """The word before a count that is an estimate."""
    return "" if findings.whole else "about "


def _described_files(findings: Findings) -> Iterator[tuple[str, str]]:
    """Labels and texts on the files and their format; the first has no label."""
    kind = KINDS[findings.kind]
    pattern = f" {findings.source['glob']}" if "glob" in findings.source else ""
    files = f" in {_count(findings.files, 'file')}{pattern}" if findings.files > 1 or pattern else ""
    yield "", f"{findings.path}: {kind.label}, {_size(findings.bytes)}{files}"
    if findings.others:
        others = ", ".join(f"{count:,} {ending}" for ending, count in findings.others[:5])
        yield "not read", f"{others}{' and others' if len(findings.others) > 5 else ''}"
    if not findings.whole:
        spread = f" of {findings.looked_at:,} files spread evenly" if findings.looked_at < findings.files else ""
        rows = f": {findings.sample_rows:,} rows" if findings.sample_rows else ""
        yield "sample", f"only the beginning was read{spread}{rows}; counts of the whole are estimates"
    if findings.encoding is not None:
        yield "encoding", f"{findings.encoding.name}: {findings.encoding.why}"
    if findings.dialect is not None:
        sign = findings.dialect.dialect.delimiter
        yield "delimiter", f"{DELIMITERS.get(sign, sign)}: {findings.dialect.why}"
    if "separator" in findings.source:
        yield "separator", f"{findings.source['separator']}: such a mark separates documents"
    if findings.columns:
        yield "rows", f"{_about(findings)}{findings.rows:,}, of {_count(len(findings.columns), 'column')}"


def _described_documents(findings: Findings) -> Iterator[tuple[str, str]]:
    """Labels and texts on the documents: how many, how long, in which scripts, and what is left out."""
    about = _about(findings)
    lengths = f", {findings.median:,} median, {findings.longest:,} the longest" if findings.documents > 1 else ""
    yield "documents", f"{about if not KINDS[findings.kind].plain_text else ''}{findings.documents:,}"
    yield "characters", f"{about}{findings.characters:,}{lengths}; {findings.alphabet:,} different ones"
    if findings.scripts:
        yield "scripts", ", ".join(f"{name} {_percent(share)}" for name, share in findings.scripts.items())
    if findings.compared > 1:
        duplicates = f"none in {findings.compared:,} documents"
        if findings.duplicates:
            share = f"{findings.duplicates:,} of {findings.compared:,} documents are exact duplicates of earlier ones"
            duplicates = f"{share}; data.drop_duplicates=true leaves them out"
        yield "duplicates", duplicates
    for reason, count in sorted(findings.skipped.items(), key=lambda reason_count: -reason_count[1]):
        examples = findings.locations.get(reason)
        yield "left out", f"{count:,} times {reason}" + (f", as in {examples[0]}" if examples else "")
    for note in findings.notes:
        yield "note", note


def _column(column: Column, width: int) -> Iterator[str]:
    """A column, its verdict with the reason, and a cell."""
    text = f"{column.verdict}: {column.why}"
    if 0 < column.filled < 0.995:
        text += f"; {_percent(1 - column.filled)} empty"
    if column.example:
        text += f"; e.g. {_cut(' '.join(printable(column.example).split()), 60)}"
    name = _cut(" ".join(printable(column.name).split()), 16) or "(no name)"
    yield from _wrapped(name, text, width, 18)


def proposed(proposal: Proposal, took: float, name: str, width: int = 80) -> Iterator[str]:
    """Lines on a preset that was written as the file `name`, and that takes so many seconds."""
    model, train = proposal.values["model"], proposal.values["train"]
    shape = f"{model['n_layer']} layers of {model['n_embd']}, context {model['block_size']} ({proposal.why})"
    yield ""
    yield from _wrapped("model", shape, width)
    yield from _wrapped("training", f"{train['tokens']:,} tokens, {_passes(proposal.passes)}", width)
    yield from _wrapped("time", f"about {_duration(took)} on this machine, as measured just now", width)
    yield from _wrapped("preset", name, width)
    if proposal.too_short:
        advice = "so short a text teaches a model little from nothing; train.init=FOLDER begins with pretrained weights"
        yield from _wrapped("better", f"{advice}, of a run or a model of transformers", width)


def _passes(passes: float) -> str:
    return f"about {passes:,.0f} passes over the text" if passes >= 1.5 else f"{min(passes, 1):.0%} of the text"


def _wrapped(label: str, text: str, width: int, indent: int = LABEL) -> Iterator[str]:
    first = f"{label:<{indent}}" if len(label) < indent or not label else f"{label} "
    cleaned = printable(text).split("\n")
    for number, part in enumerate(cleaned):
        start = first if number == 0 else " " * indent
        yield from _wrap(part, width, start, " " * indent) or [start.rstrip()]


def _wrap(text: str, width: int, first: str, later: str) -> list[str]:
    """Lines of `width` cells; where characters take two, as Han does, of about as many."""
    wide = cell_len(text) > 1.5 * len(text)
    return textwrap.wrap(text, width // 2 if wide else width, initial_indent=first, subsequent_indent=later)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room - 1, 1)] + "…"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 or share == 0 else f"{share:.1%}"


def _size(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} bytes"


def _duration(took: float) -> str:
    if took < 90:
        return f"{max(took, 1):,.0f} seconds"
    return f"{took / 60:,.0f} minutes" if took < 5400 else f"{took / 3600:,.1f} hours"
