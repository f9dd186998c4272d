"""The page: whole in itself, small, and admitting two scripts by their digests, of which one is unpacked."""

import base64
import gzip
import hashlib
import re
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from tests.reports.conftest import Page

from nanogrove.record.events import Event
from nanogrove.reports import report
from nanogrove.reports.page import SCRIPT, STYLE, html_page

SIZE = 2_200_000  # bytes of a report, at most


def page_of(folder: Path, events: list[Event]) -> Page:
    """The page of a record."""
    folder.mkdir(exist_ok=True)
    (folder / "preset.json").write_text("{}")
    (folder / "events.jsonl").write_text("".join(event.line() for event in events))
    return Page(report.write_report(folder))


def digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def test_the_policy_admits_plotly_as_it_is_unpacked_and_the_script_of_the_page(
    tmp_path: Path, whole_plotly: None
) -> None:
    page = page_of(tmp_path / "run", [])
    [policy] = [
        dict(attrs)["content"] for tag, attrs in page.tags if ("http-equiv", "Content-Security-Policy") in attrs
    ]
    [packed] = [code for kind, code in page.scripts if kind == "application/gzip"]
    plotly = gzip.decompress(base64.b64decode(packed)).decode()
    assert plotly == get_plotlyjs(), "the whole bundle"
    [script] = [code for kind, code in page.scripts if kind is None]
    allowed = f"'sha256-{digest(plotly)}' 'sha256-{digest(script)}'"
    assert policy == (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def test_two_pages_of_one_record_are_equal(whole_plotly: None) -> None:
    assert html_page("title", ["one"]) == html_page("title", ["one"])


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", [Event("step", 1, {"loss": 1.0, "tokens": 1})])
    fetching = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [(tag, attrs) for tag, attrs in page.tags if fetching & {name for name, _ in attrs}]
    assert not {"link", "iframe", "a", "object", "embed"} & {tag for tag, _ in page.tags}
    for word in ("url(", "@import"):
        assert word not in STYLE
    assert "prefers-color-scheme: dark" in STYLE


def test_the_script_ends_no_element_early_and_makes_no_html_of_data() -> None:
    assert not re.findall("</script|<script|<!--", SCRIPT), "a browser may end it there"
    for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert word not in SCRIPT
    assert "\r" not in SCRIPT, "browsers turn it into a line feed, and the digest would differ"


@pytest.mark.parametrize("members", [None, 64])
def test_a_report_of_a_long_run_is_small(tmp_path: Path, members: int | None, whole_plotly: None) -> None:
    """Ten thousand recorded steps, a thousand evaluations, heads, sources and long samples."""

    def noise(n: int) -> float | list[float]:
        values = [((n * 7919 + m * 104729) % 10007) / 10007 * 3 for m in range(members or 1)]
        return values if members else values[0]

    names = [f"source number {n}" for n in range(30)]
    every = {"names": names, "loss": [2.5] * 30, "share": [1 / 30] * 30, "weights": [1 / 30] * 30, "passes": [1.0] * 30}
    heads = ("value", "dynamics_token", "span", "multi_token", "policy")
    events: list[Event] = []
    for n in range(1, 1001 if members else 10_001):
        parts = dict.fromkeys(heads, 1.23456789 + n)
        values = {"loss": noise(n), "lr": 1 / n, "grad_norm": noise(n + 1), "tokens": 4096 * n, **parts}
        events.append(Event("step", n, values, {"seconds": n / 7, "tokens_per_second": 1e4 + n % 97}))
        if n % (10 if members else 100) == 0:
            events.append(Event("eval", n, {"loss": noise(n), "seen": 4096 * n}, {"seconds": n / 7}))
            events.append(Event("sources", n, {**every, "seen": 4096 * n}))
            events.append(Event("auxiliary", n, {"shares": dict.fromkeys(heads, 0.1), "seen": 4096 * n}))
            events.append(Event("sample", n, {"prompt": "once", "text": "word " * 5000}))
    page = page_of(tmp_path / "run", events)
    assert len(page.html.encode()) < SIZE
