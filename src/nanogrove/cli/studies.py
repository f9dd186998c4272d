"""How a study looks while it runs: lines of what happens above one bar for all of its training."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nanogrove.cli.render import Bar
from nanogrove.cli.text import printable
from nanogrove.studies.compare import Update
from nanogrove.studies.judge import Findings, lines
from nanogrove.waits import waiting

PLAIN_SECONDS = 10.0  # between two plain lines of progress
T = TypeVar("T")


def show(updates: Generator[Update, None, T], console: Console) -> T:
    """Shows what happens in a study as it comes; returns what the generator returns."""
    plain = not console.is_terminal
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("left"))
    with waiting("setting up") as setup, Bar(*columns, console=console, transient=True, disable=plain) as progress:
        task, shown = progress.add_task("", total=1.0, visible=False), time.monotonic()
        while True:
            try:
                update = next(updates)
            except StopIteration as end:
                result: T = end.value
                return result
            setup.over = True
            progress.update(task, completed=update.share, visible=True)
            if update.text:
                progress.console.print(escape(printable(update.text)), highlight=False, soft_wrap=True)
            elif plain and time.monotonic() - shown > PLAIN_SECONDS:
                shown = time.monotonic()
                console.print(f"{update.share:.0%} of the training is done", highlight=False)


def finish(findings: Findings, out: Path, console: Console) -> None:
    """Prints the verdicts, and what to do next."""
    for line in lines(findings):
        console.print(escape(printable(line)), highlight=False, soft_wrap=True)
    console.print(f"report: {escape(printable(str(out / 'report.html')))}", highlight=False, soft_wrap=True)
