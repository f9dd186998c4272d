"""A report of a made-up record, for the tests of its pictures."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogrove.record.events import Event
from nanogrove.reports import page, report

Drawn = Callable[[Path, list[Event]], tuple[str, dict[str, dict[str, Any]]]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Writes a record into a folder, and gives the report's HTML and each figure by its caption."""
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "var Plotly;")

    def draw(folder: Path, events: list[Event]) -> tuple[str, dict[str, dict[str, Any]]]:
        folder.mkdir(exist_ok=True)
        (folder / "preset.json").write_text("{}")
        (folder / "events.jsonl").write_text("".join(event.line() for event in events))
        text = report.write_report(folder).read_text()
        figures = re.findall(r'<figcaption>(.*?)</figcaption>.*?<script type="application/json">(.*?)</script>', text)
        return text, {caption: json.loads(code) for caption, code in figures}

    return draw
