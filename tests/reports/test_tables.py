"""Tables: every cell is text, and nothing is shown where there is nothing."""

import pytest
from tests.reports.conftest import HOSTILE

from nanogrove.reports.tables import cut, fact_tables, key_figures, wide_table


@pytest.mark.parametrize("text", HOSTILE)
def test_every_cell_is_text(text: str) -> None:
    facts = fact_tables({text: {text: [text, {text: text}]}})
    for html in (key_figures([(text, text, text)]), wide_table(text, [text], [[text]]), facts):
        assert text not in html or not set(text) & set('<>&"')
        tags = html.split("<")[1:]
        assert {tag.partition(">")[0].partition(" ")[0].strip("/") for tag in tags} <= {
            *("dl", "div", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "caption")
        }


def test_a_wide_table_can_be_reached_and_scrolled_by_keys() -> None:
    html = wide_table("arms", ["arm"], [["a"]])
    assert html.startswith('<div class="wide" role="region" tabindex="0" aria-label="arms"><table>')
    assert "<td><div>a</div></td>" in html


def test_what_holds_nothing_is_not_shown() -> None:
    assert key_figures([]) == ""
    assert wide_table("arms", ["arm"], []) == ""
    assert fact_tables({"a": None, "b": {}, "c": [1]}) == ""


def test_a_long_text_is_cut() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcdef", 3) == "abc … (3 more characters)"
