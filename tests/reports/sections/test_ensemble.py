"""The section of an ensemble draws its losses, and takes no harm from a strange record."""

from typing import Any

import pytest

from nanogrove.record.events import Event
from nanogrove.record.reading import Run
from nanogrove.reports.sections.ensemble import ensemble

VALUES: dict[str, Any] = {"loss": 1.5, "member_losses": [1.7, 1.6], "losses_by_count": [1.65, 1.5], "seen": 100}


def drawn(values: dict[str, Any], **end: Any) -> str:
    student = Event("student", 8, {"loss": 1.55, "seen": 200})
    events = {"eval": [Event("eval", 5, values)], "student": [student], "end": [Event("end", 9, end)]}
    return ensemble(Run("run", {}, events))


def test_losses_over_tokens_and_by_number_of_members_are_drawn() -> None:
    page = drawn(VALUES, losses_by_count=[1.8, 1.7], student_loss=1.72)
    for text in ("Held-out loss", "members, median and range", "student", "Loss by number of members", "1.72"):
        assert text in page
    assert ensemble(Run("run", {}, {})) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"losses_by_count": []},
        {"losses_by_count": ["<b>", None, [1, 2]]},
        {"member_losses": "<script>", "seen": None},
        {"loss": float("nan")},
    ],
)
def test_strange_values_do_no_harm(change: dict[str, Any]) -> None:
    page = drawn({**VALUES, **change}, student_loss="<i>")
    assert "<script>" not in page.replace('<script type="application/json">', "")
    assert "<b>" not in page
    assert "<i>" not in page
