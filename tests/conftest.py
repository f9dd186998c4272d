"""What tests share: a cache and a text of their own, a tiny preset, and two ways to run the command line."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

for library in ("OMP", "MKL"):  # read when torch is first imported; tiny models gain nothing from more threads
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell ignores it for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and so would every process that a test starts
# Nothing measured, and one thread, since the server forks.
PLAIN = {"device": "cpu", "precision": "float32", "threads": 1, "accumulation": 1, "compile": False}
SERVER = Path(__file__).with_name("fork_server.py")
WORDS = ["the", "a", "sun", "moon", "river", "stone", "lamp", "walks", "sings", "waits", "over", "quiet", "old", "or"]


def pytest_collection_finish() -> None:
    """Takes the million objects of libraries and collected tests, which stay, out of what is searched for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of prepared data, for these tests only."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("NANOGROVE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def undurable() -> Iterator[None]:
    """Nothing waits for a disk: a kill loses nothing that the system holds, only a power cut does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 20 KB of made-up sentences, with letters beyond ASCII."""
    rng = random.Random(0)
    lines: list[str] = []
    while sum(map(len, lines)) < 20_000:
        line = " ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 12))).capitalize()
        lines.append(f"{line}{rng.choice(['.', '.', '?', ' — é!'])}\n")
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


Tiny = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def tiny(text_file: Path) -> Tiny:
    """Makes the preset of a run of a tenth of a second; sections given as keywords are merged into it."""

    def make(**sections: Any) -> dict[str, Any]:
        preset: dict[str, Any] = {
            "name": "tiny",
            "data": {"sources": str(text_file), "tokenizer": "char"},
            "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.1},
            "train": {"steps": 30, "batch_size": 4, **PLAIN},
            "evaluate": {"every": 5, "tokens": 200},
            "sample": {"every": 8, "tokens": 12},
            "save": {"every": 4},
        }
        for name, section in sections.items():
            both = isinstance(section, dict) and isinstance(preset.get(name), dict)
            preset[name] = {**preset[name], **section} if both else section
        return preset

    return make


@dataclass
class Outcome:
    """How a command ended: its exit code, or minus the signal that ended it, what it said, and its seconds on a CPU."""

    code: int
    out: str
    err: str
    cpu: float = 0.0

    def error(self) -> str:
        """The one line of an error, checked to be one line and exit code 2."""
        lines = self.err.strip("\n").split("\n")
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        assert self.code == 2, self.code
        return lines[0]


Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Outcome:
        from nanogrove.cli.main import main

        monkeypatch.setattr(sys, "argv", ["nanogrove", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        err = said.err + (code + "\n" if isinstance(code, str) else "")
        return Outcome(code if isinstance(code, int) else int(code is not None), said.out, err)

    return run


class Forked:
    """Runs the command line in processes of its own that begin after the imports; see `fork_server.py`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: object, **request: Any) -> Outcome:
        """Runs a command to its end."""
        return self._outcome(self._answer({"argv": list(map(str, arguments)), "cwd": str(self.folder), **request}))

    def ranks(self, *commands: list[object], folders: list[Path] | None = None, **request: Any) -> list[Outcome]:
        """Runs commands to their end as ranks of one run, each in its folder."""
        places = folders or [self.folder] * len(commands)
        requests = [
            {"argv": list(map(str, command)), "cwd": str(place), **request}
            for command, place in zip(commands, places, strict=True)
        ]
        return [self._outcome(answer) for answer in self._answer({"ranks": requests})]

    def _answer(self, request: dict[str, Any]) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request, default=str) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def _outcome(self, answer: dict[str, Any]) -> Outcome:
        return Outcome(answer["status"], answer["out"], answer["err"], answer["cpu"])

    def close(self) -> None:
        """Ends the server."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(30)
        self.server.stdout.close()


@pytest.fixture(scope="session")
def forked(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """A `Forked` for all tests."""
    server = Forked(tmp_path_factory.mktemp("forked"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def resumes_exactly() -> Callable[[dict[str, Any], Path, list[tuple[str, int]]], list[dict[str, Any]]]:
    """Checks that a preset's run, cut after the n-th event of a kind and resumed, ends as if left alone; its record.

    What was not saved by then is lost, as by a kill. Record, weights, moments, and what the method keeps must agree.
    One run is cut at all `step` events in turn, which it reaches whatever was saved; the others each have a run.
    """

    def check(preset: dict[str, Any], folder: Path, stops: list[tuple[str, int]]) -> list[dict[str, Any]]:
        from nanogrove.config.overrides import resolve
        from nanogrove.runs.train import train

        for _ in train(resolve(preset), folder / "whole"):
            pass
        left = record, _ = _left(folder / "whole")
        steps = sorted(stop for stop in stops if stop[0] == "step")
        for chain in [*([steps] if steps else []), *([stop] for stop in stops if stop[0] != "step")]:
            out = folder / "-".join(map(str, chain[0]))
            for kind, number in chain:
                *before, place = [(line["kind"], line["step"]) for line in record if line["kind"] == kind][:number]
                missing = before.count(place) + 1
                for event in train(resolve(preset), out, resume=True):
                    missing -= (event.kind, event.step) == place
                    if not missing:
                        break
                assert not missing, (kind, number)
            for _ in train(resolve(preset), out, resume=True):
                pass
            assert _left(out) == left, chain
        return record

    return check


def _left(run: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What a run left: its record less the clock, and all tensors of its newest, its best and its student state."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    folders = [run / "checkpoints" / name for name in ("current", "best", "student")]
    tensors = {str(path.relative_to(run)): path.read_bytes() for at in folders for path in at.glob("*.safetensors")}
    return [{key: value for key, value in line.items() if key != "time"} for line in lines], tensors
