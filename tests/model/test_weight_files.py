"""Weights in one file or in shards: what is read, and what of a stranger's folder is refused in a line."""

import json
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nanogrove.errors import CheckpointError
from nanogrove.model.weight_files import INDEX, SINGLE, read_weights
from nanogrove.waits import Progress

SHARDS = {
    "model-00001-of-00002.safetensors": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)},
    "model-00002-of-00002.safetensors": {"c": torch.zeros(2, dtype=torch.float16)},
}
FIRST, SECOND = SHARDS
MAP = {tensor: file for file, tensors in SHARDS.items() for tensor in tensors}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards and their index, in a folder beside which a stranger's index may point."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file, tensors in SHARDS.items():
        save_file(tensors, folder / file)
    save_file(SHARDS[SECOND], tmp_path / "outside.safetensors")
    places(folder)
    return folder


def places(folder: Path, **changes: object) -> None:
    """Writes an index that differs so from the right one."""
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 36}, "weight_map": MAP | changes}))


def test_shards_are_read_as_one_file_would_be(folder: Path) -> None:
    expected = {name: tensor for tensors in SHARDS.values() for name, tensor in tensors.items()}
    whole = folder.with_name("whole")
    whole.mkdir()
    save_file(expected, whole / SINGLE)
    for each in (folder, whole):
        tensors = read_weights(each)
        assert tensors.keys() == expected.keys()
        assert all(tensors[name].dtype == tensor.dtype for name, tensor in expected.items())
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_one_file_is_preferred_to_an_index_as_transformers_does(folder: Path) -> None:
    save_file({"a": torch.ones(1)}, folder / SINGLE)
    assert read_weights(folder).keys() == {"a"}


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / SECOND).unlink(), f"/{SECOND} is missing; {INDEX} lists it"),
        (lambda f: (f / INDEX).unlink(), f"{INDEX} is missing"),
        (lambda f: link(f / SECOND), f"/{SECOND} is a symbolic link"),
        (lambda f: link(f / INDEX), f"{INDEX} is a symbolic link"),
        (lambda f: (f / SECOND).write_bytes(b"\x09" * 99), f"/{SECOND}: cannot be read"),
        (lambda f: (f / SECOND).write_bytes(pickle.dumps({"c": 1})), f"/{SECOND}: cannot be read"),
        (lambda f: save_file(SHARDS[FIRST], f / SECOND), f"/{SECOND} lacks 'c', unlike {INDEX}"),
        (lambda f: places(f, d=SECOND), f"/{SECOND} lacks 'd', unlike {INDEX}"),
        (lambda f: places(f, b=SECOND), f"/{FIRST} has 'b', unlike {INDEX}"),
        (lambda f: places(f, **{"x\ny": SECOND}), f"/{SECOND} lacks 'x\\ny', unlike {INDEX}"),
        (lambda f: (f / INDEX).write_text("{"), f"{INDEX}: cannot be read"),
        (lambda f: (f / INDEX).write_text("[" * 100_000), f"{INDEX}: cannot be read"),
        (lambda f: (f / INDEX).write_text("[]"), f"{INDEX}: has no weight_map"),
        (lambda f: (f / INDEX).write_text('{"weight_map": ["a"]}'), f"{INDEX}: has no weight_map"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {}}'), f"{INDEX}: has no weight_map"),
        (lambda f: (f / FIRST).rename(f / "pytorch_model.bin") and (f / INDEX).unlink(), f"{INDEX} is missing"),
    ],
)
def test_folders_that_are_refused(spoil: Callable[[Path], Any], message: str, folder: Path) -> None:
    spoil(folder)
    refused(folder, message)


@pytest.mark.parametrize(
    "file",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "sub/outside.safetensors",
        "..\\outside.safetensors",
        "C:outside.safetensors",
        "outside.safetensors\n",
        "pytorch_model-00001-of-00002.bin",
        ".safetensors",
        "x" * 300 + ".safetensors",
        ["outside.safetensors"],
        None,
    ],
)
def test_an_index_names_files_of_its_own_folder_only(
    file: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogrove.model.weight_files.safe_open", None)  # nothing is opened
    places(folder, c=file)
    refused(folder, f"{INDEX}: weight_map places 'c' in ")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_weights(folder)
    text = str(caught.value).replace(str(folder), "FOLDER")
    assert message in text
    assert "\n" not in text
    assert len(text) < 300


def test_how_far_the_reading_of_weights_is_can_be_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def recorded(label: str, total: float) -> Any:
        waits.append(Progress(label, total))
        return nullcontext(waits[-1])

    monkeypatch.setattr("nanogrove.model.weight_files.waiting", recorded)
    tensors = read_weights(folder)
    (wait,) = waits
    assert wait.done == sum(tensor.nbytes for tensor in tensors.values())
    assert wait.total is not None
    assert wait.done < wait.total == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
