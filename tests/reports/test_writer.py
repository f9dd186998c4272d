"""The part of a page in which a model writes: its scripts end no element early, and all that a run says is escaped."""

import re
from html.parser import HTMLParser

import pytest
from tests.reports.conftest import HOSTILE

from nanogrove.reports.writer import FOLDER, INPUTS, LEVELS, SCRIPT, WORKER, writer


class Labels(HTMLParser):
    """The ids of fields that lie in a label, and of those that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.labelled: list[str] = []
        self.bare: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag == "label"
        if tag in ("input", "textarea"):
            (self.labelled if self.depth else self.bare).append(str(dict(attrs)["id"]))

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "label"


@pytest.mark.parametrize("code", [SCRIPT, WORKER])
def test_scripts_end_no_element_early_make_no_html_and_ask_for_nothing(code: str) -> None:
    assert not re.findall("</script|<script|<!--|\r", code)
    for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch(", "import"):
        assert word not in code


def test_every_field_has_a_label_and_is_read_by_the_script() -> None:
    labels = Labels()
    labels.feed(writer("about", "prompt", "{}")[0])
    assert labels.bare == []
    assert labels.labelled == [f"writer-{name}" for name in ("prompt", "temperature", *(name for name, *_ in INPUTS))]
    for field in labels.labelled:
        assert f'"{field.removeprefix("writer-")}"' in SCRIPT


def test_colours_have_a_legend() -> None:
    [bounds] = re.findall(r"LEVELS = \[(.*?)\]", SCRIPT)
    assert len(bounds.split(",")) + 1 == len(LEVELS)
    style = (FOLDER / "tokens.css").read_text("utf-8")
    assert style.count(".level-") == len(LEVELS)


def test_what_a_run_says_is_escaped() -> None:
    html, _ = writer(HOSTILE[0], "\n".join(HOSTILE), "{}")
    assert "<script" not in html
    assert "<img" not in html
    assert "</textarea></label>" in html.split("writer-prompt")[1].split("<div")[0], "the prompt ends no field"
