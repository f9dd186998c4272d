"""A vocabulary that is learned in a process of its own is the same, says how far it is, and can be interrupted."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from nanogrove import waits
from nanogrove.data.text import prepare as preparing
from nanogrove.data.text import vocabulary
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.prepare import prepare
from nanogrove.data.text.vocabulary import learn_bpe
from nanogrove.data.tokenizer import bpe_tokenizer
from nanogrove.errors import DataError

TEXTS = ["the cat sat on the mat, the hat's é🙂\n" * 20, "ACGTTGCA" * 200]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The processes that are started, for however little text."""
    monkeypatch.setattr(vocabulary, "OWN_PROCESS_CHARACTERS", 0)
    started: list[subprocess.Popen[str]] = []
    begin = subprocess.Popen

    def started_too(*arguments: Any, **named: Any) -> Any:
        started.append(begin(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", started_too)
    return started


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The shares that each wait says are done, by its label, in order."""
    shares: dict[str, list[float]] = {}

    class Recorded(waits.Progress):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "done":
                shares.setdefault(self.label, []).append(self.share() or 0)

    monkeypatch.setattr(waits, "Progress", Recorded)
    return shares


@pytest.mark.slow
def test_a_process_learns_the_same(processes: list[subprocess.Popen[str]], shares: dict[str, list[float]]) -> None:
    assert learn_bpe(TEXTS, 300).to_json() == bpe_tokenizer(TEXTS, 300).to_json()
    (learned,) = shares.values()
    assert learned == sorted(learned)
    assert learned[-1] == 1
    assert processes[0].poll() is not None
    with pytest.raises(DataError, match="too small: bpe needs 256 bytes"):
        learn_bpe(TEXTS, 200)


def test_a_process_that_learns_is_interrupted(
    processes: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(report: dict[str, Any]) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(vocabulary, "_share", interrupt)
    with pytest.raises(KeyboardInterrupt):
        learn_bpe(TEXTS, 300)
    assert processes[0].returncode is not None


def test_a_process_that_ends_early_is_said(
    processes: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary.sys, "executable", "/bin/false")
    with pytest.raises(DataError, match="the process that learns the vocabulary ended with status 1"):
        learn_bpe(TEXTS, 300)


def test_tokenising_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: dict[str, list[float]]
) -> None:
    monkeypatch.setattr(preparing, "BATCH_CHARACTERS", 5000)
    (tmp_path / "a.txt").write_text("".join(f"line {n} of a text\n\n" for n in range(2000)))
    sources = [{"type": "text", "path": str(tmp_path / "a.txt"), "separator": "\n\n"}]
    prepare(DataConfig.model_validate({"sources": sources, "tokenizer": "char"}))
    for doing in (f"reading the characters of {tmp_path}/a.txt", f"tokenising {tmp_path}/a.txt"):
        assert len(shares[doing]) > 4
        assert shares[doing] == sorted(shares[doing])
        assert 0.8 < shares[doing][-1] <= 1
