"""`nanogrove runs`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanogrove.cli.completion import complete_folders
from nanogrove.cli.terminal import console
from nanogrove.cli.text import printable

if TYPE_CHECKING:
    from nanogrove.record.listing import Listed

DEFAULT_FOLDERS = ("runs", "studies")
GAP = "  "
LEAST_COLUMNS = 10  # of a name, and of data, that is cut to fit a terminal


def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Where to look; runs and studies when left out.", autocompletion=complete_folders),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of objects, one per run.")] = False,
) -> None:
    """List all runs below a folder: method, data, steps, measure, state, and time since the record last grew."""
    from nanogrove.cli.waits import shown_waits

    with shown_waits("looking for runs"):
        from nanogrove.record.listing import cells, list_runs

        listed = list_runs(Path(), DEFAULT_FOLDERS) if folder is None else list_runs(folder)
    now = time.time()
    if as_json:
        print(json.dumps([_fields(run, now) for run in listed], indent=1))
    else:
        _print_table([cells(run, now) for run in listed])


def _fields(run: "Listed", now: float) -> dict[str, object]:
    """A run as JSON: all that is known of it, and its age in seconds."""
    from dataclasses import asdict

    from nanogrove.record.listing import age

    return {**asdict(run), "age": age(run, now)}


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Prints rows in columns; on a terminal names and data are cut to its width, and then the lines themselves."""
    from rich.cells import cell_len

    from nanogrove.record.listing import TITLES

    table = [TITLES, *(tuple(_in_one_line(cell) for cell in row) for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    if console().is_terminal:
        excess = sum(widths) + len(GAP) * (len(widths) - 1) - console().width
        for column in (TITLES.index("data"), TITLES.index("run")):
            cut = min(max(excess, 0), max(widths[column] - LEAST_COLUMNS, 0))
            widths[column], excess = widths[column] - cut, excess - cut
    for row in table:
        line = GAP.join(
            _fitted(cell, width, title == "run") for cell, width, title in zip(row, widths, TITLES, strict=True)
        )
        print((_fitted(line, console().width) if console().is_terminal else line).rstrip())


def _fitted(text: str, width: int, keep_end: bool = False) -> str:
    """Text padded, or cut, to so many columns; what tells paths apart is their end."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return "…" + set_cell_size(text[::-1], width - 1)[::-1] if keep_end else set_cell_size(text, width - 1) + "…"


def _in_one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
