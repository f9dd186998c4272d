"""`explore` recognises conversations by their rows, and proposes to learn what the assistant says."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanogrove.config.overrides import resolve
from nanogrove.corpora import make_corpus
from nanogrove.explore.findings import explore
from nanogrove.explore.proposal import propose


def openai(number: int) -> dict[str, Any]:
    user, assistant = {"role": "user", "content": f"Ask {number}"}, {"role": "assistant", "content": "So be it. " * 3}
    return {"id": number, "messages": [user, assistant, user, assistant]}


def sharegpt(number: int) -> dict[str, Any]:
    human, gpt = {"from": "human", "value": f"Ask {number}"}, {"from": "gpt", "value": "So be it. " * 3}
    return {"conversations": [human, gpt]}


def alpaca(number: int) -> dict[str, Any]:
    return {"instruction": f"Ask {number}", "input": "" if number % 2 else "of this", "output": "So be it. " * 3}


@pytest.mark.parametrize("row", [openai, sharegpt, alpaca])
def test_rows_of_conversations(row: Any, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(60)), encoding="utf-8")
    findings = explore(str(path))
    assert (findings.question or "").startswith("Ask 0")
    assert any("data.type=chat" in note for note in findings.notes)
    proposal = propose(findings)
    assert proposal is not None
    preset = resolve(proposal.values)
    assert preset.data.type == "chat"
    assert preset.sample.prompts == [findings.question]
    corpus = make_corpus(preset.data, preset.model.block_size, 4, 0)
    assert corpus.left_out() == ({}, {})
    assert corpus.describe()["cut_rows"] == 0
    (tmp_path / "more.jsonl").write_bytes(path.read_bytes())
    several = explore(str(tmp_path))
    assert several.question is None
    assert any("in one file, data.type=chat" in note for note in several.notes)


@pytest.mark.parametrize(("prompt", "settings"), [(True, ""), (False, " data.prompt=null")])
def test_pairs_of_conversations_are_named_with_all_that_training_needs(
    prompt: bool, settings: str, tmp_path: Path
) -> None:
    rows = []
    for number in range(30):
        asked = [{"role": "user", "content": f"Ask {number}"}]
        sides = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
        rows.append({"prompt": asked, **sides} if prompt else {name: asked + side for name, side in sides.items()})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = f"nanogrove train dpo data.path=FILE{settings} data.template=plain"
    assert any(command in note for note in explore(str(tmp_path / "pairs.jsonl")).notes)


def test_rows_of_which_few_are_conversations_are_a_table(tmp_path: Path) -> None:
    rows = [openai(n) if n % 3 == 0 else {"id": n, "text": "a text of some words, and of more"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert explore(str(tmp_path / "rows.jsonl")).question is None
