"""No run folder and no cache makes nanogrove write, cut or remove anything outside of it, or hang, or show a trace.

`WRITERS` lists every function of the sources that changes files, and how it is attacked here: a test finds them all, so
that a new one cannot be forgotten. In the attacks each name of a run folder is taken by something else, and every verb
is tried.

    pytest -m slow tests/test_hostile_folder.py     every name, form and verb; some minutes on two cores
"""

import ast
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.prepare import prepare
from nanogrove.data.text.shards import DAMAGED
from nanogrove.evaluate.calibration import FILE_NAME
from nanogrove.runs.train import train

SOURCES = Path(nanogrove.__file__).parent
NEW = "a file or folder that the user names, which must be new"
CACHE = "the cache: `test_a_cache_in_which_a_name_is_taken`"
RUN = "a run folder: `test_a_run_folder_in_which_a_name_is_taken`"
STUDY = "the folder of a study: `tests/studies/test_folder.py`"
WRITERS = {
    "atomic.py": "the writer: tests/test_atomic.py",
    "cli/completion.py: _known_settings": "a file of the cache, by the writer alone",
    "cli/conversation.py: _save": NEW,
    "cli/verbs/lineage.py: lineage": NEW,
    "data/text/cache.py: remove_on_error": CACHE,
    "data/text/cache.py: write_lock": CACHE,
    "data/text/shards.py: ShardWriter": CACHE,
    "data/text/shards.py: trim": CACHE,
    "data/text/verified.py: VerifiedTokens": CACHE,
    "data/text/vocabulary.py: tokenizer_of": CACHE,
    "evaluate/calibration.py: save_calibration": RUN,
    "explore/proposal.py: write_preset": NEW,
    "exports/onnx.py: write": NEW,
    "exports/write.py: export": NEW,
    "model/huggingface.py: export_model": NEW,
    "record/folder.py: RunFolder": RUN,
    "record/folder.py: _write": RUN,
    "record/lock.py: FolderLock": f"{RUN}; {STUDY}",
    "record/trackers.py: Trackio": RUN,
    "record/trackers.py: Wandb": RUN,
    "reports/report.py: write_page": RUN,
    "studies/engines/cluster.py: _check_shared": f"{STUDY}, a new file of a name that nobody can know",
    "studies/folder.py: StudyFolder": STUDY,
    "studies/regret/page.py: write_page": "the folder of a study: `tests/studies/test_regret.py`",
    "studies/regret/worlds.py: _write_rows": "the folder of a study: `tests/studies/test_regret.py`",
    "studies/regret/worlds.py: write_grammar": "the folder of a study: `tests/studies/test_regret.py`",
    "studies/report.py: write_report": STUDY,
    "studies/results.py: write_results": STUDY,
    "studies/worker.py: the module": "no file: standard output, which is a pipe",
    "train/saving.py: _place": RUN,
    "train/saving.py: save_checkpoint": RUN,
    "ui/files.py: Files": "files that are dropped on a page: `tests/ui/test_files.py`",
    "ui/index.py: Index": "the index of a folder: `tests/ui/test_index.py`",
    "ui/notes.py: write_notes": "the notes of a run: `tests/ui/test_notes.py`",
    "ui/processes.py: Processes": "the log and folder of a run: `tests/ui/test_processes.py`, `test_new_run.py`",
}
OURS = {"write_file", "file_aside", "place", "write_folder", "make_folder", "remove", "FileIO", "FileLock"}
METHODS = {"mkdir", "rename", "rmdir", "unlink", "write_text", "write_bytes", "touch", "symlink_to", "hardlink_to"}
MODULES = {"os": {"replace", "remove", "truncate", "ftruncate", "makedirs", "link", "symlink"}, "shutil": {"rmtree"}}
HANGS_SECONDS = 60  # what takes longer waits for ever
FORMS = ("link", "link to a folder", "link to nothing", "hard link", "pipe", "folder", "file")


def writes(call: ast.Call) -> bool:
    """Whether a call changes files: one of the writer's, of pathlib's, of os or shutil, or `open` in such a mode."""
    function, name = call.func, ast.unparse(call.func)
    if isinstance(function, ast.Name) and function.id in OURS:
        return True
    if name.endswith("open"):
        modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        return any(isinstance(mode, str) and len(mode) < 4 and set(mode) & set("wax+") for mode in modes)
    if not isinstance(function, ast.Attribute):
        return False
    module = function.value.id if isinstance(function.value, ast.Name) else ""
    return function.attr in METHODS or function.attr in MODULES.get(module, set())


def writers(path: Path) -> Iterator[str]:
    """The functions and classes of a module that change files."""
    for top in ast.parse(path.read_text("utf-8")).body:
        if any(isinstance(node, ast.Call) and writes(node) for node in ast.walk(top)):
            yield top.name if isinstance(top, ast.FunctionDef | ast.ClassDef) else "the module"


def test_every_writer_is_attacked() -> None:
    found = set()
    for path in sorted(SOURCES.rglob("*.py")):
        module = str(path.relative_to(SOURCES))
        found |= {module} if module == "atomic.py" else {f"{module}: {name}" for name in writers(path)}
    assert found == WRITERS.keys(), "a writer must be listed, and attacked as the list says"


def plant(path: Path, form: str, home: Path) -> None:
    """Puts something in the place of a file or a folder of any kind."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "link":
        path.symlink_to(home / "precious")
    elif form == "link to a folder":
        path.symlink_to(home / "folder")
    elif form == "link to nothing":
        path.symlink_to(home / "new")
    elif form == "hard link":
        os.link(home / "precious", path)
    elif form == "pipe":
        os.mkfifo(path)
    elif form == "folder":
        (path / "within").mkdir(parents=True)
    else:
        path.write_bytes(b"\xff no such content \0")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What the user has elsewhere, with the very names that a run has."""
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    names = ("precious", "folder/train-00000.bin", "folder/events.jsonl", "folder/preset.json", "folder/state.json")
    for name in names:
        (home / name).write_bytes(b"{}\n" * 1000)
    return home


def contents(folder: Path) -> dict[str, tuple[bytes, int] | None]:
    """All that is in a folder: files with their content and the time of its last change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(autouse=True)
def without_hanging() -> Iterator[None]:
    """What waits for a pipe is ended."""

    def end(number: int, frame: FrameType | None) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(HANGS_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def stopped(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its step 7, with all the names that a run folder has."""
    preset = tiny(train={"steps": 9}, evaluate={"every": 3, "tokens": 100}, save={"every": 2, "snapshots": True})
    run = tmp_path_factory.mktemp("stopped") / "run"
    for event in train(resolve(preset), run):
        if event.kind == "step" and event.step == 7:
            break
    (run / "trackers" / "wandb").mkdir(parents=True)
    (run / "trackers" / "wandb" / "id.txt").write_text("0" * 12)
    return run


VERBS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "resume": lambda run: ("train", run, "--resume"),
    "report": lambda run: ("report", run),
    "report with its model": lambda run: ("report", run, "--with-model", "--weights=int8"),
    "calibrate": lambda run: ("evaluate", run, "--calibrate"),
    "generate": lambda run: ("generate", run, "The", "--tokens=2"),
    "lineage": lambda run: ("lineage", run),
    "runs": lambda run: ("runs", run),
}
ASIDES = (  # written under names that are made guessable
    *("preset.json", "report.html", "report-with-model.html"),
    f"checkpoints/best/{FILE_NAME}",
)


def names(run: Path) -> list[str]:
    """Every name in a run folder that is ever written, renamed or removed, and those of its folders."""
    known = {str(path.relative_to(run)) for path in run.rglob("*")} | {".lock", "data", "data/labels.jsonl", *ASIDES}
    known |= {f"checkpoints/.{name}.{end}" for name in ("current", "best", "step-8") for end in ("part", "old")}
    known |= {str(Path(name).with_name(f".{Path(name).name}.guessed.part")) for name in ASIDES}
    return sorted(known | {f"{name}.part" for name in ASIDES})


def attack(command: Any, run: Path, home: Path, name: str, form: str, verbs: list[str]) -> None:
    """Tries verbs on a run folder in which something has taken a name."""
    plant(run / name, form, home)
    before = contents(home)
    for verb in verbs:
        signal.alarm(HANGS_SECONDS)
        ended = command(*VERBS[verb](run))
        assert ended.code == 0 or ended.error(), (name, form, verb)
        assert contents(home) == before, (name, form, verb)


@pytest.fixture
def attacked(
    stopped: Path, home: Path, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str, list[str]], None]:
    """Attacks a copy of the run."""
    monkeypatch.setattr("nanogrove.atomic._unguessable", lambda: "guessed")
    monkeypatch.setattr("nanogrove.reports.page.get_plotlyjs", lambda: "")

    def attacked(name: str, form: str, verbs: list[str]) -> None:
        run = shutil.copytree(stopped, tmp_path / "run")
        attack(command, run, home, name, form, verbs)
        shutil.rmtree(run)

    return attacked


def test_a_run_folder_in_which_a_name_is_taken(attacked: Any, stopped: Path) -> None:
    rng = random.Random(0)
    for name in rng.sample(names(stopped), 12):
        attacked(name, rng.choice(FORMS), rng.sample(sorted(VERBS), 1))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_run_folder_in_which_each_name_is_taken(attacked: Any, stopped: Path, form: str) -> None:
    for name in names(stopped):
        attacked(name, form, list(VERBS))


def test_a_run_folder_that_is_a_link(command: Any, stopped: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, home / "theirs")
    (tmp_path / "run").symlink_to(home / "theirs")
    before = contents(home)
    for verb in ("resume", "report", "calibrate"):
        error = command(*VERBS[verb](tmp_path / "run")).error()
        assert f"run: is a link; give the folder that it leads to, {home / 'theirs'}" in error, verb
    assert contents(home) == before


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_in_which_a_name_is_taken(
    tiny: Any, home: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was there, the text is prepared, or refused in one line."""
    monkeypatch.setattr("nanogrove.atomic._unguessable", lambda: "guessed")
    config = DataConfig.model_validate(tiny()["data"])
    cache, prepared = tmp_path / "cache", tmp_path / "prepared"
    monkeypatch.setenv("NANOGROVE_CACHE", str(prepared))
    prepare(config)
    known = {path.relative_to(prepared) for path in prepared.rglob("*")}
    known |= {name.with_name(f".{name.name}.guessed.part") for name in known if name.suffix == ".json"}
    known |= {name.with_name(DAMAGED) for name in known if name.suffix == ".bin"}
    before = contents(home)
    monkeypatch.setenv("NANOGROVE_CACHE", str(cache))
    for name in sorted(known):
        for others in (True, False):  # all prepared but that, and nothing
            if others:
                shutil.copytree(prepared, cache)
            plant(cache / name, form, home)
            with suppress(nanogrove.NanogroveError):
                prepare(config)
            assert contents(home) == before, (name, others)
            shutil.rmtree(cache)
