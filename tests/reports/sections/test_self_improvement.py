"""The pictures of a self-improving run, from a made-up record."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nanogrove.record.events import Event
from nanogrove.reports import report

HOSTILE = "</script><script>alert(1)</script>"


def exact(number: int, frontier: int, *right: float) -> Event:
    values = {
        "round": number,
        "frontier": frontier,
        "difficulties": [1, 2, 3][: len(right)],
        "exact": [[share, share, 0.0] for share in right],
        "vote": list(right),
        "agreement": [share / 2 for share in right],
    }
    return Event("exact", 10 * number, values)


def round_event(number: int, precision: float | None, **more: Any) -> Event:
    figures = {"kept": 0.5, "precision": precision, "recall": 0.25}
    label = {"difficulty": 2, **figures, "filters": {"vote": figures, "length": {**figures, "recall": 1.0}}}
    values = {"round": number, "difficulties": [2], "labels": [label], "frontier": 2, **more}
    return Event("round", 10 * number, values)


def report_of(folder: Path, events: list[Event]) -> str:
    folder.mkdir()
    (folder / "preset.json").write_text("{}")
    (folder / "events.jsonl").write_text("".join(event.line() for event in events))
    return report.write_report(folder).read_text()


def drawn(text: str) -> dict[str, dict[str, Any]]:
    """What each figure of a page draws, by its caption."""
    figures = re.findall(r'<figcaption>(.*?)</figcaption>.*?<script type="application/json">(.*?)</script>', text)
    return {caption: json.loads(code) for caption, code in figures}


def test_exact_match_by_difficulty_and_round_is_a_heat_map(tmp_path: Path) -> None:
    events = [exact(0, 1, 1.0, 0.5), exact(1, 2, 1.0, 0.75, 0.25), round_event(1, 0.875)]
    undone = [exact(2, 2, 0.0, 0.0, 0.0), round_event(2, None, accepted=False)]
    after = drawn(report_of(tmp_path / "undone", events + undone))["Exact match by difficulty, median voter"]["lines"][
        1
    ]
    assert after["y"] == [1.0, 0.75, 0.25], "the state that was kept"
    shown = drawn(report_of(tmp_path / "run", events))
    heat = shown["Exact match, median voter"]
    assert heat["heat"] == {"x": ["0", "1"], "y": ["1", "2", "3"], "z": [[1.0, 1.0], [0.5, 0.75], [None, 0.25]]}
    assert (heat["x"], heat["y"]) == ("round", "difficulty")
    assert shown["Exact match of the vote"]["heat"]["z"][1] == [0.5, 0.75]
    base, last = shown["Exact match by difficulty, median voter"]["lines"]
    assert (base["name"], base["x"], base["y"]) == ("base alone", [1, 2], [1.0, 0.5])
    assert (last["x"], last["y"]) == ([1, 2, 3], [1.0, 0.75, 0.25])
    assert shown["Agreement of the voters"]["heat"]["z"][0] == [0.5, 0.5]
    assert shown["Wrong among kept labels"]["heat"] == {"x": ["1"], "y": ["2"], "z": [[0.125]]}
    recall = {line["name"]: line["y"] for line in shown["Recall of each filter"]["lines"]}
    assert recall == {"all": [0.25], "vote": [0.25], "length": [1.0]}
    assert [line["name"] for line in shown["Precision of each filter"]["lines"]] == ["all", "vote", "length"]
    [frontier] = shown["Hardest difficulty open"]["lines"]
    assert (frontier["x"], frontier["y"]) == ([0, 1], [1, 2])
    assert "Effective number of voters" not in shown, "records of earlier versions do not say"
    label = round_event(1, 0.875).values["labels"][0]
    by_reliability = [*events[:2], round_event(1, 0.875, labels=[{**label, "effective": 2.5}])]
    [voters] = drawn(report_of(tmp_path / "votes", by_reliability))["Effective number of voters"]["lines"]
    assert (voters["x"], voters["y"]) == ([1], [2.5])
    trusted = [*events[:2], round_event(1, 0.875, labels=[{**label, "trust": 0.75}])]
    trust, right = drawn(report_of(tmp_path / "trust", trusted))["Trust in the labels, and what was right"]["lines"]
    assert (trust["y"], right["y"]) == ([0.75], [0.875])


def test_alarms_and_the_end_of_rounds_are_told_as_text(tmp_path: Path) -> None:
    alarm = Event("alarm", 10, {"round": 1, "reason": HOSTILE, "retry": False})
    text = report_of(tmp_path / "run", [exact(0, 1, 1.0), alarm, round_event(1, None, ended=HOSTILE)])
    assert HOSTILE not in text
    assert text.count("&lt;/script&gt;&lt;script&gt;alert(1)") == 2
    assert "Round 1 was undone" in text
    assert "No more rounds" in text
    assert "Wrong among kept labels" not in text, "nothing was kept, so nothing is drawn"


@pytest.mark.parametrize("bad", [None, "x", {}, [], [None], ["x"], [[["x"]]], HOSTILE, float("nan"), -1])
def test_a_record_of_nonsense_still_has_a_page(tmp_path: Path, bad: Any) -> None:
    keys = ["round", "frontier", "difficulties", "exact", "vote", "agreement", "labels", "ended", "reason"]
    events = [Event(kind, 0, dict.fromkeys(keys, bad)) for kind in ("exact", "round", "alarm")]
    label = {"difficulty": bad, "precision": bad, "filters": bad, "kept": bad, "trust": bad}
    events += [Event("round", 1, {"round": bad, "labels": [label, {"filters": {"f": bad}}]}), exact(0, 1, 1.0)]
    assert "Exact match, median voter" in report_of(tmp_path / "run", events)


def test_a_run_of_another_method_has_no_such_section(tmp_path: Path) -> None:
    assert "Self-improvement" not in report_of(tmp_path / "run", [Event("step", 1, {"loss": 1.0})])
