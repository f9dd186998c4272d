"""What awkward files cost `nanogrove explore`, against limits, and whether the cost grows faster than the file.

    python benchmarks/bounds.py                    a few minutes and 1 GB of disk, given back
    python benchmarks/bounds.py --only columns     the cases whose names hold this

Each file is made whole and at half its size. In a process each, it is looked at (all that `explore` says of a file),
then explored with the command, which also times steps of training, and named to `train --dry-run`. Printed are seconds
of CPU time, seconds passed and the peak of memory; `growth` is the CPU time of looking at the whole over that of the
half, both less that of a file of 100 rows, most of it imports: 2 is linear. The exit code is 1 where looking takes more
than a limit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow
from pyarrow import parquet

LOOK = "import sys; from nanogrove.explore.findings import explore; explore(sys.argv[1])"
TABLE_ROWS = 20  # of tables of many columns


class Cost(NamedTuple):
    """Of a process: seconds of CPU time and on the clock, and the peak of memory in MB."""

    cpu: float
    wall: float
    peak: float


@dataclass(frozen=True)
class Case:
    """A kind of file: how one of a size is made in a folder, and what looking at it may cost."""

    name: str
    write: Callable[[Path, int], Path]
    size: int
    seconds: float
    mb: float = 600
    halved: bool = True


def own_keys(folder: Path, rows: int) -> Path:
    """JSON lines, each with keys that no other has."""
    path = folder / "own-keys.jsonl"
    path.write_text("".join(json.dumps({f"a{row}": f"text {row}", f"b{row}": row}) + "\n" for row in range(rows)))
    return path


def table(columns: int) -> list[dict[str, str | int]]:
    """Rows of short texts and numbers."""
    return [
        {f"column {n}": row * n if n % 3 == 0 else f"row {row} word {n % 7}" for n in range(columns)}
        for row in range(TABLE_ROWS)
    ]


def wide_csv(folder: Path, columns: int) -> Path:
    """A table of many columns as CSV."""
    rows, path = table(columns), folder / "wide.csv"
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    path.write_text("".join(",".join(cells) + "\n" for cells in lines))
    return path


def wide_jsonl(folder: Path, columns: int) -> Path:
    """The same table as JSON lines."""
    path = folder / "wide.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table(columns)))
    return path


def wide_parquet(folder: Path, columns: int) -> Path:
    """The same table as Parquet."""
    path = folder / "wide.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(table(columns)), path)
    return path


def short_rows(folder: Path, rows: int) -> Path:
    """CSV of many rows of a few characters."""
    path = folder / "short.csv"
    with path.open("w") as file:
        file.write("text,number\n")
        file.writelines(f"row {row},{row % 7}\n" for row in range(rows))
    return path


def long_line(folder: Path, size: int) -> Path:
    """One JSON line of `size` bytes, which is left out, after a usual one."""
    path = folder / "long.jsonl"
    with path.open("w") as file:
        file.write(json.dumps({"text": "a line of usual length " * 40}) + '\n{"text": "')
        for _ in range(size >> 20):
            file.write("words " * ((1 << 20) // 6))
        file.write('"}\n')
    return path


def many_files(folder: Path, files: int) -> Path:
    """A folder of small texts."""
    path = folder / "texts"
    path.mkdir()
    for number in range(files):
        (path / f"{number:06}.txt").write_text(f"the text of file {number}\n")
    return path


def huge_text(folder: Path, size: int) -> Path:
    """Parquet of a few kilobytes, in whose rows a text of `size` characters stands 100,000 times."""
    path = folder / "huge.parquet"
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 100_000, pyarrow.int32()), ["x" * size])
    parquet.write_table(pyarrow.table({"text": texts}), path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    return path


def huge_lists(folder: Path, size: int) -> Path:
    """Parquet of a kilobyte with one row, a list of `size` zeros."""
    path = folder / "lists.parquet"
    lists = pyarrow.ListArray.from_arrays(pyarrow.array([0, size], pyarrow.int32()), pyarrow.nulls(size, "int64"))
    parquet.write_table(pyarrow.table({"a": lists}), path, compression="zstd", row_group_size=1 << 30)
    return path


CASES = (
    Case("own keys", own_keys, 50_000, 10),
    Case("columns, CSV", wide_csv, 12_000, 3),
    Case("columns, JSON lines", wide_jsonl, 12_000, 3),
    Case("columns, Parquet", wide_parquet, 12_000, 3),
    Case("short rows", short_rows, 2_000_000, 10),
    Case("one line", long_line, 300 << 20, 10),
    Case("files in a folder", many_files, 12_000, 10),
    Case("huge text, Parquet", huge_text, 1 << 26, 3, mb=300, halved=False),
    Case("huge lists, Parquet", huge_lists, 1 << 25, 3, mb=300, halved=False),
)


def cost(arguments: list[str], folder: Path) -> Cost:
    """What a process of Python with these arguments takes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=output, stderr=output
        )
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0  # it has been waited for
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / scale)


def written(case: Case, folder: Path, size: int) -> str:
    """The path of a file of that size, made in a process of its own: a child's peak of memory counts its parent's."""
    with ProcessPoolExecutor(1) as pool:
        return str(pool.submit(case.write, folder, size).result())


def look(case: Case, size: int) -> Cost:
    """What looking at a file of that size takes."""
    with tempfile.TemporaryDirectory() as name:
        return cost(["-c", LOOK, written(case, Path(name), size)], Path(name))


def measured(case: Case, start: float) -> bool:
    """Prints what a case takes, where a start alone takes `start` seconds; whether it is within its limits."""
    looked = look(case, case.size)
    growth = ""
    if case.halved:
        half = look(case, case.size // 2)
        growth = f"{(looked.cpu - start) / max(half.cpu - start, 0.01):6.2f}"
    within = looked.cpu <= case.seconds and looked.peak <= case.mb
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, preset = written(case, folder, case.size), folder / "preset.json"
        explored = cost(["-m", "nanogrove", "explore", path, "--out", str(preset)], folder)
        named = [str(preset)] if preset.exists() else ["quickstart", f"data.sources={path}"]
        trained = cost(["-m", "nanogrove", "train", *named, "--dry-run"], folder)
    figures = "".join(f"{each.cpu:7.1f}{each.wall:7.1f}{each.peak:6.0f}" for each in (looked, explored, trained))
    limit = f"{case.seconds:.0f} s, {case.mb:.0f} MB"
    print(f"{case.name:<21}{figures}  {growth:>6}  {limit:<12}{'' if within else '  MISSED'}", flush=True)
    return within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure the cases whose names hold this")
    options = parser.parse_args()
    start = look(Case("", short_rows, 100, 0), 100).cpu
    print(f"{'':<21}{'looking':>20}{'explore':>20}{'train --dry-run':>20}")
    print(f"{'':<21}{'  CPU s wall s    MB' * 3}  growth  limits of looking")
    within = [measured(case, start) for case in CASES if options.only in case.name]
    sys.exit(0 if all(within) else 1)


if __name__ == "__main__":
    main()
