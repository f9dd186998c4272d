"""The section of auxiliary heads draws what is there and takes no harm from what is strange."""

from typing import Any

import pytest

from nanogrove.record.events import Event
from nanogrove.record.reading import Run
from nanogrove.reports.sections.heads import heads

VALUES: dict[str, Any] = {
    "shares": {"value": 0.2, "span": 0.0001},
    "measures": {"value_r2": 0.5, "latent_cosine": [0.8, 0.7], "latent_copying": [0.5, 0.4], "span_accuracy": 0.3},
    "idle": ["span"],
    "idle_below": 0.001,
    "seen": 100,
}


def drawn(values: dict[str, Any]) -> str:
    events = {"auxiliary": [Event("auxiliary", 5, values)]}
    events["step"] = [Event("step", n, {"tokens": 20 * n, "value": 1 / n, "span": 2.0}) for n in range(1, 6)]
    return heads(Run("run", {}, events))


def test_losses_shares_and_measures_are_drawn() -> None:
    page = drawn(VALUES)
    for text in (
        "Losses of heads",
        "Gradient in the trunk",
        "latent copying, 2 ahead",
        "value r2",
        "Idle at the end: span",
    ):
        assert text in page
    assert "Policy" not in page, "of heads that are not there nothing is drawn"
    assert heads(Run("run", {}, {})) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"measures": None},
        {"measures": {"value_r2": "high", "latent_cosine": [None, "<b>"]}},
        {"shares": {"value": None}},
        {"shares": 3},
        {"idle": "<script>"},
        {"idle": 7},
        {"idle": ["<script>"]},
        {"seen": None, "idle_below": "little"},
    ],
)
def test_strange_values_do_no_harm(change: dict[str, Any]) -> None:
    assert "<script>" not in drawn({**VALUES, **change}).replace('<script type="application/json">', "")
