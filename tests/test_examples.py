"""The examples in the docstrings of public names show what happens, on one tiny run."""

import doctest
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiny

import nanogrove

EXAMPLES = {
    test.name: test
    for name in nanogrove.__all__
    for test in doctest.DocTestFinder(exclude_empty=True).find(
        getattr(nanogrove, name), name, module=False, globs={"nanogrove": nanogrove}
    )
    if test.examples
}
SHOWN = {*nanogrove.__all__, "LanguageModel.generate", "LanguageModel.chat", "LanguageModel.stream"} - {"LanguageModel"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """Where the examples stand: a text, my.txt, and a finished run, runs/mine."""
    folder = tmp_path_factory.mktemp("examples")
    text = folder / "my.txt"
    text.write_text("Once upon a time there was One prompt, or several. " * 100)
    preset: dict[str, Any] = tiny(data={"sources": str(text)}, model={"family": "llama"}, train={"steps": 5})
    nanogrove.run(preset, folder / "runs" / "mine")
    return folder


def test_every_public_name_has_an_example() -> None:
    assert set(EXAMPLES) == SHOWN


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "compare")) for name in sorted(EXAMPLES)]
)
def test_the_example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines: list[str] = []
    result = doctest.DocTestRunner().run(EXAMPLES[name], out=lines.append, clear_globs=False)
    assert result.failed == 0, "".join(lines)
    assert result.attempted
