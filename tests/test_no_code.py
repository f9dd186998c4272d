"""A model that a stranger made runs no code: not in the place of a file, not beside it, not through a link."""

import ast
import hashlib
import json
import os
import pickle
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogrove
from nanogrove.errors import CheckpointError

SOURCES = Path(nanogrove.__file__).parent
FILES = ("model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json", "state.json")
CHECKPOINTS = ("current", "prev", "prev2", "best")
REFUSALS = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "marshal.load")

seen: list[tuple[str, str]] | None = None  # audit events, while some test wants them; a hook cannot be taken back


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if seen is not None and event in (*REFUSALS, "open", "compile", "exec", "import"):
        code = arguments[0] if arguments else ""
        seen.append((event, str(getattr(code, "co_filename", code))))


sys.addaudithook(_audit)


@pytest.fixture
def audit() -> Iterator[list[tuple[str, str]]]:
    """What the interpreter is asked to open, compile and run from now on."""
    global seen
    platform.processor()  # starts `uname -p`, once in a process: by whichever test is first to ask for it
    seen = events = list[tuple[str, str]]()
    yield events
    seen = None


class Bomb:
    """Something that, unpickled, makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What exists once a bomb has gone off; seen not to, in the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "code of the checkpoint was run"


def as_pickle(bomb: Bomb, path: Path) -> None:
    path.write_bytes(pickle.dumps(bomb))


def as_torch(bomb: Bomb, path: Path) -> None:
    torch.save({"model": bomb}, path)


def test_the_bombs_go_off_where_they_are_unpickled(tmp_path: Path, audit: list[tuple[str, str]]) -> None:
    path = tmp_path / "bomb"
    as_pickle(Bomb(tmp_path / "first"), path)
    pickle.loads(path.read_bytes())
    assert (tmp_path / "first").exists()
    as_torch(Bomb(tmp_path / "second"), path)
    torch.load(path, weights_only=False)
    assert (tmp_path / "second").exists()
    assert any(event == "pickle.find_class" for event, _ in audit)


@pytest.fixture(scope="module")
def finished(forked: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.json").write_text(json.dumps(tiny(train={"steps": 12})))
    assert forked("train", folder / "tiny.json", "--out", folder / "run").code == 0
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def reseal(folder: Path) -> None:
    """Makes the checksums of a checkpoint fit what its files hold now."""
    state = json.loads((folder / "state.json").read_text())
    state["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in state["files"]}
    del state["checksum"]
    state["checksum"] = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps(state))


def refused(command: Any, run: Path, model: Path, message: str) -> None:
    """Sees that no door lets a run in: from Python, by its verbs, and to go on with it."""
    with pytest.raises(CheckpointError, match=message) as error:
        nanogrove.load(model)
    assert "\n" not in str(error.value)
    assert message in command("generate", model).error()
    assert message in command("train", run, "--resume").error()


@pytest.mark.parametrize("sealed", [False, True], ids=["", "with checksums that fit"])
@pytest.mark.parametrize("bomb", [as_pickle, as_torch])
@pytest.mark.parametrize("file", FILES)
def test_a_pickle_in_the_place_of_a_file(
    command: Any, run: Path, marker: Path, file: str, bomb: Callable[[Bomb, Path], None], sealed: bool
) -> None:
    for name in CHECKPOINTS:
        folder = run / "checkpoints" / name
        if (folder / file).exists():
            bomb(Bomb(marker), folder / file)
            if sealed and file != "state.json":
                reseal(folder)
    message = "damaged" if file == "state.json" or not sealed else "a file in it is not what its name says"
    model = run / "checkpoints" / "current" if file == "optimizer.safetensors" else run
    refused(command, run, model, message)


def test_what_lies_beside_is_neither_opened_nor_run(
    command: Any, run: Path, marker: Path, audit: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import os; os.mkdir({str(marker)!r})"
    stray = []
    for folder in (run, run / "checkpoints", *(run / "checkpoints" / name for name in CHECKPOINTS)):
        for name in ("pytorch_model.bin", "model.pt", "optimizer.pt", "training_args.bin", "config.pkl"):
            as_pickle(Bomb(marker), folder / name)
            stray.append(folder / name)
        for name in ("modeling.py", "tokenizer.py", "__init__.py", "conftest.py", "sitecustomize.py", "torch.py"):
            (folder / name).write_text(code)
            stray.append(folder / name)
    monkeypatch.chdir(run / "checkpoints" / "best")
    audit.clear()
    assert isinstance(nanogrove.load(run).generate("The", tokens=3), str)
    assert command("generate", ".", "The", "--tokens=3").code == 0
    assert command("train", run, "--resume").code == 0
    assert command("evaluate", run).code == 0
    assert audit
    names = {str(path) for path in stray} | {path.name for path in stray}
    assert not [event for event in audit if event[1] in names]
    assert not [event for event in audit if event[0] in REFUSALS]
    assert not [event for event in audit if event[0] in ("compile", "exec") and str(run) in event[1]]


def test_a_configuration_that_names_code(command: Any, run: Path, marker: Path) -> None:
    for name in CHECKPOINTS:
        folder = run / "checkpoints" / name
        config = json.loads((folder / "config.json").read_text())
        config |= {"auto_map": {"AutoModel": "modeling.Model"}, "trust_remote_code": True}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "modeling.py").write_text(f"import os; os.mkdir({str(marker)!r})")
        reseal(folder)
    refused(command, run, run, "a file in it is not what its name says")


@pytest.mark.parametrize("file", FILES)
def test_a_link_in_the_place_of_a_file(command: Any, run: Path, tmp_path: Path, file: str) -> None:
    for name in CHECKPOINTS:
        path = run / "checkpoints" / name / file
        if path.exists():
            path.rename(tmp_path / f"{name}-{file}")
            path.symlink_to(tmp_path / f"{name}-{file}")
    model = run / "checkpoints" / "current" if file == "optimizer.safetensors" else run
    refused(command, run, model, "is a link")


@pytest.mark.parametrize("file", FILES)
def test_something_that_is_no_file_in_the_place_of_one(command: Any, run: Path, file: str) -> None:
    """Opening a pipe would wait for ever."""
    for name in CHECKPOINTS:
        path = run / "checkpoints" / name / file
        if path.exists():
            path.unlink()
            os.mkfifo(path)
    model = run / "checkpoints" / "current" if file == "optimizer.safetensors" else run
    refused(command, run, model, "no file")


def test_links_in_the_place_of_checkpoints(command: Any, run: Path, tmp_path: Path) -> None:
    for name in CHECKPOINTS:
        path = run / "checkpoints" / name
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)
    refused(command, run, run, "is a link")
    refused(command, run, run / "checkpoints" / "current", "is a link")


def test_a_link_in_the_place_of_all_checkpoints(command: Any, run: Path, tmp_path: Path) -> None:
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    before = {path: path.read_bytes() for path in (tmp_path / "elsewhere").rglob("*.*")}
    with pytest.raises(CheckpointError, match="give a folder such as"):
        nanogrove.load(run)
    assert "is a link" in command("train", run, "--resume").error()
    assert {path: path.read_bytes() for path in (tmp_path / "elsewhere").rglob("*.*")} == before


@pytest.mark.parametrize("file", ["events.jsonl", ".lock", "preset.json"])
def test_a_run_that_would_be_written_through_a_link(command: Any, run: Path, tmp_path: Path, file: str) -> None:
    """Resuming a stranger's run must not overwrite what its record points to."""
    precious = tmp_path / "precious"
    shutil.copy(run / file, precious)
    (run / file).unlink()
    (run / file).symlink_to(precious)
    before = precious.read_bytes()
    assert f"{run / file}: is a link" in command("train", run, "--resume").error()
    assert precious.read_bytes() == before


MODULES = sorted(SOURCES.rglob("*.py"))
DANGEROUS_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code", "runpy", "imp"}
DANGEROUS_NAMES = {"eval", "exec", "compile", "__import__"}
DANGEROUS_ATTRIBUTES = {"torch.load", "torch.jit.load", "np.load", "numpy.load", "os.system"}
DANGEROUS_SETTINGS = {"trust_remote_code", "allow_pickle"}


def dangers(tree: ast.AST) -> Iterator[str]:
    """Every construct of a module through which data could become code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"import {name}" for name in names if name.partition(".")[0] in DANGEROUS_MODULES)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in DANGEROUS_NAMES:
            yield node.id
        if isinstance(node, ast.Attribute) and ast.unparse(node) in DANGEROUS_ATTRIBUTES:
            yield ast.unparse(node)
        if isinstance(node, ast.keyword) and node.arg in DANGEROUS_SETTINGS:
            yield node.arg
        if isinstance(node, ast.Constant) and node.value in DANGEROUS_SETTINGS:
            yield str(node.value)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCES)))
def test_the_sources_have_no_way_to_run_data(path: Path) -> None:
    assert list(dangers(ast.parse(path.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "from dill.source import x",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "settings['trust_remote_code'] = True",
        "np.load(path, allow_pickle=True)",
        "__import__(name)",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert list(dangers(ast.parse(line)))
    assert not list(
        dangers(ast.parse("model.eval()\nre.compile(x)\ntorch.compile(model)\nsafetensors.torch.load(data)"))
    )
