"""What several verbs share: the terminal, the argument that names a run, and a folder for a new one."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()

RunFolder = Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.")]


def text_width() -> int:
    """The characters of a line of prose: those of the terminal, within what can be read."""
    return max(min(console.width, 100), 20)


def new_run_folder(preset: str) -> Path:
    """A run folder of a preset's name that does not exist yet."""
    out, count = Path("runs") / Path(preset).stem, 1
    while out.exists():
        count += 1
        out = Path("runs") / f"{Path(preset).stem}-{count}"
    return out
