"""The README's commands and Python run as they stand, on a short text and for a few steps."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from nanogrove.cli import main as cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SMALL = [
    "train.steps=3",
    "train.device=cpu",
    "train.precision=float32",
    "model.n_layer=1",
    "model.n_embd=16",
    "model.block_size=16",
    "data.vocab_size=300",
    "sample.tokens=5",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_commands_and_the_python_run(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text("Once upon a time there was a very short story. " * 400)
    commands = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    commands = [line for line in commands if line.startswith("nanogrove")]
    assert len(commands) == 4
    for command in commands:
        arguments = shlex.split(command)
        if arguments[1] == "train" and "--resume" not in arguments:
            arguments += SMALL
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, command
    capsys.readouterr()
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert "Once upon" in capsys.readouterr().out


def test_the_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_it_is_one_page() -> None:
    assert len(README.splitlines()) < 70


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (page.parent / link).exists(), link
