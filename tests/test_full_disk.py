"""A disk that fills, or a limit that is met, costs at most the work since the last save, and ends in one line."""

import errno
import json
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.prepare import PreparationProcess
from nanogrove.data.tokenizer import byte_tokenizer, character_tokenizer
from nanogrove.errors import CheckpointError, DataError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.checkpoint import load_best, load_checkpoint, load_latest
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.saving import save_checkpoint
from nanogrove.train.state import TrainState


@pytest.fixture(scope="module")
def preset(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a tiny preset."""
    path = tmp_path_factory.mktemp("preset") / "tiny.json"
    path.write_text(json.dumps(tiny()))
    return path


class Undisturbed(NamedTuple):
    """A run that found its text prepared, and the changes of the file system that it made."""

    run: Path
    changes: list[str]


@pytest.fixture(scope="module")
def undisturbed(forked: Any, preset: Path) -> Undisturbed:
    run, changes = preset.with_name("whole"), preset.with_name("changes")
    assert forked("train", preset, "--dry-run").code == 0
    assert forked("train", preset, "--out", run, count=str(changes)).code == 0
    return Undisturbed(run, changes.read_text().splitlines())


def test_a_disk_that_fills_while_saving(forked: Any, preset: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """From within the third save on, no file can grow beyond 1,000 bytes."""
    changes, run = undisturbed.changes, tmp_path / "run"
    begun = [n for n, change in enumerate(changes, 1) if change.startswith("os.mkdir") and ".current" in change]
    ended = forked("train", preset, "--out", run, mishap={"at": begun[2], "kind": "full", "bytes": 1000})
    error = ended.error()
    assert f"{run / 'checkpoints' / 'current'}: could not be saved at step 12 (File too large)" in error
    assert "free some space and continue with --resume" in error
    newest, damaged = load_latest(run / "checkpoints")
    assert newest is not None
    assert (newest.state["step"], damaged) == (8, [])
    assert not list((run / "checkpoints").glob(".*")), "what was half written takes the space that is lacking"
    assert forked("generate", run, "The").code == 0
    assert forked("train", run, "--resume").code == 0
    same = [(folder / "checkpoints/current/model.safetensors").read_bytes() for folder in (run, undisturbed.run)]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        pytest.param(
            *(r"^open.*preset.json\.\w+\.part", "the preset cannot be written (File too large); free some space"),
            marks=pytest.mark.slow,
        ),
        ("^open.*/.best.part/model.safetensors", "could not be saved at step 5 (File too large)"),
        ("rename.*/.current.part", "the record cannot be written (File too large); free some space"),
        pytest.param(r"^open.*report.html\.\w+\.part", "File too large", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_is_full_elsewhere(
    forked: Any, preset: Path, undisturbed: Undisturbed, tmp_path: Path, moment: str, message: str
) -> None:
    changes, run = undisturbed.changes, tmp_path / "run"
    at = next(n for n, change in enumerate(changes, 1) if re.search(moment, change))
    ended = forked("train", preset, "--out", run, mishap={"at": at, "kind": "full", "bytes": 500})
    assert message in ended.error()
    assert forked("train", preset, "--out", run, "--resume").code == 0
    assert (run / "report.html").exists()


def test_a_disk_that_is_full_while_text_is_prepared(forked: Any, preset: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "new.txt").write_text("Nobody has read this before. " * 2000)
    arguments = ("train", preset, "--out", tmp_path / "run", f"data.sources={tmp_path / 'new.txt'}", "train.steps=2")
    whole = set(cache.rglob("*"))
    error = forked(*arguments, mishap={"at": 1, "kind": "full", "bytes": 5000}).error()
    assert "cannot write prepared data (File too large); free some space or set NANOGROVE_CACHE" in error
    left = {path.name for path in set(cache.rglob("*")) - whole if path.is_file()}
    assert {name for name in left if not name.endswith(".lock")} <= {"vocabulary.json"}, "half-prepared data"
    assert forked(*arguments).code == 0


@pytest.mark.slow
def test_a_disk_that_fills_while_text_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the process that writes; what it sealed stays, what it did not is given back."""
    text = "".join(f"line {n} of a long text\n\n" for n in range(200_000))
    (tmp_path / "long.txt").write_text(text)
    sources = [{"type": "text", "path": str(tmp_path / "long.txt"), "separator": "\n\n"}]
    config = DataConfig.model_validate({"sources": sources, "tokenizer": "byte", "split": "document"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, limits[1]))
    try:
        process = PreparationProcess(config, [(0, tmp_path / "folder")], byte_tokenizer())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    process.process.wait(100)
    with pytest.raises(DataError, match=r"cannot write prepared data \(File too large\); free some space"):
        process.check()
    index = json.loads((tmp_path / "folder/index.json").read_text())
    assert index["splits"]["train"]["tokens"] > 1_000_000
    assert (tmp_path / "folder/train-00000.bin").stat().st_size == 2 * index["splits"]["train"]["tokens"]
    assert not index["complete"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_full_in_earnest(forked: Any, preset: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        error = forked("train", preset, "--out", disk / "run").error()
        assert "No space left on device" in error
        assert "free some space" in error
        newest, damaged = load_latest(disk / "run" / "checkpoints")
        assert newest is not None
        assert not damaged
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        assert forked("train", disk / "run", "--resume").code == 0
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def state() -> TrainState:
    """A training state as small as can be."""
    model = GPT(ModelConfig(vocab_size=4, n_layer=1, n_head=1, n_embd=4, block_size=4)).initialize(0)
    return TrainState(model, make_optimizer(model, OptimizerConfig()))


def full(*arguments: Any, **named: Any) -> Any:
    """What every call does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_best_model_that_a_kill_left_aside_outlives_a_save_that_fails(
    state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = character_tokenizer(["abc"])
    save_checkpoint(tmp_path, "best", state, tokenizer, {})
    (tmp_path / "best").rename(tmp_path / ".best.old")  # as a kill between two renames leaves it
    state.step = 1
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save_checkpoint(tmp_path, "best", state, tokenizer, {})
    assert load_best(tmp_path).state["step"] == 0
    save_checkpoint(tmp_path, "best", state, tokenizer, {})
    assert load_best(tmp_path).state["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("call", ["os.fsync", "os.open", "Path.rename", "Path.mkdir"])
def test_each_failing_step_of_a_save_leaves_the_older_ones_whole(
    state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The n-th save fails in its n-th call, until there is no such call."""
    tokenizer, owner, name = character_tokenizer(["abc"]), os if call.startswith("os") else Path, call.split(".")[1]
    real = getattr(owner, name)
    for failing in range(100):
        calls = iter(range(100))

        def refuse(*arguments: Any, calls: Iterator[int] = calls, failing: int = failing, **named: Any) -> Any:
            return (full if next(calls) == failing else real)(*arguments, **named)

        state.step = 2 * failing + 1
        torch.nn.init.constant_(state.model.embed.weight, state.step)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            try:
                save_checkpoint(tmp_path, "current", state, tokenizer, {})
            except CheckpointError as error:
                refused = str(error)
            else:
                break
        assert "No space left on device" in refused
        newest, damaged = load_latest(tmp_path)
        assert not [problem for problem in damaged if not problem.endswith(": missing")]
        if newest is not None:  # the last one that was saved, or the new one when all that failed came after it
            assert newest.state["step"] in (state.step - 1, state.step)
            assert bool((newest.model["embed.weight"] == newest.state["step"]).all())
        assert (newest is None) is (failing == 0 and not (tmp_path / "current").exists())
        state.step = 2 * failing + 2
        torch.nn.init.constant_(state.model.embed.weight, state.step)
        save_checkpoint(tmp_path, "current", state, tokenizer, {})
    assert failing > 0, f"{call} was never called"
    assert load_checkpoint(tmp_path / "current").state["step"] == 2 * failing + 1
    assert load_checkpoint(tmp_path / "prev").state["step"] == 2 * failing
