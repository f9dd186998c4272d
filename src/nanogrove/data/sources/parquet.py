"""Rows of Parquet with their numbers. Few kilobytes can hold gigabytes, so batches are as small as their bytes ask."""

from collections.abc import Iterator, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nanogrove.data.sources.contract import OnBadRow, Row, SelectColumns
from nanogrove.data.sources.files import size_of
from nanogrove.data.sources.packing import MAX_RATIO
from nanogrove.data.sources.pieces import PIECE_CHARACTERS
from nanogrove.data.sources.rows import prefix_errors
from nanogrove.errors import DataError

MAX_ROWS_PER_BATCH, BATCH_BYTES = 64, 1 << 25  # in memory at a time
COLUMN_BYTES = 1 << 13  # of each column in a batch of a wide file, whose every batch takes a fixed time for each column
MAX_DICTIONARY_BYTES = 1 << 24  # of the different values of a column, which a page of their own holds
# Of columns of a row group that unpack to more than MAX_RATIO times their size: MAX_RATIO times the file, within
PAGES_BYTES = 1 << 22, 1 << 25  # of pages, since a page is unpacked at once
NESTED_BYTES = 1 << 23, 1 << 28  # of lists, by 8 bytes for each value
BATCHES_WORTH_A_LOOK = 4  # of a row group; to read dictionaries first takes as long as about three
TEXT_TYPES, MAX_NUMBER_BYTES = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"), 12  # physical types; of values of others
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
                chunks = partial(_chunks, path, file, frozenset(names))
                groups = range(file.num_row_groups)
                size = size_of(path)
                first: Sequence[_Chunk] = ()  # kept, since a look at a wide file takes as long as to read it
                for group in reversed(groups):
                    first = chunks(group)
                    _refuse_if_huge(first, size)
            for group in groups:
                rows = _rows_per_batch(path, file, group, chunks(group) if group else first)
                for batch in file.iter_batches(rows, row_groups=[group], columns=names, use_threads=False):
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


class _Chunk(NamedTuple):
    """A column of a row group; sizes in bytes, as the file states them."""

    name: str
    packed: int
    unpacked: int
    nested: int  # of the values of lists, 8 each; 0 for other columns
    dictionary: int  # of the page of different values; 0 where there is none
    longest: int  # of a value in it, as far as is known without a look


def _chunks(path: Path, file: Any, wanted: Set[str], group: int) -> list[_Chunk]:
    """The columns of a row group that are wanted, or part of one that is."""
    metadata, chunks = file.metadata.row_group(group), []
    with path.open("rb", buffering=0) as raw:
        for at in range(metadata.num_columns):
            column = metadata.column(at)
            parts = column.path_in_schema.split(".")  # names of columns may hold dots, too
            if any(".".join(parts[:end]) in wanted for end in range(1, len(parts) + 1)):
                nested = 8 * column.num_values if file.schema.column(at).max_repetition_level else 0
                packed = max(column.total_compressed_size, 1)
                dictionary = _dictionary_bytes(raw, column)
                longest = dictionary if column.physical_type in TEXT_TYPES else min(dictionary, MAX_NUMBER_BYTES)
                sizes = packed, column.total_uncompressed_size, nested, dictionary, longest
                chunks.append(_Chunk(column.path_in_schema, *sizes))
    return chunks


def _refuse_if_huge(chunks: Sequence[_Chunk], size: int) -> None:
    """Raises DataError where columns of a row group, of a file of `size` bytes, unpack to far more than they are."""
    most_unpacked, most_nested = (
        min(max(MAX_RATIO * size, least), most) for least, most in (PAGES_BYTES, NESTED_BYTES)
    )
    unpacked = nested = 0  # of the columns that grow more than MAX_RATIO times
    for chunk in chunks:
        unpacked += chunk.unpacked if chunk.unpacked > MAX_RATIO * chunk.packed else 0
        nested += chunk.nested if chunk.nested > MAX_RATIO * chunk.packed else 0
        if unpacked > most_unpacked or nested > most_nested or chunk.dictionary > MAX_DICTIONARY_BYTES:
            raise DataError(
                f"column {chunk.name!r} unpacks from {chunk.packed:,} bytes to far more, as no usual text "
                "does; if that is right, write it as JSON lines, and name these"
            )


def _rows_per_batch(path: Path, file: Any, group: int, chunks: Sequence[_Chunk]) -> int:
    """As many rows of a row group as BATCH_BYTES, or COLUMN_BYTES of each column, hold for sure."""
    count = file.metadata.row_group(group).num_rows
    pages = sum(chunk.unpacked for chunk in chunks) / max(count, 1)
    room = max(BATCH_BYTES, COLUMN_BYTES * len(chunks))

    def most(longest: int) -> int:
        """The rows, where the values that a row may name take so many bytes."""
        return max(min(int(room / max(pages + longest, 1)), MAX_ROWS_PER_BATCH), 1)

    rows = most(sum(chunk.longest for chunk in chunks))
    if rows == MAX_ROWS_PER_BATCH or count <= BATCHES_WORTH_A_LOOK * rows:
        return rows
    return most(sum(_longest_values(path, file, group, chunks)))


def _longest_values(path: Path, file: Any, group: int, chunks: Sequence[_Chunk]) -> Iterator[int]:
    """Bytes of the longest value in each column's dictionary, by a look at those of columns of text.

    A batch takes a fixed time for each column, so that batches of a few rows would make wide files slow to read.
    """
    from pyarrow.compute import binary_length, max, sum
    from pyarrow.parquet import ParquetFile
    from pyarrow.types import is_dictionary

    plain = [chunk.name for chunk in chunks if not chunk.nested and chunk.longest > MAX_NUMBER_BYTES]
    options = {"metadata": file.metadata, "buffer_size": PIECE_CHARACTERS, "pre_buffer": False}
    columns: dict[str, Any] = {}
    with ParquetFile(path, read_dictionary=plain, **options) as first:
        for batch in first.iter_batches(1, row_groups=[group], columns=plain, use_threads=False):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            break
    for chunk in chunks:
        column = columns.get(chunk.name)
        if column is None or not is_dictionary(column.type):
            yield chunk.longest
            continue
        lengths = binary_length(column.dictionary)
        # Each value has its length, of 4 bytes, before it; where that does not add up, it is not the page's dictionary.
        complete = 4 * len(lengths) + (sum(lengths).as_py() or 0) == chunk.dictionary
        yield (max(lengths).as_py() or 0) if complete else chunk.dictionary


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
