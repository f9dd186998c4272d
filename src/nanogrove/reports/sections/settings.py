"""What a run was made with: its preset, and versions, machine and data."""

import json

from nanogrove.record.reading import Run, times
from nanogrove.reports.tables import cut, fact_tables
from nanogrove.reports.values import escaped

PRESET_LENGTH = 40_000  # characters of a preset


def preset(run: Run) -> str:
    """The resolved preset: what to train to have this run again."""
    pretty = json.dumps(run.preset, indent=2, ensure_ascii=False)
    shown = f"<pre>\n{escaped(cut(pretty, PRESET_LENGTH))}</pre>"
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
    tables = fact_tables(groups)
    return f"<h2>Versions and machine</h2>{tables}" if tables else ""
