"""What a run was made with: its preset, and versions, machine and data."""

import json

from nanogrove.record.reading import Run, times
from nanogrove.reports.figures import escaped


def preset(run: Run) -> str:
    """The resolved preset: what to train to have this run again."""
    pretty = escaped(json.dumps(run.preset, indent=2, ensure_ascii=False))
    return f"<h2>Preset</h2><details><summary>preset.json, resolved</summary><pre>\n{pretty}</pre></details>"


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
    cells = (
        (escaped(key.replace("_", " ")), escaped(_cell(value))) for key, value in group.items() if value is not None
    )
    rows = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in cells)
    return f"<table><caption>{title}</caption>{rows}</table>"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
