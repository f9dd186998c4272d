"""A report of a made-up record, for the tests of its pictures."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nanogrove.record.events import Event
from nanogrove.reports import page, report

Drawn = Callable[[Path, list[Event]], tuple[str, dict[str, dict[str, Any]]]]

HOSTILE = [
    "</script><script>alert(1)</script>",
    "</pre></details><img src=x onerror=alert(2)>",
    '" onmouseover="alert(3)" x=\'',
    "<!--<script>",
    "</title></style><svg/onload=alert(4)>",
    "&lt;script&gt;&#x3c;b>",
    "]]>\x00\u2028</textarea>\ud800",
    '<a href="javascript:alert(5)">%{x}</a>',
    "javascript:alert(6) $x^2$ %{y:.2f}",
]


class Page(HTMLParser):
    """Tags with their attributes, the text, and the contents of scripts, as a browser would find them."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.closed: list[str] = []
        self.text = ""
        self.scripts: list[tuple[str | None, str]] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            kind, code = self.scripts[-1]
            self.scripts[-1] = (kind, code + data)
        else:
            self.text += data

    def figures(self) -> list[dict]:
        return [json.loads(code) for kind, code in self.scripts if kind == "application/json"]

    def count(self, tag: str) -> int:
        return [name for name, _ in self.tags].count(tag)


@pytest.fixture(autouse=True)
def _short_plotly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two megabytes of plotly are in the pages of few tests only."""
    if "whole_plotly" not in request.fixturenames:
        monkeypatch.setattr(page, "packed_plotly", lambda: ("cGFja2Vk", "sha256-digest"))


@pytest.fixture
def whole_plotly() -> None:
    """Asks for the real plotly."""


@pytest.fixture
def drawn() -> Drawn:
    """Writes a record into a folder, and gives the report's HTML and each figure by its caption."""

    def draw(folder: Path, events: list[Event]) -> tuple[str, dict[str, dict[str, Any]]]:
        folder.mkdir(exist_ok=True)
        (folder / "preset.json").write_text("{}")
        (folder / "events.jsonl").write_text("".join(event.line() for event in events))
        text = report.write_report(folder).read_text()
        figures = re.findall(r'<figcaption>(.*?)</figcaption>.*?<script type="application/json">(.*?)</script>', text)
        return text, {caption: json.loads(code) for caption, code in figures}

    return draw
