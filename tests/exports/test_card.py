"""A model card says what is known, and nothing that a stranger wrote into a name does anything in it."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

import nanogrove
from nanogrove.exports.card import plain
from nanogrove.exports.source import read_source


def test_it_says_how_good_the_model_is_and_how_it_came_about(llama_run: Path, tmp_path: Path) -> None:
    nanogrove.export(llama_run, "transformers", tmp_path / "out", license="cc-by-4.0")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    head, text = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"
    assert yaml.safe_load(head)["library_name"] == "transformers"
    events = [json.loads(line) for line in (llama_run / "events.jsonl").read_text("utf-8").splitlines()]
    parameters, loss = events[0]["parameters"], events[-1]["loss"]
    for needle in (f"{parameters:,} parameters", f"| validation loss | {loss:.4f} |", "| source | text.txt |"):
        assert needle in text
    for needle in ("| method | pretrain |", "| steps | 12 |", "| tokens | 3.07 k |", "cc-by-4.0, as who exported"):
        assert needle in text
    assert str(llama_run.parent) not in text, "folders of who trained it are not told"


def test_a_checkpoint_and_a_folder_for_transformers_say_what_they_know(llama_run: Path, tmp_path: Path) -> None:
    nanogrove.export(llama_run / "checkpoints" / "current", "transformers", tmp_path / "a")
    nanogrove.export(tmp_path / "a", "transformers", tmp_path / "b")
    cards = [(tmp_path / name / "README.md").read_text("utf-8") for name in "ab"]
    assert "| steps | 12 |" in cards[0]
    assert "says nothing of its training" in cards[1]
    assert all('license: "unknown"' in card and "Nobody has said yet" in card for card in cards)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "![x](https://example.org/x.png)",
        "[x](javascript:y)",
        "a | b\n---\n# c",
        "www.example.org or a@example.org or https://example.org",
        "`rm` **b** _c_ ~~d~~ $e$ \u202e",
    ],
)
def test_text_of_a_stranger_is_shown_and_does_nothing(text: str) -> None:
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"| a |\n| --- |\n| {plain(text)} |")
    cell = page.partition("<td>")[2].partition("</td>")[0]
    assert page.count("<") == 14, "a table of one cell, and no other tag"
    assert html.unescape(cell) == " ".join(text.replace("\u202e", " ").split())
    assert not re.search(r"www\.|https?:|\w@", plain(text)), "these become links unasked"


def test_long_names_are_cut_and_names_of_files_are_plain(llama_run: Path, tmp_path: Path) -> None:
    assert len(plain("x" * 10**6)) < 300
    run = tmp_path / "a; rm -rf * \u202e\n<b>"
    shutil.copytree(llama_run, run)
    assert read_source(run).name == "a-rm-rf-b"
    assert read_source(run / "checkpoints" / "best").name == "a-rm-rf-b"


def test_weights_beyond_f16_are_refused(llama_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = read_source(llama_run)
    source.weights["norm.weight"].fill_(70000.0)
    with pytest.raises(nanogrove.NanogroveError, match=r"weight norm\.weight has a number of size 70,000"):
        source.halved()
