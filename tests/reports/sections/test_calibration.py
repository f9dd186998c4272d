"""The reliability diagrams of a report, from a made-up calibration.json and from damaged and hostile ones."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from nanogrove.reports import report

HOSTILE = "</script><script>alert(1)</script>"
STALE = "calibration.json is damaged or belongs to other weights"


def figures(ece: float) -> dict[str, Any]:
    width = {"count": [0, 30, 50, 2], "confidence": [None, 0.4, 0.9, 1.0], "accuracy": [None, 0.3, 0.5, 1.0]}
    means: dict[str, float | None]
    means = {"nll": 1.23456, "ece_width": ece, "ece_mass": ece / 2, "brier": 0.5, "confidence": 0.7, "accuracy": 0.4}
    means |= {"ece_debiased": ece / 4, "ece_debiased_low": -0.01, "ece_debiased_high": None}
    return {**means, "bins": {"width": width, "mass": width}}


def record(**changes: Any) -> dict[str, Any]:
    each = {"before": figures(0.2), "after": figures(0.04)}
    measured = {"split": "test", "tokens": 12_345, "sequences": 99, "blocks": 66, "event": "share"}
    return {
        "temperature": 1.5,
        "bounded": False,
        "fitted": {"split": "validation", "tokens": 2000, "chose_checkpoint": True},
        "measured": {**measured, "figures": {"tokens": each, "sequences": each}},
        "model": "abc",
        **changes,
    }


def folder(run: Path, calibration: str | None, model: str = "abc", name: str = "best") -> Path:
    """A run whose best checkpoint holds this calibration and claims this checksum."""
    best = run / "checkpoints" / name
    best.mkdir(parents=True)
    (run / "preset.json").write_text("{}")
    (run / "events.jsonl").touch()
    (best / "state.json").write_text(json.dumps({"files": {"model.safetensors": model}}))
    if calibration is not None:
        (best / "calibration.json").write_text(calibration)
    return run


def drawn(run: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    text = report.write_report(run).read_text("utf-8")
    figures = re.findall(r'<figcaption>(.*?)</figcaption>.*?<script type="application/json">(.*?)</script>', text)
    return text, {caption: json.loads(code) for caption, code in figures}


def test_diagrams_before_and_after_with_the_diagonal(tmp_path: Path) -> None:
    text, shown = drawn(folder(tmp_path / "run", json.dumps(record())))
    for name in ("Tokens", "Sequences"):
        figure = shown[f"{name}: accuracy over confidence"]
        assert (figure["x"], figure["y"]) == ("confidence", "accuracy")
        before, after, ideal = figure["lines"]
        assert (before["name"], after["name"], ideal["name"]) == ("before", "after", "ideal")
        assert (before["x"], before["y"]) == ([0.4, 0.9], [0.3, 0.5]), "neither an empty bin nor one of two is a point"
        assert (ideal["x"], ideal["y"], ideal["style"]) == ([0, 1], [0, 1], "reference")
    assert "fitted on 2 k tokens of the validation split, which chose this checkpoint too; shown is the test" in text
    assert "its interval resamples 66 blocks of neighbouring sequences" in text
    assert '<th scope="row">the same debiased, root mean square</th><td>0.0500</td><td>0.0100</td>' in text
    assert '<th scope="row">95 % interval, from</th><td>-0.0100</td><td>-0.0100</td>' in text
    assert '<th scope="row">95 % interval, to</th><td>n/a</td><td>n/a</td>' in text
    assert "share of them that is predicted right" in text
    assert '<th scope="row">ECE, 15 bins of equal width</th><td>0.2000</td><td>0.0400</td>' in text
    assert '<th scope="row">ECE, 15 bins of equal mass</th><td>0.1000</td><td>0.0200</td>' in text
    assert "12.3 k tokens" in text


def test_answers_are_told_from_shares(tmp_path: Path) -> None:
    measured = {**record()["measured"], "event": "answer"}
    text, _ = drawn(folder(tmp_path / "run", json.dumps(record(measured=measured))))
    assert "greedy answer is the true one" in text


def test_a_run_that_was_not_calibrated_says_nothing_of_it(tmp_path: Path) -> None:
    text, _ = drawn(folder(tmp_path / "run", None))
    assert "Calibration" not in text
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "preset.json").write_text("{}")
    (tmp_path / "bare" / "events.jsonl").touch()
    assert "Calibration" not in drawn(tmp_path / "bare")[0]


def test_without_a_best_checkpoint_the_newest_counts(tmp_path: Path) -> None:
    assert "Temperature 1.5000" in drawn(folder(tmp_path / "run", json.dumps(record()), name="current"))[0]


def test_a_calibration_of_other_weights_is_not_shown(tmp_path: Path) -> None:
    text, shown = drawn(folder(tmp_path / "run", json.dumps(record()), model="abd"))
    assert STALE in text
    assert not shown


@pytest.mark.parametrize("content", ["", "[1]", "{}", '"stale"', "{", "[" * 100_000, '{"model": ["abc"]}'])
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    assert STALE in drawn(folder(tmp_path / "run", content))[0]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "linked checkpoint"])
def test_nothing_but_a_plain_file_is_opened(tmp_path: Path, kind: str) -> None:
    run = folder(tmp_path / "run", json.dumps(record()))
    path = run / "checkpoints" / "best" / "calibration.json"
    if kind == "linked checkpoint":
        path.parent.rename(tmp_path / "elsewhere")
        path.parent.symlink_to(tmp_path / "elsewhere")
    else:
        path.rename(tmp_path / "elsewhere.json")
        {"link": lambda: path.symlink_to(tmp_path / "elsewhere.json"), "folder": path.mkdir}.get(
            kind, lambda: os.mkfifo(path)
        )()
    assert "Temperature" not in drawn(run)[0]


def spoilt(value: Any, bad: Any) -> list[Any]:
    """Copies of a value, in each of which one thing, at any depth, is `bad` instead."""
    if isinstance(value, dict):
        inner = [{**value, key: other} for key in value if key != "model" for other in spoilt(value[key], bad)]
    elif isinstance(value, list):
        inner = [[*value[:n], other, *value[n + 1 :]] for n in range(len(value)) for other in spoilt(value[n], bad)]
    else:
        inner = []
    return [bad, *inner]


OFTEN: list[Any] = [HOSTILE, None, 1e999]
SELDOM: list[Any] = [[], {}, [HOSTILE], -1, True, 10**400]


@pytest.mark.parametrize("bad", [*OFTEN, *(pytest.param(bad, marks=pytest.mark.slow) for bad in SELDOM)], ids=repr)
def test_one_bad_value_anywhere_costs_no_report_and_adds_no_tag(tmp_path: Path, bad: Any) -> None:
    run = folder(tmp_path / "run", "")
    path = run / "checkpoints" / "best" / "calibration.json"
    whole = record()
    for changed in spoilt(whole, bad)[1:]:
        path.write_text(json.dumps(changed))
        section = report.calibration(report.read_run(run))
        assert HOSTILE not in section
        assert set(re.findall(r"<(\w+)", section)) <= {
            *("h2", "p", "div", "figure", "figcaption", "script", "table", "caption", "tr", "th", "td"),
            *("ul", "li", "button", "bdi"),
        }
        assert section.count("<script") == section.count("</script") <= 2
