"""Logarithmic axes of a page in a browser, wide and on a telephone: round numbers in a row, of which none touch."""

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from tests.chromium import chromium

from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import line
from nanogrove.reports.page import html_page

SCRIPT = Path(__file__).with_name("ticks.mjs")
RANGES = ((100, 1900), (120, 130), (1, 5000), (5e4, 2e6), (3e-3, 5e-2), (1e-30, 1.0))


@pytest.mark.browser
def test_labels_of_logarithmic_axes_do_not_touch(tmp_path: Path, whole_plotly: None) -> None:
    tools = chromium()
    figures = []
    for low, high in RANGES:
        values = [low * (high / low) ** (n / 9) for n in range(10)]
        figures.append(plot(f"{low} to {high}", "steps", "loss", line("a", values, values), log_x=True, log_y=True))
    page = tmp_path / "page.html"
    page.write_text(html_page("Axes", [rows([[figure]]) for figure in figures]), encoding="utf-8")
    done = subprocess.run(
        ["node", str(SCRIPT), str(tools.modules), tools.path, str(page)], capture_output=True, text=True, timeout=240
    )
    assert done.stderr == ""
    views = json.loads(done.stdout)
    for width, axes in views.items():
        assert len(axes) == 2 * len(RANGES)
        for (low, high), labels in zip([each for each in RANGES for _ in "xy"], axes, strict=True):
            where = f"{low} to {high} at {width}: {[label['text'] for label in labels]}"
            assert 2 <= len(labels) <= 9, where
            assert all(one["end"] < other["start"] for one, other in pairwise(labels)), where
    texts = {label["text"] for axes in views.values() for labels in axes for label in labels}
    assert {"1", "1k", "0.05", "1M", "10−24"} <= {text.replace("\u200b", "") for text in texts}
    narrowed, narrow = views["1280 to 375"], views["375"]
    assert [[label["text"] for label in labels] for labels in narrowed] == [
        [label["text"] for label in labels] for labels in narrow
    ], "a window that is made narrow has the labels of a narrow one"
