"""Rows of Parquet with their numbers. Few kilobytes can hold gigabytes, so batches are as small as their bytes ask."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanogrove.data.sources.contract import OnBadRow, Row, SelectColumns
from nanogrove.data.sources.packing import MAX_RATIO
from nanogrove.data.sources.pieces import PIECE_CHARACTERS
from nanogrove.data.sources.rows import prefix_errors
from nanogrove.errors import DataError

MAX_ROWS_PER_BATCH, BATCH_BYTES = 64, 1 << 25  # in memory at a time
MAX_DICTIONARY_BYTES = 1 << 24  # of the different values of a column, which a page of their own holds
MAX_PAGES_BYTES = 1 << 25  # of a column that is packed to far less, since a page is unpacked at once
MAX_NESTED_BYTES = 1 << 28  # of a column of lists, by 8 bytes for each value
HEADER_BYTES = 32  # of a page, within which its size stands
I32_FIELD = 0x15  # Thrift's compact protocol: the next field, a number


def parquet_rows(path: Path, select: SelectColumns, on_bad: OnBadRow) -> Iterator[Row]:
    """Rows with their numbers from 1, of the columns that `select` chooses; others are not read.

    Raises DataError for a file that cannot be read, is not Parquet, or unpacks to far more than it is, where pyarrow is
    missing, and as `select` does.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow; pip install 'nanogrove[data]'") from None
    number = 0
    try:
        # By default pyarrow would read all of a column in a row group at once.
        with ParquetFile(path, buffer_size=PIECE_CHARACTERS, pre_buffer=False) as file:
            with prefix_errors(path):
                names = list(select(file.schema_arrow.names))
                rows = _rows_per_batch(path, file, names)
            for batch in file.iter_batches(rows, columns=names):
                for row in _python(batch):
                    number += 1
                    if isinstance(row, str):
                        on_bad(row, number)
                    else:
                        yield number, row
    except (ArrowException, OSError, ValueError, KeyError, OverflowError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        reason = str(error).split("\n")[0]
        raise DataError(f"{path}: not Parquet, or damaged after row {number} ({reason})") from None


def _rows_per_batch(path: Path, file: Any, names: Sequence[str]) -> int:
    """As many rows as BATCH_BYTES hold for sure. Raises DataError for columns that unpack to far more than they are."""
    metadata, wanted, most = file.metadata, set(names), 1.0
    with path.open("rb") as raw:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            size = 0.0  # bytes of a row: its share of the pages, and the longest value that it may name
            for at in range(group.num_columns):
                column = group.column(at)
                if column.path_in_schema.partition(".")[0] not in wanted:
                    continue
                packed, unpacked = max(column.total_compressed_size, 1), column.total_uncompressed_size
                nested = file.schema.column(at).max_repetition_level > 0
                values = 8 * column.num_values if nested else 0
                dictionary = _dictionary_bytes(raw, column)
                if (
                    (unpacked > MAX_PAGES_BYTES and unpacked > MAX_RATIO * packed)
                    or (values > MAX_NESTED_BYTES and values > MAX_RATIO * packed)
                    or dictionary > MAX_DICTIONARY_BYTES
                ):
                    raise DataError(
                        f"column {column.path_in_schema!r} unpacks from {packed:,} bytes to far more, as no usual text "
                        "does; if that is right, write it as JSON lines, and name these"
                    )
                size += unpacked / max(group.num_rows, 1) + dictionary
            most = max(most, size)
    return max(min(int(BATCH_BYTES / most), MAX_ROWS_PER_BATCH), 1)


def _dictionary_bytes(raw: Any, column: Any) -> int:
    """The size of the page of different values of a column, by its header; 0 where it has none."""
    if not column.has_dictionary_page or column.dictionary_page_offset is None:
        return 0
    raw.seek(column.dictionary_page_offset)
    header = raw.read(HEADER_BYTES)
    at = 0
    sizes = []
    for _ in range(2):  # the kind of page, and its size unpacked; each a field, and a number of 7 bits a byte
        if header[at : at + 1] != bytes([I32_FIELD]):
            return int(column.total_uncompressed_size)
        value = shift = 0
        while True:
            at += 1
            byte = header[at] if at < len(header) else 0
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        sizes.append(value >> 1)  # zigzag
        at += 1
    return sizes[1]


def _python(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; in place of a row that Python cannot represent, the reason."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # bytes that are not text, a date of the year 300000
        for at in range(batch.num_rows):
            try:
                row: dict[str, Any] = batch.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "not utf-8"
            except (ValueError, OverflowError):
                yield "out of range"
            else:
                yield row
