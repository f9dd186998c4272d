"""The pages as a browser gets them: the report's own sections, notes, damaged runs, hostile text."""

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.ui.conftest import Browser, evaluation, step, write_run

from nanogrove.config.catalog import packaged_text, parse_preset
from nanogrove.config.overrides import resolve
from nanogrove.record.events import Event
from nanogrove.record.reading import read_run
from nanogrove.reports.report import drawn_sections

HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{7*7}}", "&lt;b&gt;"]
HOSTILE += ["\"'><svg/onload=alert(1)>", "' onfocus=alert(1) x='", '" onfocus=alert(1) x="', "</textarea><b>"]
HOSTILE += ["javascript:alert(1)", "\u202eevil", "a\0b", "\ud800"]
FIELDS = ("name", "text", "prompt", "reason", "changed", "loss", "split")


class Elements(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen = set[tuple[str, tuple[str, ...]]]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add((tag, tuple(name for name, _ in attrs)))


def test_a_run_has_the_sections_of_its_report_and_what_differs(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "quickstart"
    packaged = parse_preset(packaged_text("quickstart") or "", "quickstart")
    settings = resolve(packaged, ["seed=5"]).model_dump(mode="json")
    events = (step(1), evaluation(1, 2.9), Event("sample", 1, {"prompt": "p", "text": "hello"}))
    alarm = Event("alarm", 2, {"round": 1, "reason": "too alike", "retry": False})
    resumed = Event("resume", 2, {"changed": {"train.steps": [20, 10]}})
    run = write_run(path, *events, alarm, resumed, step(4), **settings)
    page = browser().get("/run?name=quickstart").text
    for html in drawn_sections(read_run(run)).values():
        assert html in page
    assert "<li><bdi>step 2: alarm: too alike</bdi></li>" in page
    assert "went on with train.steps changed: [20, 10]" in page
    row = "<tr><td><div>seed</div></td><td><div>0</div></td><td><div>5</div></td></tr>"
    assert f"<tbody>{row}</tbody>" in page
    assert '<progress aria-label="Progress" max="10" value="4"></progress>' in page
    assert '<span class="state stopped">stopped</span> 4 of 10 steps</p>' in page
    assert "<button>Continue</button>" in page


def test_notes_are_saved_and_shown_in_the_list(browser: Browser, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a")
    client = browser()
    seen = re.findall(r'name="seen" value="(\w+)"', client.get("/run?name=a").text)[0]
    answer = client.post("/run/notes?name=a", data={"tags": "wide, odd", "note": "line 1\nline 2", "seen": seen})
    assert (answer.status_code, answer.url.path) == (200, "/run")
    assert 'value="wide, odd"' in answer.text
    assert '<bdi class="tag">wide</bdi> <bdi class="tag">odd</bdi> <bdi>line 1</bdi>' in client.get("/").text
    lost = client.post("/run/notes?name=a", data={"tags": "other", "note": "typed", "seen": seen})
    assert lost.status_code == 409
    assert "changed elsewhere meanwhile" in lost.text
    assert "typed</textarea>" in lost.text
    assert json.loads((tmp_path / "runs" / "a" / "notes.json").read_text())["tags"] == ["wide", "odd"]
    assert client.post("/run/notes?name=a", content=b"x" * 200_000).status_code == 413


def test_a_damaged_run_is_said_and_the_others_are_shown(browser: Browser, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "good", step(2))
    bad = write_run(tmp_path / "runs" / "bad", step(1))
    (bad / "events.jsonl").write_text("nonsense\n" * 3)
    (bad / "notes.json").write_text("{")
    client = browser()
    page = client.get("/").text
    assert "damaged: events.jsonl is damaged" in page
    assert "notes.json: cannot be read" in page
    assert "2 of 10" in page
    assert "line 1 is not an event" in client.get("/run?name=bad").text
    assert "<h1>Not done</h1>" in client.post("/run/stop?name=good").text
    assert client.post("/run/stop?name=good").status_code == 409


ELSEWHERE = ["", "../outside", "/etc", "good/../good", "good/", ".", "good/checkpoints", "x" * 5000]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_no_other_path_is_served(browser: Browser, tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "runs" / "good")
    write_run(tmp_path / "outside")
    client = browser()
    for path in ("/run", "/run/events"):
        assert client.get(path, params={"name": name}).status_code == 404
    for path in ("/run/notes", "/run/stop", "/run/continue"):
        assert client.post(path, params={"name": name}, data={"seen": "x"}).status_code == 404
    assert client.get("/assets/..%2fapp.py").status_code == 404
    assert client.get(f"/assets/{name}").status_code == 404
    assert not (tmp_path / "outside" / "notes.json").exists()


def hostile(rng: random.Random) -> Any:
    return rng.choice([*HOSTILE, *HOSTILE, None, 1e999, -1, [], {}, True, ["<b>"], {"<b>": "<i>"}])


def test_hostile_text_stays_text(browser: Browser, tmp_path: Path) -> None:
    """Names, presets, events, samples and notes add no element and no attribute to any page."""
    rng, client = random.Random(4), browser()
    plain = write_run(tmp_path / "runs" / "plain", step(1), evaluation(1, 1.0), Event("sample", 1, {"text": "a"}))
    (plain / "notes.json").write_text(json.dumps({"tags": ["a"], "note": "b"}))
    known = {
        tag
        for tag, _ in Elements(
            client.get("/").text + client.get("/run?name=plain").text + client.get("/compare?run=plain").text
        ).seen
    }
    known |= {tag for tag, _ in Elements(client.get("/try?name=plain").text).seen}
    known |= {"li", "details", "summary", "button", "p"}
    names = ["<img src=x>", "' onload='a", '"><b>', "a&b", "%2e%2e", "a?b#c"]
    for number, name in enumerate(names * 3):
        kinds = ("step", "eval", "sample", "alarm", "resume", "phase", "end", "start", "round", "sources")
        events = [
            Event(kind, n, {key: hostile(rng) for key in FIELDS}) for n, kind in enumerate(rng.choices(kinds, k=6), 1)
        ]
        settings: dict[str, Any] = {
            "method": {"name": hostile(rng)},
            "data": {"type": hostile(rng), "sources": [hostile(rng)]},
        }
        run = write_run(tmp_path / "runs" / f"{name}{number}", *events, **settings, seed=hostile(rng))
        (run / "notes.json").write_text(json.dumps({"tags": [rng.choice(HOSTILE)], "note": rng.choice(HOSTILE)}))
        pages = [client.get("/", params={"search": rng.choice(HOSTILE[:8])}), client.get("/")]
        pages.append(client.get("/run", params={"name": f"{name}{number}"}))
        pages.append(client.get("/compare", params={"run": [f"{name}{number}", "plain", rng.choice(HOSTILE[:8])]}))
        pages.append(client.get("/try", params={"name": f"{name}{number}"}))
        assert [page.status_code for page in pages] == [200] * 5
        elements = Elements("".join(page.text for page in pages)).seen
        assert {tag for tag, _ in elements} <= known
        assert not {each for _, names in elements for each in names if each.startswith("on")}
