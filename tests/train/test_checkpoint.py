"""A checkpoint of a stranger, whose checksums are right, is checked before a model is built from it."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from nanogrove.config.overrides import resolve
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.errors import CheckpointError
from nanogrove.language_model import load
from nanogrove.runs.setup import build
from nanogrove.train.checkpoint import checksum_of, heads_of, load_checkpoint, model_of
from nanogrove.train.saving import save_checkpoint

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def healthy(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a head, of no step."""
    setup = build(resolve(tiny(auxiliary={"enable_value": True})))
    root = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(root, "current", setup.new_state(), character_tokenizer(["abc"]), {"position": 0, "best": None})
    return root / "current"


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(healthy, tmp_path / "current")


def sealed(folder: Path, **state: Any) -> Path:
    """The checkpoint with these entries in its state, and right checksums."""
    record = json.loads((folder / "state.json").read_bytes()) | state
    record["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in record["files"]}
    record["checksum"] = checksum_of(record)
    (folder / "state.json").write_text(json.dumps(record))
    return folder


def with_tensors(folder: Path, **tensors: Tensor) -> Path:
    """The checkpoint with other weights of the model."""
    path = folder / "model.safetensors"
    weights = safetensors.torch.load(path.read_bytes()) | {name.replace("__", "."): t for name, t in tensors.items()}
    path.write_bytes(safetensors.torch.save(weights))
    return sealed(folder)


def with_config(folder: Path, **settings: Any) -> Path:
    """The checkpoint with other settings of its model."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return sealed(folder)


CHANGES: dict[str, tuple[Change, str]] = {
    "a step below 0": (lambda f: sealed(f, step=-1), "state.json: damaged, step must be 0 or more, and -1 was given"),
    "a step of text": (lambda f: sealed(f, step="5"), "state.json: damaged, step must be a whole number"),
    "notes that are a list": (lambda f: sealed(f, notes=[1]), "state.json: damaged, notes must be a JSON object"),
    "a best of no step": (lambda f: sealed(f, best={"score": 1}), "state.json: damaged, best.step is missing"),
    "a width no machine has": (lambda f: with_config(f, n_embd=10**9), "config.json: n_embd must be 1000000 or less"),
    "a million layers": (lambda f: with_config(f, n_layer=10**6), "config.json: n_layer must be 2000 or less"),
    "a wider model": (lambda f: with_config(f, n_embd=10**6), "the configuration asks for"),
    "more layers": (lambda f: with_config(f, n_layer=2000), "weight blocks.10.attention.out.bias is missing"),
    "documents without a mark": (lambda f: with_config(f, within_documents=True), "document_mark is not"),
    "coupled positions of no tokens": (lambda f: with_config(f, position="coupled"), "coupled_tokens are not set"),
    "coupled positions outside of the vocabulary": (
        lambda f: with_config(f, position="coupled", coupled_tokens=[10**9]),
        "name a token outside of the",
    ),
    "another setting": (lambda f: with_config(f, auto_map={}), "config.json: auto_map is no setting of a model"),
    "whole numbers": (lambda f: with_tensors(f, norm__bias=torch.zeros(16, dtype=torch.int64)), "bias holds int64"),
    "a weight more": (lambda f: with_tensors(f, more=torch.zeros(1)), "weight more is (1,), and the configuration"),
    "a scalar": (lambda f: with_tensors(f, embed__weight=torch.zeros(())), "weight embed.weight is ()"),
    "no member": (lambda f: with_tensors(f, embed__weight=torch.zeros(0, 5, 16)), "weight blocks.0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_refused_before_a_model_is_built(folder: Path, change: str) -> None:
    spoil, message = CHANGES[change]
    spoil(folder)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_would_take_all_memory_are_not_read(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1 << 42)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: takes 4\.4 TB, and it may take .* at most"):
        load_checkpoint(folder)
    os.truncate(folder / "state.json", 1 << 30)
    with pytest.raises(CheckpointError, match=r"state\.json: takes 1\.1 GB, and it may take 16\.0 MB at most"):
        load_checkpoint(folder)


def test_a_header_that_is_too_long_is_not_read(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((10**8).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=r"its header takes 100 MB, and 16\.0 MB is the most"):
        load_checkpoint(sealed(folder))


def test_heads_are_checked_before_they_are_built(folder: Path) -> None:
    checkpoint = load_checkpoint(sealed(folder, auxiliary={"enable_value": True, "inner_size": 1_000_000}))
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: weight .* and the configuration asks for"):
        heads_of(checkpoint)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_model_of_weights_that_are_not_finite_is_refused(folder: Path, number: float) -> None:
    with_tensors(folder, norm__weight=torch.full((16,), number))
    for use in (load, lambda path: model_of(load_checkpoint(path))):
        with pytest.raises(CheckpointError, match=r"weight norm\.weight is NaN or infinite, so this model"):
            use(folder)


def test_moments_that_no_rule_keeps_are_refused(folder: Path, tiny: Any) -> None:
    path = folder / "optimizer.safetensors"
    path.write_bytes(safetensors.torch.save({"norm.weight/momentous": torch.zeros(16)}))
    state = build(resolve(tiny(auxiliary={"enable_value": True}))).new_state()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors does not fit the model"):
        load_checkpoint(sealed(folder)).restore(state)
