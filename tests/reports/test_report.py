"""The report page: complete for every kind of run, whole in itself, and deaf to hostile text."""

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.reports.conftest import HOSTILE, Page

from nanogrove.atomic import STALE_SECONDS
from nanogrove.errors import RunError
from nanogrove.record import measures as tables
from nanogrove.record.events import Event
from nanogrove.record.measures import Measure
from nanogrove.record.reading import Run
from nanogrove.reports import report


def write_run(folder: Path, events: list[Event], preset: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = preset if preset is not None else {"name": "tiny"}
    (folder / "preset.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "events.jsonl").write_bytes("".join(e.line() for e in events).encode("utf-8", "surrogatepass"))
    return folder


def start(name: str = "tiny", **values: object) -> Event:
    facts = {"name": name, "method": "pretrain", "seed": 7, "parameters": 10_770_816, "vocabulary": 256}
    facts |= {"device": "cpu", "precision": "float32", "compile": False}
    facts |= {"versions": {"nanogrove": "0.1.0"}, "machine": {"cores": 2}, "data": {"documents": 12345}}
    return Event("start", 0, facts | values)


def step(n: int, loss: object, **values: object) -> Event:
    named = {"loss": loss, "lr": 0.1, "grad_norm": 1.5, "tokens": 64 * n} | values
    return Event("step", n, named, {"seconds": 0.5 * n, "tokens_per_second": 128.0})


def evaluation(n: int, loss: object) -> Event:
    values = {"split": "validation", "loss": loss, "bits_per_byte": 2.5, "tokens": 999, "seen": 64 * n}
    return Event("eval", n, values, {"seconds": 0.5 * n})


def end(n: int, loss: object) -> Event:
    return Event("end", n, {"loss": loss, "bits_per_byte": 2.25, "tokens": 64 * n}, {"seconds": 3725.0})


def full_run() -> list[Event]:
    middle = [event for n in range(1, 11) for event in (evaluation(n, 5.0 - n / 10), step(n, 4.5 - n / 10))]
    return [start(), *middle, end(10, 3.9876)]


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Adds a measure."""
    return lambda measure: monkeypatch.setattr(tables, "MEASURES", (*tables.MEASURES, measure))


def page_of(folder: Path, events: list[Event], preset: object = None) -> Page:
    return Page(report.write_report(write_run(folder, events, preset)))


def test_a_finished_run_shows_its_key_figures_and_curves(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", full_run())
    for shown in ("tiny", "3.9876", "2.2500", "640", "1 h 2 min", "10.8 M", "seed 7", "10 steps", "documents12,345"):
        assert shown in page.text, shown
    assert "validation loss3.9876nats per token, lower is better" in page.text
    assert "n/a" not in page.text
    assert "unfinished" not in page.text
    by_tokens, by_time, lr, norm, speed = page.figures()
    assert [line["name"] for line in by_tokens["lines"]] == ["train", "validation"]
    assert by_tokens["lines"][0]["x"] == [64 * n for n in range(1, 11)]
    assert by_tokens["lines"][1]["y"] == [5.0 - n / 10 for n in range(1, 11)]
    assert by_time["lines"][0]["x"] == [0.5 * n for n in range(1, 11)]
    assert (lr["lines"][0]["y"], norm["lines"][0]["y"], speed["lines"][0]["y"]) == (
        [0.1] * 10,
        [1.5] * 10,
        [128.0] * 10,
    )


def test_an_unfinished_run_shows_the_latest_values(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", full_run()[:-1])
    assert "unfinished" in page.text
    assert "validation loss so far" in page.text
    assert "4.0000" in page.text
    assert "5.0 s" in page.text


@pytest.mark.parametrize("events", [[], [start()]], ids=["empty", "start only"])
def test_a_run_without_steps_says_so(tmp_path: Path, events: list[Event]) -> None:
    page = page_of(tmp_path / "early", events)
    assert "unfinished" in page.text
    assert "No training step is recorded yet." in page.text
    assert page.figures() == []
    assert ("tiny" if events else "early") in page.text


def test_missing_and_strange_values_do_not_stop_the_report(tmp_path: Path) -> None:
    odd = [Event("start", 0, {"versions": "none", "data": [1]}), Event("step", 1), Event("eval", 1)]
    odd += [Event("step", 2, {"loss": "low", "tokens": True, "grad_norm": {}}), Event("sample", 2), Event("end", 2)]
    page = page_of(tmp_path / "run", odd)
    assert page.figures() == []
    assert "2 steps" in page.text


def test_figures_that_are_not_known_are_left_out_of_the_head(tmp_path: Path) -> None:
    events = [start(), step(1, 2.0), Event("eval", 1, {"loss": 2.5, "seen": 64, "bits_per_byte": None})]
    page = page_of(tmp_path / "run", events)
    assert "validation loss so far2.5000" in page.text
    assert "bits per byte" not in page.text
    assert "n/a" not in page.text


def test_the_head_names_any_measure_with_its_unit_direction_error_and_best(tmp_path: Path, measures: Any) -> None:
    measures(Measure("hits", "exact match", "share", "higher", digits=3, error="hits_error", reference="hits_best"))
    figures = {"hits": 0.5, "hits_error": 0.01, "hits_best": 1.0}
    early, late = (Event("eval", n, {"loss": 1.0, "hits": n / 10}) for n in (1, 2))
    page = page_of(tmp_path / "run", [start(), step(1, 2.0), Event("end", 1, {"loss": 2.0, **figures})])
    assert "exact match0.500 ± 0.010share, higher is better, best possible 1.000" in page.text
    chosen = Event("end", 2, {"loss": 1.0, "best_step": 1})
    page = page_of(tmp_path / "best", [start(), step(1, 2.0), early, late, chosen])
    assert "exact match0.100share" in page.text, "of the evaluation that chose the best model"


def test_a_measure_with_a_title_has_a_picture_with_its_unit_direction_error_and_best(
    tmp_path: Path, measures: Any
) -> None:
    hits = Measure("hits", "exact match", "share", "higher", title="Exact match", error="error", reference="best")
    measures(hits)
    evaluations = [Event("eval", n, {"loss": 1.0, "seen": n, "hits": 0.5, "error": 0.1, "best": 1}) for n in (1, 2)]
    page = page_of(tmp_path / "run", [start(), *evaluations, step(2, 1.0)])
    [figure] = [figure for figure in page.figures() if figure["y"] == "share"]
    assert "Exact match, higher is better" in page.text
    assert figure["lines"][0]["low"] == [0.3, 0.3]
    assert figure["lines"][1]["y"] == [1, 1]


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", [start(), step(1, 2.0), step(2, float("nan")), step(3, 1.0)])
    assert page.figures()[0]["lines"][0]["y"] == [2.0, None, 1.0]


def test_a_population_is_a_median_with_a_band(tmp_path: Path) -> None:
    losses = [[3.0, 1.0, 2.0], [5.0, float("inf"), 4.0], [None, None, None]]
    events = [start(), *(step(n, loss) for n, loss in enumerate(losses, 1)), end(3, [3.0, 1.0, 2.5])]
    page = page_of(tmp_path / "run", events)
    train = page.figures()[0]["lines"][0]
    assert (train["low"], train["y"], train["high"]) == ([1.0, 4.0, None], [2.0, 4.5, None], [3.0, 5.0, None])
    assert "2.5000 (1.0000 to 3.0000)" in page.text
    assert "medians" in page.text
    assert "low" not in page.figures()[2]["lines"][0]


def test_the_latest_samples_are_in_view_and_older_ones_folded(tmp_path: Path) -> None:
    old = [Event("sample", n, {"prompt": "once", "text": f"\nold {n}"}) for n in range(1, 70)]
    new = [Event("sample", 70, {"prompt": "", "text": f"new {n}"}) for n in "ab"]
    page = page_of(tmp_path / "run", [start(), step(70, 1.0), *old, *new])
    text, folded = page.html, page.html.index("<details>")
    assert text.index("new a") < text.index("new b") < folded < text.index("old 69") < text.index("old 20")
    assert "old 19" not in text
    assert "19 more are in events.jsonl" in text
    assert '<pre dir="auto">\n\nold 69</pre>' in text  # the parser drops the first of the two newlines


def test_an_empty_sample_says_so_and_a_long_one_is_cut(tmp_path: Path) -> None:
    texts = ["", None, "x" * 30_000]
    page = page_of(tmp_path / "run", [start(), step(1, 1.0), *(Event("sample", 1, {"text": text}) for text in texts)])
    assert page.text.count("(empty)") == 2
    assert "(10,000 more characters are in events.jsonl)" in page.text
    assert page.count("pre") == 2, "the long sample, and the preset"


def test_tables_have_few_digits_and_no_json(tmp_path: Path) -> None:
    data = {"uniform_loss": 4.852030263919617, "overlap": {"10": 0.79466749, "100": 0.0}, "names": ["a", "b"]}
    data |= {"deep": json.loads("[" * 90 + "]" * 90), "long": "y" * 5000, "none": None, "streams": True}
    page = page_of(tmp_path / "run", [start(data=data), step(1, 1.0)])
    for row in ("uniform loss4.852", "overlap10: 0.79467; 100: 0", "namesa, b", "streamsyes", "deep…"):
        assert row in page.text
    assert "(4,400 more characters)" in page.text
    assert "none" not in page.text.partition("Data")[2]


def hostile_events(bad: str) -> list[Event]:
    facts: dict[str, Any] = dict.fromkeys(("method", "device", "precision", "compile", "seed", "vocabulary"), bad)
    facts |= {key: {bad: bad, "in a list": [bad, {bad: bad}]} for key in ("versions", "machine", "data")}
    samples = [Event("sample", n, {"prompt": bad, "text": bad}) for n in (1, 2)]
    return [start(name=bad, **facts), step(1, 3.0), *samples, step(2, 2.0, grad_norm=bad), end(2, 2.5)]


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_text_changes_no_tag_and_no_attribute(tmp_path: Path, bad: str) -> None:
    page = page_of(tmp_path / "bad", hostile_events(bad), preset={bad: [bad, {"a": bad}]})
    plain = page_of(tmp_path / "good", hostile_events("harmless"), preset={"harmless": ["harmless", {"a": "harmless"}]})
    assert page.tags == plain.tags
    assert page.closed == plain.closed
    assert page.scripts == plain.scripts
    readable = re.sub("[\x00\ud800\ufffd?]", "", bad)
    assert readable in re.sub("[\x00\ufffd?]", "", page.text), "the text itself is shown as it is"


def test_an_older_report_is_replaced_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", full_run())
    (folder / "report.html").write_text("old")
    assert report.write_report(folder) == folder / "report.html"
    assert "old" not in Page(folder / "report.html").text
    assert sorted(path.name for path in folder.iterdir()) == ["events.jsonl", "preset.json", "report.html"]


@pytest.mark.parametrize("missing", ["preset.json", "events.jsonl"])
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path, missing: str) -> None:
    folder = write_run(tmp_path / "run", full_run())
    (folder / missing).unlink()
    with pytest.raises(RunError, match=missing) as caught:
        report.write_report(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("content", ["[1]", "{", "\xff"])
def test_a_damaged_preset_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_run(tmp_path / "run", full_run())
    (folder / "preset.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=r"preset\.json"):
        report.write_report(folder)


def test_an_event_without_a_step_number_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", full_run())
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": "<b>", "time": {}}\n')
    with pytest.raises(RunError, match="damaged"):
        report.write_report(folder)


def test_a_new_section_is_one_line(tmp_path: Path, drawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(run: Run) -> str:
        return f"<h2>Toy of {len(run.of('step'))} steps</h2>"

    monkeypatch.setattr(report, "SECTIONS", (*report.SECTIONS, report.Section(toy, ("step",))))
    text, _ = drawn(tmp_path, [Event("step", 1, {"loss": 1.0}, {})])
    assert "<section><h2>Toy of 1 steps</h2></section>" in text


@pytest.mark.parametrize(
    ("further", "entered"),
    [
        ([], set()),
        ([Event("exact", 1), Event("generation", 1)], {"self_improvement", "evolution"}),
        ([Event("reward", 1)], {"rewards"}),
        ([Event("rewards", 1), Event("sources", 1)], {"rewards", "sources"}),
        ([Event("eval", 1, {"bayes_loss": 1.0}), Event("auxiliary", 1)], {"best_possible", "heads"}),
        ([Event("eval", 1, {"split": "test", "bayes_loss": 1.0}), Event("sample", 1)], {"samples"}),
    ],
)
def test_a_section_is_entered_only_where_the_run_has_what_it_shows(
    further: list[Event], entered: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def entering(section: report.Section) -> report.Section:
        return replace(section, html=lambda run: names.append(section.html.__name__) or "")  # type: ignore[func-returns-value]

    monkeypatch.setattr(report, "SECTIONS", tuple(map(entering, report.SECTIONS)))
    page_of(tmp_path / "run", [*full_run(), *further])
    assert set(names) == {"overview", "curves", "preset", "machine", *entered}


def test_what_killed_writers_left_goes_once_no_writer_can_be_at_work(tmp_path: Path) -> None:
    run = write_run(tmp_path, full_run())
    fresh, old = run / ".report.html.0a1b2c3d.part", run / ".report.html.4e5f6071.part"
    for aside in (fresh, old):
        aside.write_text("torn")
    os.utime(old, (time.time() - 2 * STALE_SECONDS,) * 2)
    assert "</html>" in report.write_report(run).read_text()
    assert (fresh.exists(), old.exists()) == (True, False)
