"""Runs in one figure: over each axis, seeds as one line, settings that differ, a choice that the address holds."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiny
from tests.ui.conftest import Browser, evaluation, step, write_run, write_study

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Event
from nanogrove.ui.index import Index

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


def with_floor(path: Path, *figures: tuple[int, float], **preset: Any) -> None:
    """A run of a grammar with evaluations of these steps and best possible losses."""
    values = {"split": "validation", "loss": 2.0}
    write_run(path, *(Event("eval", n, values | {"bayes_loss": best, "seen": 64 * n}) for n, best in figures), **preset)


def references(page: str) -> list[tuple[str, list[float], list[float]]]:
    return [(each["name"], each["x"], each["y"]) for each in spec(page)["lines"] if each["style"] == "reference"]


def test_the_best_possible_figure_is_drawn_once_or_for_each_grammar(browser: Browser, tmp_path: Path) -> None:
    runs, client = tmp_path / "runs", browser()
    for name, floor, seed in (("a", 1.5, 0), ("b", 1.5, 1), ("c", 0.5, 0)):
        with_floor(runs / name, (1, floor), (2, floor), seed=seed, model={"n_layer": len(name)}, data={"v": floor})
    with_floor(runs / "moved", (1, 0.7), (2, 0.8))
    write_run(runs / "none", evaluation(4, 2.0))
    shared = client.get("/compare?run=a&run=b").text
    assert references(shared) == [("best possible", [64, 128], [1.5, 1.5])]
    each = client.get("/compare?run=a&run=b&run=c&run=none&run=moved").text
    assert references(each) == [
        ("best possible: a and 1 more", [64, 128], [1.5, 1.5]),
        ("best possible: c", [64, 128], [0.5, 0.5]),
        ("best possible: moved", [64, 128], [0.7, 0.8]),
    ]
    grouped = spec(client.get("/compare?run=a&run=b&run=c&over=seed&over=data.v").text)["lines"]
    assert (grouped[1]["name"], grouped[1]["low"], grouped[1]["high"]) == ("best possible", [0.5, 0.5], [1.5, 1.5])


def test_best_possible_figures_that_are_too_many_are_said(browser: Browser, tmp_path: Path) -> None:
    for n in range(9):
        with_floor(tmp_path / "runs" / f"{n}", (1, 1.0 + n))
    page = browser().get("/compare", params={"run": [f"{n}" for n in range(9)]}).text
    assert references(page) == []
    assert "best possible figures of these lines are 9, too many to draw" in page


def test_the_runs_of_a_study_are_compared_and_its_verdict_is_said(browser: Browser, tiny: Tiny, tmp_path: Path) -> None:
    slow = [2.0, 2.1, 2.2, 2.05, 2.15, 2.25]
    losses = {"slow": slow, "fast": [loss - 0.5 - n / 1000 for n, loss in enumerate(slow)]}
    write_study(tmp_path / "runs" / "rates", tiny(), losses)
    write_study(tmp_path / "runs" / "begun", tiny(), {"slow": slow[:2], "fast": slow[:2]})
    write_run(tmp_path / "runs" / "alone", evaluation(4, 2.0))
    client = browser()
    page = client.get("/compare?study=rates").text
    assert [line["name"] for line in spec(page)["lines"]] == ["optimizer.lr=0.01: 6 runs", "optimizer.lr=0.02: 6 runs"]
    assert page.count('name="run" value="rates/runs/') == 12
    verdict = re.search(r"<b>fast</b> is better than slow by 0\.5025.*?</li>", page)
    assert verdict is not None
    assert "95 % interval 0.5" in verdict[0]
    assert '<a href="/study?name=rates">study <bdi>rates</bdi></a>' in verdict[0]
    page = client.get("/compare?run=begun/runs/slow/seed-0&run=alone").text
    assert "which is under way: 4 of 12 runs are finished" in page
    assert "What studies" not in client.get("/compare?run=alone").text
    (tmp_path / "runs" / "rates" / "plan.json").write_text("{}")
    page = client.get("/compare?study=rates&run=rates/runs/fast/seed-0&study=none").text
    assert "plan.json: damaged" in page
    assert "none: no study is here" in page
    assert len(spec(page)["lines"]) == 1


def test_names_that_are_not_here_are_looked_for_once(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    client, looks, read = browser(), list[Index](), Index.read
    monkeypatch.setattr(Index, "read", lambda index: looks.append(index) or read(index))  # type: ignore[func-returns-value]
    page = client.get("/compare?run=a&run=b&run=c&study=d&study=e").text
    assert all(f"{name}: no run is here" in page for name in "abc")
    assert all(f"{name}: no study is here" in page for name in "de")
    assert len(looks) == 1
