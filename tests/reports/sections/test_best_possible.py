"""Beside the exact floor of a grammar: what it is called in a legend, where `best` is the best model."""

import re
from pathlib import Path

from tests.reports.conftest import Drawn

from nanogrove.record.events import Event


def test_the_exact_floor_is_called_the_best_possible(drawn: Drawn, tmp_path: Path) -> None:
    figures = {"loss": 2.0, "bayes_loss": 1.5, "accuracy": 0.4, "bayes_accuracy": 0.6}
    events = [Event("start", 0, {"name": "a"}), *(Event("eval", n, {**figures, "seen": n}) for n in (1, 2))]
    html, pictures = drawn(tmp_path, events)
    names = [line["name"] for picture in pictures.values() for line in picture["lines"]]
    assert names.count("best possible") == 2
    assert "best" not in names
    assert not re.search("best 1.5", html)
