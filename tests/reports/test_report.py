"""The report page: complete for every kind of run, whole in itself, and deaf to hostile text."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nanogrove.errors import RunError
from nanogrove.record.events import Event
from nanogrove.record.reading import Run
from nanogrove.reports import figures, page, report

HOSTILE = [
    "</script><script>alert(1)</script>",
    "</pre></details><img src=x onerror=alert(2)>",
    '" onmouseover="alert(3)" x=\'',
    "<!--<script>",
    "</title></style><svg/onload=alert(4)>",
    "&lt;script&gt;&#x3c;b>",
    "]]>\x00\u2028</textarea>\ud800",
]


class Page(HTMLParser):
    """Tags with their attributes, the text, and the contents of scripts, as a browser would find them."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.closed: list[str] = []
        self.text = ""
        self.scripts: list[tuple[str | None, str]] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            kind, code = self.scripts[-1]
            self.scripts[-1] = (kind, code + data)
        else:
            self.text += data

    def figures(self) -> list[dict]:
        return [json.loads(code) for kind, code in self.scripts if kind == "application/json"]

    def count(self, tag: str) -> int:
        return [name for name, _ in self.tags].count(tag)


@pytest.fixture(autouse=True)
def _short_plotly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes of plotly are parsed in one test only."""
    if "whole_plotly" not in request.fixturenames:
        monkeypatch.setattr(page, "get_plotlyjs", lambda: "var Plotly;\r\nvar x;")


@pytest.fixture
def whole_plotly() -> None:
    """Asks for the real plotly."""


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


def page_of(folder: Path, events: list[Event], preset: object = None) -> Page:
    return Page(report.write_report(write_run(folder, events, preset)))


def test_a_finished_run_shows_its_key_figures_and_curves(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", full_run())
    for shown in ("tiny", "3.9876", "2.2500", "640", "1 h 2 min", "10.8 M", "seed 7", "10 steps", "documents12,345"):
        assert shown in page.text, shown
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


def test_a_long_line_is_thinned_and_keeps_its_extremes_gaps_and_ends() -> None:
    y: list[float | None] = [float(n % 7) for n in range(100_000)]
    y[40_000], y[60_001], y[70_000] = 1000.0, -1000.0, None
    [drawn] = figures.line("train", range(100_000), y)
    kept = dict(zip(drawn["x"], drawn["y"], strict=True))
    assert 1000 < len(kept) <= figures.MAX_POINTS
    assert drawn["x"] == sorted(drawn["x"])
    assert (drawn["x"][0], drawn["x"][-1]) == (0, 99_999)
    assert (kept[40_000], kept[60_001], kept[70_000]) == (1000.0, -1000.0, None)
    assert all(kept[n] == y[int(n)] for n in kept)


def test_the_latest_samples_are_in_view_and_older_ones_folded(tmp_path: Path) -> None:
    old = [Event("sample", n, {"prompt": "once", "text": f"\nold {n}"}) for n in range(1, 70)]
    new = [Event("sample", 70, {"prompt": "", "text": f"new {n}"}) for n in "ab"]
    page = page_of(tmp_path / "run", [start(), step(70, 1.0), *old, *new])
    text, folded = page.html, page.html.index("<details>")
    assert text.index("new a") < text.index("new b") < folded < text.index("old 69") < text.index("old 20")
    assert "old 19" not in text
    assert "19 more are in events.jsonl" in text
    assert '<pre dir="auto">\n\nold 69</pre>' in text  # the parser drops the first of the two newlines


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


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_names_in_figures_stay_inside_their_data_block(tmp_path: Path, bad: str) -> None:
    figure = figures.plot(bad, bad, figures.line(bad, [1, 2], [3, 4]))
    (tmp_path / "figure.html").write_bytes(figure.encode("utf-8", "replace"))
    page = Page(tmp_path / "figure.html")
    assert [tag for tag, _ in page.tags] == ["figure", "figcaption", "div", "script"]
    assert [name for name, _ in page.tags[2][1]] == ["role", "aria-label"]
    [(_, code)] = page.scripts
    assert "<" not in code, "browsers end a script at more than html.parser does"
    [data] = page.figures()
    assert data["x"] == data["lines"][0]["name"] == bad


def test_the_policy_allows_exactly_the_two_scripts_of_the_page(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", full_run())
    [policy] = [
        dict(attrs)["content"] for tag, attrs in page.tags if ("http-equiv", "Content-Security-Policy") in attrs
    ]
    run = [code for kind, code in page.scripts if kind is None]
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in run]
    assert len(run) == 2
    assert policy.startswith("default-src 'none'; script-src " + " ".join(f"'sha256-{h}'" for h in hashes) + ";")
    assert "script-src 'unsafe" not in policy
    assert "; img-src data:;" in policy, "plotly shows a heat map as an image it has made, and no other image is"
    assert "connect-src" not in policy


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path, whole_plotly: None) -> None:
    page = page_of(tmp_path / "run", full_run())
    fetching = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [(tag, attrs) for tag, attrs in page.tags if fetching & {name for name, _ in attrs}]
    assert page.count("link") == page.count("iframe") == 0
    assert page.count("script") == 7, "plotly's code must not end its own element"
    [style] = re.findall("<style>(.*?)</style>", page.html, flags=re.DOTALL)[:1]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert 'matchMedia("(prefers-color-scheme: dark)").addEventListener' in page.scripts[-1][1]


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
