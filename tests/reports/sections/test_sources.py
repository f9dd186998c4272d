"""The pictures of a mixture, from a made-up record: one line per source, and names that stay text."""

from pathlib import Path
from typing import Any

import pytest

from nanogrove.record.events import Event

HOSTILE = "</script><script>alert(1)</script>"


def test_a_line_for_each_source(tmp_path: Path, drawn: Any) -> None:
    values = {"names": ["a", HOSTILE], "share": [0.5, 0.5], "passes": [0.25, None]}
    events = [
        Event("start", 0, {"data": {"left_out": {HOSTILE: 3}, "for_example": {HOSTILE: HOSTILE}}}),
        Event("sources", 10, {**values, "loss": [3.0, None], "weights": [0.7, 0.3], "seen": 100}),
        Event("sources", 20, {**values, "loss": [2.0, 4.0], "weights": [0.4, 0.6], "seen": 200}),
        Event("end", 20, {}, {"seconds": 1.0, f"left out, {HOSTILE}": 7}),
    ]
    text, shown = drawn(tmp_path, events)
    assert HOSTILE not in text
    assert "Left out while reading" in text
    losses = shown["Training loss by source"]["lines"]
    assert [(line["name"], line["x"], line["y"]) for line in losses] == [
        ("a", [100, 200], [3.0, 2.0]),
        (HOSTILE, [100, 200], [None, 4.0]),
    ]
    assert [line["y"] for line in shown["Weights from here on"]["lines"]] == [[0.7, 0.4], [0.3, 0.6]]
    assert [line["name"] for line in shown["Passes over each source"]["lines"]] == ["a"]


@pytest.mark.parametrize(
    "values", [{}, {"names": HOSTILE}, {"names": ["a"], "loss": HOSTILE, "seen": HOSTILE}], ids=str
)
def test_a_damaged_record_makes_a_page(values: dict, tmp_path: Path, drawn: Any) -> None:
    text, _ = drawn(tmp_path, [Event("sources", 1, values)])
    assert HOSTILE not in text
