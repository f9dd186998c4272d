"""Runs in one figure: over each axis, seeds as one line, settings that differ, a choice that the address holds."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.ui.conftest import Browser, evaluation, step, write_run

from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.record.events import Event

MODEL = {"block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 4}


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Any:
    """The page of some words of an address, of three runs of which two differ in their seeds alone."""
    for name, seed, lr, shift in (("a", 0, 0.1, 0.0), ("b", 1, 0.1, 0.5), ("c", 0, 0.2, 1.0)):
        events = [each for n in (1, 2, 3) for each in (evaluation(n, 3.0 - n / 10 + shift), step(n))]
        write_run(tmp_path / "runs" / name, *events, model=MODEL, seed=seed, optim={"lr": lr})
        record = tmp_path / "runs" / name / "events.jsonl"
        record.write_text(record.read_text().replace('"seed": 1', '"vocabulary": 10'))
    client = browser()
    return lambda words: client.get(f"/compare?{words}").text


def spec(page: str) -> Any:
    return json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page)[0])


def test_each_axis_is_where_it_should_be(page: Any) -> None:
    cost = GPT(ModelConfig(vocab_size=10, **MODEL)).flops_per_token(8)  # type: ignore[arg-type]
    positions = {
        "steps": [1, 2, 3],
        "tokens": [64, 128, 192],
        "time": [2, 4, 6],
        "flops": [cost * 64 * n for n in (1, 2, 3)],
    }
    for axis, x in positions.items():
        drawn = spec(page(f"run=a&run=b&x={axis}&log_x=on"))
        assert [line["name"] for line in drawn["lines"]] == ["a", "b"]
        assert [line["x"] for line in drawn["lines"]] == [pytest.approx(x)] * 2
        assert drawn["lines"][1]["y"] == pytest.approx([3.4, 3.3, 3.2])
        assert (drawn["log_x"], drawn["log_y"]) == (True, False)


def test_runs_that_differ_in_some_settings_alone_are_one_line_with_a_band(page: Any) -> None:
    group, alone = spec(page("run=a&run=b&run=c&over=seed&over=nothing"))["lines"]
    assert (group["name"], alone["name"]) == ("optim.lr=0.1: 2 runs", "optim.lr=0.2: 1 run")
    assert (group["low"], group["y"], group["high"]) == ([2.9, 2.8, 2.7], [3.15, 3.05, 2.95], [3.4, 3.3, 3.2])
    assert alone["y"] == [3.9, 3.8, 3.7]
    (every,) = spec(page("run=a&run=b&run=c&over=seed&over=optim.lr"))["lines"]
    assert (every["name"], every["y"]) == ("all: 3 runs", [3.4, 3.3, 3.2])


def test_the_training_loss_is_drawn_too(page: Any) -> None:
    drawn = spec(page("run=a&y=training_loss&smooth=on&x=steps"))
    assert drawn["lines"][0]["y"] == pytest.approx([2.9, 2.8, 2.7])


def test_settings_that_differ_have_a_table_and_the_choice_is_kept(page: Any) -> None:
    text = page("run=a&run=c&x=time&smooth=on")
    assert re.findall(r"<tr><td><div>(optim\.lr)</div></td>(.*?)</tr>", text) == [
        ("optim.lr", "<td><div>0.1</div></td><td><div>0.2</div></td>")
    ]
    assert '<option value="time" selected>' in text
    assert '<input type="checkbox" name="smooth" value="on" checked>' in text
    assert text.count('name="run" value="a" checked') == 1
    assert "3" in text.split("<h2>Figures</h2>")[1]


def test_what_cannot_be_compared_is_said_and_the_others_are_drawn(page: Any, tmp_path: Path) -> None:
    bad = write_run(tmp_path / "runs" / "bad")
    (bad / "events.jsonl").write_text('{"kind": "eval", "step": 1, nonsense\n')
    text = page("run=a&run=bad&run=../x&run=%3Cb%3E&x=nothing&y=nothing")
    assert "bad: events.jsonl is damaged" in text
    assert "&lt;b&gt;: no run is here" in text
    assert [line["name"] for line in spec(text)["lines"]] == ["a"]
    assert "No run is chosen" in page("")


def test_a_floor_that_all_runs_share_is_drawn(browser: Browser, tmp_path: Path) -> None:
    for name in ("a", "b"):
        values = {"split": "validation", "loss": 2.0, "bayes_loss": 1.5, "seen": 64}
        write_run(tmp_path / "runs" / name, Event("eval", 1, values), Event("eval", 2, values | {"seen": 128}))
    lines = spec(browser().get("/compare?run=a&run=b").text)["lines"]
    assert (lines[-1]["style"], lines[-1]["x"], lines[-1]["y"]) == ("reference", [64, 128], [1.5, 1.5])
