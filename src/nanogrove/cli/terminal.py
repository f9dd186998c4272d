"""What several verbs share: the terminal, the argument that names a run, and a folder for a new one."""

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanogrove.cli.completion import complete_runs
from nanogrove.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

RunFolder = Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.", autocompletion=complete_runs)]


@cache
def console() -> "Console":
    """The terminal that standard output shows; rich takes as long to import as all else that `--help` needs."""
    from rich.console import Console

    return Console()


def standard_input() -> str:
    """All of standard input, less a line end at its end. Raises DataError where it is not UTF-8, or closed."""
    if sys.stdin is None:
        raise DataError("standard input: is closed, so nothing can be read from it")
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input: not UTF-8 text ({error.reason} at byte {error.start})") from None


def text_width() -> int:
    """The characters of a line of prose: those of the terminal, within what can be read."""
    return max(min(console().width, 100), 20)


def new_run_folder(preset: str) -> Path:
    """A run folder of a preset's name that does not exist yet."""
    out, count = Path("runs") / Path(preset).stem, 1
    while out.exists():
        count += 1
        out = Path("runs") / f"{Path(preset).stem}-{count}"
    return out
