"""The pictures of an evolution, from a made-up record and from damaged ones."""

from pathlib import Path
from typing import Any

import pytest

from nanogrove.record.events import Event

HOSTILE = "</script><script>alert(1)</script>"


def generation(number: int, members: list[int], score: list[Any], births: list[dict], **more: Any) -> Event:
    values = {
        "generation": number,
        "members": members,
        "score": score,
        "values": {"lr": [0.01 * (member + 1) for member in members], "dropout": [0.0 for _ in members]},
        "births": births,
        "spared": [],
        "diverged": [],
        "distance": {"weights": 1.0 / number, "predictions": 0.5},
        **more,
    }
    return Event("generation", 10 * number, values)


def run() -> list[Event]:
    return [
        generation(1, [0, 1, 2], [3.0, 2.0, None], [{"slot": 2, "member": 3, "parents": [1]}], diverged=[2]),
        generation(2, [0, 1, 3], [2.5, 1.9, 1.8], [], spared=[0]),
    ]


def test_scores_descent_hyperparameters_and_diversity(tmp_path: Path, drawn: Any) -> None:
    text, shown = drawn(tmp_path / "run", run())
    scores = shown["Score: best, median, worst; lower is better"]["lines"]
    assert (scores[0]["low"], scores[0]["y"], scores[0]["high"]) == ([2.0, 1.8], [2.5, 1.9], [3.0, 2.5])
    assert scores[1]["y"] == [2.0, 1.8]
    everyone, winner = shown["Genealogy: each member joined to its parent"]["lines"]
    assert everyone["x"] == [1, 2, 2, 1, 2, 2, 1, 2, 2]
    assert everyone["y"] == [3.0, 2.5, None, 2.0, 1.9, None, 2.0, 1.8, None], "the child hangs on its parent"
    assert (winner["x"], winner["y"]) == ([1, 2], [2.0, 1.8])
    rates = shown["lr of all members, and of the winner"]
    assert rates["log_y"]
    assert rates["lines"][1]["y"] == pytest.approx([0.02, 0.04])
    assert not shown["dropout of all members, and of the winner"]["log_y"]
    assert shown["Distance of members in weights"]["lines"][0]["y"] == [1.0, 0.5]
    assert "1 births; 1 spared as no worse than noise; 1 diverged; the winner is member 3 of generation 2." in text


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"generation": HOSTILE},
        {"score": [10**400, 1.0, 1.0]},
        {"members": HOSTILE},
        {"members": [0, 1, 99]},
        {"score": [1.0]},
        {"score": [HOSTILE] * 3},
        {"values": {"lr": 3}},
        {"values": None},
        {"births": [{"member": 3}]},
        {"births": HOSTILE},
    ],
    ids=str,
)
def test_a_damaged_record_makes_a_page_that_says_so(values: dict, tmp_path: Path, drawn: Any) -> None:
    first, second = run()
    damaged = Event("generation", 20, {**second.values, **values} if values else {})
    text, _ = drawn(tmp_path / "run", [first, damaged, generation(3, [0, 1, 3], [1.0, 1.0, 1.0], [])])
    assert "alert(1)" not in text.replace("\\u003c/script\\u003e\\u003cscript\\u003ealert(1)", "")
    if values and "births" not in values:
        assert "the record is damaged" in text


def test_hostile_names_of_hyperparameters_are_text(tmp_path: Path, drawn: Any) -> None:
    events = run()
    for event in events:
        event.values["values"] = {HOSTILE: [1.0, 2.0, 3.0]}
    text, _ = drawn(tmp_path / "run", events)
    assert HOSTILE not in text


def test_many_births_are_thinned(tmp_path: Path, drawn: Any) -> None:
    events = [generation(n, list(range(100)), [1.0] * 100, []) for n in range(1, 60)]
    _, shown = drawn(tmp_path / "run", events)
    assert len(shown["Genealogy: each member joined to its parent"]["lines"][0]["x"]) <= 400
