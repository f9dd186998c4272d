"""A report that holds its model: whole in itself, its size said first, what is in it text, the same in Chromium."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.chromium import Chromium, chromium
from tests.conftest import Command
from tests.reports.conftest import HOSTILE, Page

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.exports import model_report
from nanogrove.record.events import Event
from nanogrove.reports import page as pages
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import read_checkpoint

ASKED = {"tokens": 200, "temperature": 0, "seed": 0, "top-k": 0, "top-p": 1}


@pytest.fixture
def tools() -> Chromium:
    return chromium()


@pytest.fixture
def _short_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "packed_plotly", lambda: ("cGFja2Vk", "sha256-digest"))


@pytest.mark.usefixtures("_short_plotly")
def test_one_command_writes_one_page_and_says_its_size_first(llama_run: Path, command: Command) -> None:
    done = command("report", llama_run, "--with-model", "--weights", "int8")
    assert done.code == 0, done.err
    path = llama_run / "report-with-model.html"
    size, place = done.out.splitlines()
    assert place == str(path)
    assert re.fullmatch(r"a page of about 2\.\d MB: [\d,]+ parameters, a context of 64 tokens, in int8", size)
    shown = float(size.split()[4]) * 1e6
    assert abs(path.stat().st_size + model_report.REPORT_MB * 1e6 - shown) < 150_000, "plotly is left out here"
    page = Page(path)
    [policy] = [dict(attrs)["content"] for _, attrs in page.tags if ("http-equiv", "Content-Security-Policy") in attrs]
    scripts = [code for kind, code in page.scripts if kind is None]
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    admitted = " ".join(f"'sha256-{digest}'" for digest in ("digest", *hashes))
    assert policy == (
        f"default-src 'none'; script-src {admitted}; worker-src blob:; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    [model] = [code for kind, code in page.scripts if kind == "application/json" and code.startswith('{"config"')]
    assert json.loads(model)["tensors"]["embed.weight"]["kind"] == "int8"
    fetching = {"src", "href", "srcset", "action", "background"}
    assert not [(tag, attrs) for tag, attrs in page.tags if fetching & {name for name, _ in attrs}]


@pytest.mark.usefixtures("_short_plotly")
def test_python_writes_the_same_page(llama_run: Path, command: Command) -> None:
    assert command("report", llama_run, "--with-model", "--weights", "float16").code == 0
    page = llama_run / "report-with-model.html"
    by_command = page.read_bytes()
    page.unlink()
    assert nanogrove.report(llama_run, with_model="float16") == page
    assert page.read_bytes() == by_command
    with pytest.raises(PresetError, match="no such format; formats are float32, float16, int8"):
        nanogrove.report(llama_run, with_model="int4")  # type: ignore[arg-type]


@pytest.mark.usefixtures("_short_plotly")
def test_a_page_says_that_its_grammar_is_left_out(llama_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(llama_run, run)
    preset = json.loads((run / "preset.json").read_text())
    (run / "preset.json").write_text(json.dumps(preset | {"data": {"type": "rlm", "v": 129}}))
    lines: list[str] = []
    page = Page(model_report.write_model_report(run, "int8", False, lines.append))
    assert lines[1] == model_report.NO_GRAMMAR
    assert "Its grammar is too large for a page" in page.text


@pytest.mark.usefixtures("_short_plotly")
def test_what_a_run_says_is_text(llama_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "x<script>alert(1)<"
    shutil.copytree(llama_run, run)
    hostile = "\n".join(text.replace("\x00", "") for text in HOSTILE)
    with (run / "events.jsonl").open("ab") as record:
        event = Event("sample", 12, {"prompt": f"\n{hostile}", "text": hostile})
        record.write(event.line().encode("utf-8", "surrogatepass"))
    page = Page(model_report.write_model_report(run, "int8", False, lambda line: None))
    assert len([kind for kind, _ in page.scripts if kind is None]) == 2
    assert not {"img", "svg", "a"} & {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name, _ in attrs if name.startswith("on")]
    assert '<textarea id="writer-prompt" spellcheck="false" autocomplete="off">\n\n&lt;/script&gt;' in page.html


@pytest.mark.usefixtures("_short_plotly")
def test_a_run_of_self_improvement_has_its_voters(
    llama_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(llama_run, run)
    preset = json.loads((run / "preset.json").read_text())
    (run / "preset.json").write_text(json.dumps(preset | {"method": {"name": "self_improve"}}))
    one = read_checkpoint(run)
    pair = {name: torch.stack([weight, weight + 1]) for name, weight in one.model.items()}
    lines: list[str] = []
    monkeypatch.setattr(model_report, "load_latest", lambda root: (replace(one, model=pair), []))
    page = Page(model_report.write_model_report(run, "float32", False, lines.append))
    [model] = [code for kind, code in page.scripts if kind == "application/json" and code.startswith('{"config"')]
    first, second = (voter["norm.weight"]["data"] for voter in json.loads(model)["voters"])
    assert first == json.loads(model)["tensors"]["norm.weight"]["data"]
    assert second != first
    assert "a committee of 2 such voters" in lines[0]
    assert "Votes of the committee" in page.text
    monkeypatch.setattr(model_report, "load_latest", lambda root: (one, []))
    assert "Votes" not in Page(model_report.write_model_report(run, "float32", False, lines.append)).text
    del pair["norm.weight"]
    monkeypatch.setattr(model_report, "load_latest", lambda root: (replace(one, model=pair), []))
    with pytest.raises(CheckpointError, match="its voters are not models as the best one is; train anew"):
        model_report.write_model_report(run, "float32", False, lines.append)


def test_a_large_page_is_asked_for(llama_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_report, "MB_UNASKED", 2.01)
    monkeypatch.setattr(pages, "packed_plotly", lambda: ("cGFja2Vk", "sha256-digest"))
    line = command("report", llama_run, "--with-model").error()
    assert re.fullmatch(
        r"error: --with-model: the page would have 2\.\d MB in float32; add --yes to write it or --weights float16 for "
        r"2\.\d MB or --weights int8 for 2\.\d MB",
        line,
    ), line
    assert command("report", llama_run, "--with-model", "--yes").code == 0
    monkeypatch.setattr(model_report, "MOST_MB", 0.01)
    line = command("report", llama_run, "--with-model", "--yes").error()
    assert line.endswith("take the model elsewhere with `nanogrove export`")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--weights", "int8"], "--weights goes with --with-model"),
        (["--yes"], "--yes goes with --with-model"),
        (["--with-model", "--weights", "int4"], "--weights int4: no such format; formats are float32, float16, int8"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    llama_run: Path, command: Command, options: list[str], reason: str
) -> None:
    assert reason in command("report", llama_run, *options).error()


def drive(tools: Chromium, page: Path, **asked: Any) -> dict[str, Any]:
    """What `page.mjs` gives for a page."""
    command = ["node", str(Path(__file__).with_name("page.mjs")), str(tools.modules), tools.path]
    done = subprocess.run(
        command, input=json.dumps({"page": str(page), **asked}), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.browser
def test_chromium_writes_the_text_of_generate_past_the_context(tools: Chromium, llama_run: Path) -> None:
    page = model_report.write_model_report(llama_run, "float32", False, lambda line: None)
    answer = drive(tools, page, prompt="The moon é", settings=ASKED, policy=True)
    assert answer["problems"] == []
    assert answer["text"] == nanogrove.load(llama_run).generate("The moon é", 200, temperature=0, precision="float32")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "nanochat", "qwen3"])
def test_chromium_draws_the_text_of_generate(tools: Chromium, family: str, tiny: Any, tmp_path: Path) -> None:
    model = {"family": family, "block_size": 64, "dropout": 0.0}
    if family == "qwen3":
        model |= {"family": "llama", "qk_norm": True, "n_kv_head": 1}
    run = tmp_path / "run"
    for _ in train(resolve(tiny(model=model, train={"steps": 40}, data={"tokenizer": "bpe", "vocab_size": 300})), run):
        pass
    page = model_report.write_model_report(run, "float32", False, lambda line: None)
    lm = nanogrove.load(run)
    prompt = "The sun walks <b>over</b> & é"
    answer = drive(tools, page, prompt=prompt, settings=ASKED, policy=True)
    assert answer["problems"] == []
    assert answer["text"] == lm.generate(prompt, 200, temperature=0, precision="float32")
    settings = {**ASKED, "temperature": 1, "seed": 7, "top-k": 30, "top-p": 0.9}
    drawn = drive(tools, page, prompt=prompt, settings=settings)
    assert drawn["text"] == lm.generate(prompt, 200, temperature=1, seed=7, top_k=30, top_p=0.9, precision="float32")


@pytest.mark.slow
def test_the_page_is_accessible_in_light_in_dark_and_on_a_telephone(tools: Chromium, llama_run: Path) -> None:
    page = model_report.write_model_report(llama_run, "int8", False, lambda line: None)
    for view in ({"scheme": "light"}, {"scheme": "dark"}, {"width": 375}):
        answer = drive(tools, page, prompt="The sun", settings=ASKED, axe=True, **view)
        assert answer["problems"] == [], view
        assert answer["rows"] == answer["tokens"], view
