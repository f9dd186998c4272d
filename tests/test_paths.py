"""Paths in settings become absolute where they are there; a run goes on from another folder."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from nanogrove.config.overrides import resolve
from nanogrove.paths import LocalPath, OnDisk, expanded, short_names, with_absolute_paths
from nanogrove.runs.score import evaluate
from nanogrove.runs.train import train


class Inner(BaseModel):
    path: LocalPath


class Outer(BaseModel):
    inner: Inner
    many: list[Inner]
    tokenizer: Annotated[str | None, OnDisk(("char",))] = None
    text: str = "a.txt"


def test_paths_become_absolute_where_something_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("a.txt", "char", "odd [1].txt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    paths = {
        "a.txt": tmp_path / "a.txt",
        "./logs": tmp_path / "logs",
        "logs/*.txt": tmp_path / "logs/*.txt",
        "*.txt": tmp_path / "*.txt",
        "odd [1].txt": tmp_path / "odd [1].txt",
        "missing.txt": "missing.txt",
        "wikimedia/wikipedia": "wikimedia/wikipedia",
        "~/texts": "~/texts",
        "/etc": "/etc",
    }
    settings = Outer(inner=Inner(path="a.txt"), many=[Inner(path=path) for path in paths], tokenizer="char")
    resolved = with_absolute_paths(settings)
    assert [each.path for each in resolved.many] == [str(path) for path in paths.values()]
    assert resolved.inner.path == str(tmp_path / "a.txt")
    assert (resolved.tokenizer, resolved.text) == ("char", "a.txt")
    assert with_absolute_paths(resolved) is resolved


def test_short_names() -> None:
    assert short_names(["/data/x/a.txt", "/data/b.txt", "python-stdlib"]) == ["x/a.txt", "b.txt", "python-stdlib"]
    assert short_names(["/data/a.txt"]) == ["a.txt"]
    assert short_names(["a/b", "c"]) == ["a/b", "c"]
    assert short_names([]) == []


def test_a_run_goes_on_from_another_folder(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "here/mine.txt").write_text("A text that is read from two folders. " * 200)
    preset = tiny(train={"steps": 8}, sample={"tokens": 0})
    preset["data"] = {"sources": ["mine.txt"], "tokenizer": "char"}
    monkeypatch.chdir(tmp_path / "here")
    for event in train(resolve(preset), Path("run")):
        if (event.kind, event.step) == ("step", 5):
            break
    for _ in train(resolve(preset), Path("run"), resume=True):
        break  # the preset that is given, whose path is relative, is that of the run
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = tmp_path / "here/run"
    *_, last = train(resolve(json.loads((run / "preset.json").read_text())), run, resume=True)
    assert (last.kind, last.step) == ("end", 8)
    assert evaluate(run, "test")["step"] == last.values["best_step"]


def test_a_tilde_of_no_user_is_part_of_a_name() -> None:
    assert expanded("~no-such-user.txt") == Path("~no-such-user.txt")
    assert expanded("~/a.txt") == Path.home() / "a.txt"
