"""What several verbs share: the terminal, the argument that names a run, and a folder for a new one."""

import json
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


def prompts_of(path: str) -> list[str]:
    """The prompts of a file, or of standard input for a dash: one per line, or `prompt` of each row of JSON lines.

    Lines without text are left out. Raises DataError for what cannot be read so, and where there are none.
    """
    name = "standard input" if path == "-" else path
    try:
        text = standard_input() if path == "-" else Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"{path}: cannot read prompts ({error.strerror}); name a text file, a prompt per line"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    lines = [(n, line) for n, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{name}: holds no prompt; write one per line")
    if not path.endswith(".jsonl"):
        return [line for _, line in lines]
    prompts = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        prompt = row.get("prompt") if isinstance(row, dict) else None
        if not isinstance(prompt, str):
            raise DataError(f'{path}, line {number}: not a row such as {{"prompt": "Once upon"}}')
        prompts.append(prompt)
    return prompts


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
