"""The menu of presets that `nanogrove` alone offers, in groups by what a person wants."""

import json
import os
import textwrap
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nanogrove.config.catalog import GROUPS, OWN_TEXT, QUICKSTART, list_presets, unknown_preset

LEAST_DESCRIPTION = 30  # characters that a description needs beside its name; below, it stands in lines of its own


def printed_groups(console: Console, *, numbered: bool) -> list[str]:
    """Prints all groups with their presets, and returns the names in that order.

    With numbers, descriptions are cut to a line each, so that more of a menu is seen at once.
    """
    descriptions = list_presets()
    names = [name for group in GROUPS for name in group.names]
    column = max(map(len, names)) + (7 if numbered else 4)  # of descriptions
    beside = console.width - column >= LEAST_DESCRIPTION
    for group in GROUPS:
        console.print()
        for line in textwrap.wrap(group.title, console.width):
            console.print(f"[bold]{line}[/]", highlight=False)
        for name in group.names:
            label = f"{names.index(name) + 1:>3}  {name}" if numbered else f"  {name}"
            indent = column if beside else 6
            room = max(console.width - indent, 20)
            short = textwrap.shorten(descriptions[name], room, placeholder=" ...")
            lines = [short] if numbered else textwrap.wrap(descriptions[name], room)
            if beside:
                label = f"{label:<{column}}{lines.pop(0)}"
            console.print("\n".join([label, *(" " * indent + line for line in lines)]), markup=False, highlight=False)
    return names


def ask_preset(console: Console, names: list[str]) -> str:
    """Asks until a number or a name of `names` is given. Raises EOFError where the input ends."""
    while True:
        answer = console.input(f"\nTrain which? A number or a name; Enter takes [bold]{QUICKSTART}[/]: ").strip()
        if not answer:
            return QUICKSTART
        if answer.isdecimal() and 0 < int(answer) <= len(names):
            return names[int(answer) - 1]
        if answer in names:
            return answer
        problem = f"the numbers are 1 to {len(names)}" if answer.isdecimal() else str(unknown_preset(answer))
        console.print(f"[yellow]{escape(problem)}[/]", highlight=False)


def ask_overrides(console: Console, preset: str) -> list[str]:
    """Asks for what a preset leaves to its user, until it can be used. Raises EOFError where the input ends."""
    while preset == OWN_TEXT:
        answer = console.input("Which file or folder? For example notes.txt: ").strip().strip("'\"")
        path = Path(os.path.expanduser(answer))  # of an unknown user Path.expanduser raises
        if answer and path.exists():
            return [f"data.sources={json.dumps(str(path))}"]
        problem = f"{answer}: no such file or folder" if answer else "a path is needed; Ctrl-C leaves"
        console.print(f"[yellow]{escape(problem)}[/]", highlight=False)
    return []
