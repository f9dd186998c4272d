"""What a run was made with: its preset, and versions, machine and data."""

import json

from nanogrove.record.reading import Run, times
from nanogrove.reports.values import escaped

CELL_LENGTH = 600  # characters of one value in a table
PRESET_LENGTH = 40_000  # characters of a preset
MAX_DEPTH = 4  # of what lies in one another in a table


def preset(run: Run) -> str:
    """The resolved preset: what to train to have this run again."""
    pretty = json.dumps(run.preset, indent=2, ensure_ascii=False)
    shown = f"<pre>\n{escaped(_cut(pretty, PRESET_LENGTH))}</pre>"
    return f"<h2>Preset</h2><details><summary>preset.json, resolved</summary>{shown}</details>"


def machine(run: Run) -> str:
    """Versions, machine and data, as the start event tells them."""
    start = run.last("start").values
    groups = {key.capitalize(): start.get(key) for key in ("versions", "machine", "data")}
    left_out = {k: v for k, v in times(run.last("end")).items() if k.startswith("left out, ")}
    groups["Left out while reading"] = left_out
    groups["Run"] = {key: start[key] for key in ("device", "precision", "compile", "vocabulary") if key in start}
    if isinstance(groups["Data"], dict):
        groups["Data"] = {key: value for key, value in groups["Data"].items() if key != "trees"}  # drawn above
    filled = {title: group for title, group in groups.items() if isinstance(group, dict) and group}
    tables = "".join(_table(title, group) for title, group in filled.items())
    return f'<h2>Versions and machine</h2><div class="row">{tables}</div>' if tables else ""


def _table(title: str, group: dict[str, object]) -> str:
    cells = ((escaped(key.replace("_", " ")), escaped(_cell(v))) for key, v in group.items() if v not in (None, {}, []))
    rows = "".join(f'<tr><th scope="row">{key}</th><td>{value}</td></tr>' for key, value in cells)
    return f"<table><caption>{title}</caption>{rows}</table>"


def _cell(value: object) -> str:
    """A value as a person reads it: numbers in few digits, a list or an object with its parts in a row."""
    return _cut(_words(value), CELL_LENGTH)


def _words(value: object, depth: int = MAX_DEPTH) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.5g}"
    if isinstance(value, (dict, list)) and not depth:
        return "…"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_words(part, depth - 1)}" for key, part in value.items())
    return ", ".join(_words(part, depth - 1) for part in value) if isinstance(value, list) else str(value)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} … ({len(text) - length:,} more characters)"
