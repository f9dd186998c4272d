"""The kinds of files that can be read: a new format is a line here, and presets, `explore` and Kaggle know it."""

from nanogrove.data.sources.contract import SourceKind
from nanogrove.data.sources.pdf import PDF
from nanogrove.data.sources.tables import CSV, JSON, JSONL, PARQUET
from nanogrove.data.sources.text import TEXT

FORMATS: tuple[SourceKind, ...] = (
    TEXT,
    CSV,
    JSONL,
    JSON,
    PARQUET,
    PDF,
)


def format_of(name: str) -> SourceKind:
    """The kind that reads a file of this name; text where its ending says nothing else."""
    return next((kind for kind in FORMATS if name.lower().endswith(kind.endings)), TEXT)


def readable_formats(last: str = " and ") -> str:
    """The formats in words, as `text, CSV and PDF`."""
    *labels, final = [kind.label for kind in FORMATS]
    return f"{', '.join(labels)}{last}{final}"
