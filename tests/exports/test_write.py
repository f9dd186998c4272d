"""An export is a whole folder or none; what is wrong is said in a line, and nothing that was there is lost."""

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import nanogrove
from nanogrove.errors import CheckpointError
from nanogrove.exports import write
from nanogrove.exports.contract import Format


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_named_by_model_format_and_dtype(command: Any, llama_run: Path, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    assert command("export", llama_run, "--to", "transformers").out == "exported: exports/small-run-transformers-f32\n"
    best = llama_run / "checkpoints" / "best"
    assert command("export", best, "--to", "transformers", "--dtype", "f16").code == 0
    names = {path.name for path in (tmp_path / "exports").iterdir()}
    assert names == {"small-run-transformers-f32", "small-run-transformers-f16"}


REFUSED = {
    "no such format": ("RUN --to ggml2", "--to ggml2: no such format; formats are transformers, gguf, onnx"),
    "no such dtype": (
        "RUN --to transformers --dtype q8_0",
        "--dtype q8_0: transformers stores no such numbers; formats",
    ),
    "a licence that is none": ("RUN --to transformers --license a:b", "--license a:b: not the name of a licence"),
    "no run": ("TMP/nowhere --to transformers", "TMP/nowhere: neither a run nor a checkpoint"),
    "a folder with files": ("RUN --to transformers --out TMP/full", "TMP/full: is not empty; name another"),
    "files of others": ("RUN --to transformers --out TMP/full --overwrite", "TMP/full/notes.txt: is not of such an"),
    "a file": ("RUN --to transformers --out TMP/full/notes.txt", "TMP/full/notes.txt: is not a folder; name another"),
    "a link": ("RUN --to transformers --out TMP/link --overwrite", "TMP/link: is a link; name another folder"),
    "below a file": ("RUN --to transformers --out TMP/full/notes.txt/a", "cannot be written (File exists); move"),
    "no format": ("RUN", "--to is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(command: Any, llama_run: Path, tmp_path: Path, case: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("kept")
    (tmp_path / "link").symlink_to("full")
    words, needle = REFUSED[case]
    before = contents(tmp_path)
    arguments = [word.replace("RUN", str(llama_run)).replace("TMP", str(tmp_path)) for word in words.split()]
    assert needle.replace("TMP", str(tmp_path)) in command("export", *arguments).error()
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"full", "link"}


def test_an_earlier_export_is_replaced_when_asked(llama_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    nanogrove.export(llama_run, "transformers", out, license="mit")
    first = contents(out)
    with pytest.raises(CheckpointError, match="is not empty"):
        nanogrove.export(llama_run, "transformers", out)
    assert contents(out) == first
    nanogrove.export(llama_run, "transformers", out, "f16", overwrite=True)
    assert contents(out).keys() == first.keys()
    assert len(contents(out)["model.safetensors"]) < 0.6 * len(first["model.safetensors"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_said_of_the_folder_that_was_asked_for(
    llama_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("nanogrove.model.huggingface.write_file", full)
    with pytest.raises(CheckpointError) as caught:
        nanogrove.export(llama_run, "transformers", tmp_path / "out")
    problem = f"{tmp_path / 'out'}: cannot be written (No space left on device); free some space"
    assert str(caught.value) == f"{problem} or name another folder with --out"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_the_old_one(
    llama_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    out = tmp_path / "out"
    nanogrove.export(llama_run, "transformers", out)
    before = contents(out)

    def fail(source: Any, dtype: Any, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    failing = Format(title="x", library="x", dtypes=("f32",), write=fail, usage=lambda source, dtype: "")
    monkeypatch.setattr(write, "load_format", lambda name: failing)
    full = isinstance(error, OSError)
    with pytest.raises(CheckpointError if full else KeyboardInterrupt, match="; free some space" if full else None):
        nanogrove.export(llama_run, "transformers", out, overwrite=True)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_sigterm_leaves_nothing_half_written(
    command: Any, llama_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(source: Any, dtype: Any, folder: Path) -> None:
        (folder / "half").write_text("half")
        signal.raise_signal(signal.SIGTERM)

    ending = Format(title="x", library="x", dtypes=("f32",), write=end, usage=lambda source, dtype: "")
    monkeypatch.setattr(write, "load_format", lambda name: ending)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert command("export", llama_run, "--to", "x", "--out", tmp_path / "out").code == 128 + signal.SIGTERM
    finally:
        assert signal.signal(signal.SIGTERM, before) is signal.SIG_IGN
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_line_installs_it(
    command: Any, llama_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = Format(
        title="x", library="x", dtypes=("f32",), write=print, usage=lambda source, dtype: "", packages=("no_such",)
    )
    monkeypatch.setattr(write, "load_format", lambda name: needy)
    error = command("export", llama_run, "--to", "x", "--out", tmp_path / "out").error()
    assert error == "error: --to x: needs no_such; pip install 'nanogrove[export]'"
    assert not (tmp_path / "out").exists()


def test_a_run_with_a_damaged_record_says_how_its_model_is_exported(llama_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(llama_run, tmp_path / "run"))
    (run / "events.jsonl").unlink()
    with pytest.raises(nanogrove.NanogroveError) as caught:
        nanogrove.export(run, "transformers", tmp_path / "out")
    advice = "; to export the model without its history, name "
    assert str(caught.value).partition(advice)[1]
    folder = Path(str(caught.value).rpartition(advice)[2])
    assert nanogrove.export(folder, "transformers", tmp_path / "out").is_dir()
