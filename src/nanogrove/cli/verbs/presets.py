"""`nanogrove presets`."""

from typing import Annotated

import typer
from rich.markup import escape

from nanogrove.cli.terminal import console
from nanogrove.config.catalog import QUICKSTART, list_presets, packaged_text, unknown_preset


def presets(
    name: Annotated[str | None, typer.Argument(help="A preset, to print in full; all are listed without one.")] = None,
) -> None:
    """List the presets that come with nanogrove, or print one."""
    if name is None:
        print_presets()
        return
    text = packaged_text(name)
    if text is None:
        raise unknown_preset(name)
    print(text.rstrip())


def print_presets(numbered: bool = False) -> list[str]:
    """Prints names and descriptions, the quickstart first, and returns the names in that order."""
    descriptions = list_presets()
    names = sorted(descriptions, key=lambda name: (name != QUICKSTART, name))
    for number, name in enumerate(names, start=1):
        label = f"{number:>3}  " if numbered else ""
        console.print(f"{label}[bold]{escape(name):<16}[/] {escape(descriptions[name])}", highlight=False)
    return names
